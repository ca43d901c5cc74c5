"""Fixtures that several packages' tests use: a real S3 server, our tiny files, and the folder of real files."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from examples.demo.s3_server import S3Server, s3_server
from tests.stores import servers
from tests.stores.servers import Store

ROOT = Path(__file__).resolve().parent.parent
REAL_FILES = Path(os.environ.get("FINETUNE_TEST_DATA", ROOT.parent / "shared/data"))
BUCKET = "finetune-tests"
CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
_NOT_RUN = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests on real files where there are none; under CI that is an error."""
    _check_marks(items)
    reading = [item for item in items if item.get_closest_marker("real_data")]
    if REAL_FILES.is_dir() or not reading:
        return
    told: dict[str, int] | None = getattr(config, "workeroutput", None)
    if CI and told is None:
        raise pytest.UsageError(_line(len(reading)))
    items[:] = [item for item in items if item not in reading]
    config.hook.pytest_deselected(items=reading)
    if told is None:
        config.stash[_NOT_RUN] = len(reading)
    else:  # one of several processes: who started them says it
        told["not_run"] = len(reading)


def _check_marks(items: list[pytest.Item]) -> None:
    """`make test` finds a layer's files by the mark's text (tests/layers.py): a mark that came some other way would be run by no layer."""
    marked = {(item.path, name) for item in items for name in ("training", "control_plane", "cluster") if item.get_closest_marker(name)}
    if lost := sorted(f"{path} (mark.{name})" for path, name in marked if f"mark.{name}" not in path.read_text(encoding="utf-8")):
        raise pytest.UsageError(f"write the mark into the file itself: {', '.join(lost)}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """pytest-xdist: a process has ended, and tells what it left out. All collect the same."""
    if count := getattr(node, "workeroutput", {}).get("not_run", 0):
        node.config.stash[_NOT_RUN] = count


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI, fail for what several processes left out."""
    if CI and session.config.stash.get(_NOT_RUN, 0):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line what was left out."""
    if count := config.stash.get(_NOT_RUN, 0):
        terminalreporter.write_line(_line(count))


def _line(count: int) -> str:
    return f"not run: {count} tests that read real files (FINETUNE_TEST_DATA={REAL_FILES} not found)"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real files; only for tests marked `real_data`."""
    assert REAL_FILES.is_dir(), "mark the test with real_data"
    return REAL_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """Paths of the files that were written for tests."""

    job: Path = ROOT / "examples/tiny.yaml"
    model: Path = ROOT / "examples/tiny"
    tokenizer: Path = ROOT / "examples/tiny/tokenizer.json"
    dialogues: Path = ROOT / "tests/data/tiny_dialogues.jsonl"


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Paths of the tiny job, its model's configuration, tokenizer and dialogues."""
    return Tiny()


def make_bucket(server: S3Server, name: str) -> None:
    """What the owner of an S3 account does before a run."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=name)
    client.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server on loopback with an empty bucket BUCKET, gone with the session."""
    with tempfile.TemporaryDirectory(prefix="finetune-s3-", ignore_cleanup_errors=True) as folder, s3_server(Path(folder)) as server:
        make_bucket(server, BUCKET)
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[Store]:
    """Google Cloud Storage as fake-gcs-server has it."""
    with servers.fake_gcs() as store:
        yield store


@pytest.fixture(scope="session")
def azure() -> Iterator[Store]:
    """Azure Blob Storage as Azurite has it."""
    with servers.azurite() as store:
        yield store


@pytest.fixture(scope="session")
def moto() -> Iterator[Store]:
    """An S3 server in Python, which takes any key."""
    with servers.moto() as store:
        yield store
