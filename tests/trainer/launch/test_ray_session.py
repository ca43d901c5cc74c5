"""finetune_trainer/launch/ray_session.py"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from finetune_trainer.launch.ray_session import _short_folder

# argv: folder of logs, limits, how often Ray hears that its raylet is not known yet, as on a machine that is busy.
SESSION = """
import itertools, os, sys
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "token"  # read when ray is imported
from ray._private import services
from finetune_api.errors import TrainingFailed
from finetune_trainer.launch.ray_session import local_ray
asked, known = services.get_node, itertools.count()
def get_node(*arguments):
    if next(known) < int(sys.argv[3]):
        raise RuntimeError("no such node")
    return asked(*arguments)
services.get_node = get_node
try:
    with local_ray(num_cpus=1, num_gpus=0, dashboard=False, logs=Path(sys.argv[1]), start_seconds=eval(sys.argv[2])):
        import ray
        answer = ray.get(ray.remote(lambda: 42).remote()), next(known), ray.get_runtime_context().get_temp_dir()
    print("answer", *answer)
except TrainingFailed as error:
    print("told", error)
"""


def session(logs: Path, start_seconds: tuple[float, ...], *, unknown: int, **environment: str) -> str:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", SESSION, str(logs), repr(start_seconds), str(unknown)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path} | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes_in(folder: str) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") if entry.name.isdecimal() else ""
        except OSError:
            continue
        found += [line] if folder in line else []
    return found


@pytest.mark.training
@pytest.mark.timeout(300)
def test_a_long_temporary_folder_and_a_slow_start_are_no_failure(tmp_path: Path) -> None:
    """TMPDIR as a batch system sets it: too long for Ray's sockets. The first start has no time at all, the second enough."""
    long = tmp_path / ("job-of-a-batch-system-" * 4)
    long.mkdir()
    out = session(tmp_path / "logs", (0.0, 120.0), unknown=3, TMPDIR=str(long))
    assert re.match(r"answer 42 [4-9] ", out), out
    folder = out.split()[-1]
    assert Path(folder).parent in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
    assert not Path(folder).exists()
    assert processes_in(folder) == []


@pytest.mark.training
@pytest.mark.timeout(300)
def test_a_start_that_is_too_slow_twice_is_told_as_that(tmp_path: Path) -> None:
    out = session(tmp_path / "logs", (0.0, 0.0), unknown=1000)
    assert out.startswith("told Ray's processes did not start within 0 s ("), out
    assert f"run the same command again; what Ray wrote is in {tmp_path}/logs" in out
    assert any((tmp_path / "logs").iterdir())


@pytest.mark.parametrize("dashboard", [False, True])
def test_ray_gets_a_folder_short_enough_for_its_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dashboard: bool) -> None:
    """A socket's path has at most 107 bytes; with a short TMPDIR, that one is taken."""
    for base in ("/tmp", "/" + "t" * 40, str(tmp_path / ("\u00e9" * 20))):
        monkeypatch.setattr(tempfile, "tempdir", base)
        folder = _short_folder(dashboard=dashboard)
        try:
            assert len(os.fsencode(f"{folder}/session_2026-11-29_10-00-00_123456_{os.getpid()}/sockets/plasma_store")) <= 107
        finally:
            os.rmdir(folder)
        assert (Path(folder).parent == Path(base)) == (base == "/tmp")
