"""The command line as a user types it, in the tests' own process; and a Hub that it finds without being told."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.trainer.hub_server import HubServer

from finetune_cli.app import main

# (command and options, fields of spec to set with `__` for a dot) -> exit code, stdout, stderr with its words apart by one space.
Finetune = Callable[..., tuple[int, str, str]]


@pytest.fixture
def finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Finetune]:
    """Runs a command line in the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    # `finetune run` takes over signals for the life of its process, which here is the tests'.
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(*arguments: object, **changes: object) -> tuple[int, str, str]:
        capsys.readouterr()
        overrides = [word for name, value in changes.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]
        code = main([*map(str, arguments), *overrides])
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    yield run
    for number, handler in handlers:
        signal.signal(number, handler)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on loopback, at the address that huggingface_hub uses by itself. Nobody is logged in."""
    server = HubServer(multipart_bytes=4096)
    # What HF_ENDPOINT and HF_HOME would set, had they been there when the library was imported (huggingface_hub 2.4).
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()
