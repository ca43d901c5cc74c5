"""What a machine doesn't enforce is found, and the remedy named."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import ROOT

from finetune_assistant.sandbox.limits import Limits, not_enforced, refusal

LIMITS = Limits(num_processes=4)
HELD = {
    "socket_refused": True,
    "filtered": True,
    "capabilities": [],
    "parent": 1,
    "root": ["usr", "tmp"],
    "write_refused": True,
    "writable": [],
    "unexpected_environment": [],
    "memory_refused": True,
    "disk_bytes": LIMITS.disk_bytes,
    "num_processes": 4,
    "cpu_seconds": LIMITS.cpu_seconds,
}
VISIBLE = frozenset({"usr", "tmp"})
_ASK = """
from finetune_api.errors import NoSandbox
from finetune_assistant.sandbox.run import execute
try:
    print(execute({code!r}).stdout)
except NoSandbox as error:
    print(error)
"""
_SIMPLE = "print('it ran')"
# The first process of the sandbox belongs to this user too: it may be neither ended nor looked into.
_REACHING = """
import os, signal
os.kill(1, signal.SIGINT)
os.kill(1, signal.SIGKILL)
try:
    os.listdir("/proc/1/fd")
except OSError:
    print("it ran")
"""


def asked(*before: str) -> str:
    """What a fresh process says that wants a program run, started by the words `before`."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'trainer'}:{ROOT / 'operator'}"}
    done = subprocess.run(
        [*before, sys.executable, "-c", _ASK.format(code=_SIMPLE)], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() + done.stderr.strip()


def test_all_is_well_where_every_limit_holds() -> None:
    assert not_enforced(HELD, LIMITS, VISIBLE) == []


@pytest.mark.parametrize(
    ("seen", "missing"),
    [
        ({"socket_refused": False}, "network"),
        ({"filtered": False}, "network"),
        ({"capabilities": [21]}, "privileges"),
        ({"parent": 4711}, "other processes"),
        ({"root": ["usr", "home"]}, "files outside"),
        ({"write_refused": False}, "files outside"),
        ({"writable": ["/usr/lib"]}, "files outside"),
        ({"unexpected_environment": ["HF_TOKEN"]}, "environment"),
        ({"memory_refused": False}, "memory"),
        ({"disk_bytes": 1 << 40}, "disk"),
        ({"num_processes": 9}, "number of processes"),
        ({"cpu_seconds": -1}, "time"),
    ],
)
def test_a_limit_that_does_not_hold_is_named(seen: dict[str, object], missing: str) -> None:
    [named] = not_enforced({**HELD, **seen}, LIMITS, VISIBLE)
    assert named.split(" (")[0] == missing


def test_the_setting_that_forbids_it_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/unprivileged_userns_clone").write_text("0\n", encoding="ascii")
    said = refusal("unshare: Operation not permitted", platform="linux", settings=tmp_path)
    assert said.startswith("code isn't run: unshare: Operation not permitted; kernel.unprivileged_userns_clone is 0: set it with")


def test_without_such_a_setting_kernel_and_container_are_named(tmp_path: Path) -> None:
    said = refusal("mount", platform="linux", settings=tmp_path)
    assert "Linux 5.14 or newer" in said
    assert "seccompProfile" in said


@pytest.mark.usefixtures("sandbox")
def test_where_user_namespaces_are_forbidden_nothing_runs() -> None:
    said = asked("unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh")
    assert said.startswith("code isn't run: ")
    assert "user.max_user_namespaces is 0: set it with" in said


@pytest.mark.usefixtures("sandbox")
def test_where_proc_is_partly_covered_as_in_a_pod_it_runs_without_one() -> None:
    root = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    assert asked("unshare", *root, "--mount", "sh", "-c", 'mount -t tmpfs covered /proc/sys; exec "$@"', "sh") == "it ran"


@pytest.mark.usefixtures("sandbox")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_works_for_an_ordinary_user_too() -> None:
    """Whoever runs the other tests, this one runs as nobody in particular, with code and Python that such a user can read."""
    with tempfile.TemporaryDirectory(prefix="finetune-sandbox-") as folder:
        for package in ("operator/finetune_api", "trainer/finetune_assistant"):
            shutil.copytree(ROOT / package, Path(folder) / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        code = f"import sys; sys.path.insert(0, {folder!r}); import os; assert os.getuid() == 4321\n{_ASK.format(code=_REACHING)}"
        done = subprocess.run(
            [python_for_anyone(), "-B", "-c", code],
            user=4321,
            group=4321,
            extra_groups=[],
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.strip() + done.stderr == "it ran"


def python_for_anyone() -> str:
    """This interpreter, or the system's where this one lies in somebody's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            subprocess.run([python, "-c", ""], user=4321, group=4321, extra_groups=[], env={}, check=True)
            return python
    pytest.skip("there is no Python that another user may run")


@pytest.mark.usefixtures("sandbox")
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes root, which this user can't")
def test_where_the_kernel_counts_no_processes_nothing_runs() -> None:
    said = asked("unshare", "--user", "--map-root-user")
    assert said.startswith("code isn't run: not enforced: number of processes (of root the kernel counts none: run as another user)")
