"""Where no test cluster can be made, which is said before anything starts; no cluster is needed for that."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.conftest import ROOT
from tests.testcluster.host_python import hidden_folders

from finetune_operator import keys


@pytest.fixture
def clone_below_tmp() -> Iterator[Path]:
    """The sources that a start reads."""
    with TemporaryDirectory(dir=keys.TEMPORARY_FOLDER) as folder:
        for name in ("operator", "trainer", "tests", "examples"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__", "go"))
        yield Path(folder)


def _run(folder: Path, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(str(folder / name) for name in ("operator", "trainer", "."))
    environment = {**os.environ, "PYTHONPATH": paths, "FINETUNE_TEST_KUBECONFIG": "", "PATH": "", "CI": "", **changes}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_try_out_cluster_from_a_clone_below_tmp_is_refused_with_the_remedy(clone_below_tmp: Path) -> None:
    done = _run(clone_below_tmp, "tests.testcluster", "up", "--folder", str(clone_below_tmp / "cluster"))
    assert done.returncode == 1
    assert f"a job's pods mount volumes of their own over /tmp, where {clone_below_tmp}/examples is" in done.stderr
    assert "clone it elsewhere, below your home folder for one" in done.stderr
    assert not (clone_below_tmp / "cluster").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the layer isn't run at all")
@pytest.mark.parametrize("ci", ["", "true"])
def test_the_cluster_tests_of_a_clone_below_tmp_are_not_run(clone_below_tmp: Path, ci: str) -> None:
    done = _run(clone_below_tmp, "tests.layers", "cluster", CI=ci)
    told = f"== cluster: not run, it needs a checkout elsewhere: pods mount a volume of their own over {clone_below_tmp}/examples"
    assert done.stdout.splitlines()[0] == told
    assert done.returncode == (1 if ci else 0)


def test_every_folder_that_pods_mount_over_hides_what_is_below_it_and_nothing_else() -> None:
    hidden = [Path("/tmp/clone/trainer"), Path("/tmp"), Path("/dev/shm/x"), Path("/var/lib/finetune/python")]
    seen = [Path("/home/ann/tmp/clone"), Path("/usr"), Path("/var/lib/other"), Path("/tmpfs/clone")]
    assert hidden_folders([*hidden, *seen]) == hidden
