"""A Ray as KubeRay starts one, for the commands of pods."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples.demo.s3_server import S3Server

from finetune_trainer.launch.process_group import free_port

# A raylet has 30 s to come up, which a busy machine exceeds.
_STARTS = 4


@pytest.fixture
def ray_environment(s3: S3Server) -> Iterator[dict[str, str]]:
    """A head as KubeRay starts one, with the CPUs of two ranks, gone afterwards; the variables with which a driver finds it."""
    with ray_folder(s3) as environment, ray_node(environment, "--head", "--num-cpus=2"):
        yield environment


@pytest.fixture
def ray_cluster(s3: S3Server) -> Iterator[tuple[dict[str, str], Callable[[], "subprocess.Popen[bytes]"]]]:
    """A head that has no CPU for ranks, and a call that starts a node with that of one, as a process group; all gone afterwards."""
    with ray_folder(s3) as environment, ray_node(environment, "--head", "--num-cpus=0"), contextlib.ExitStack() as nodes:
        yield environment, lambda: nodes.enter_context(ray_node(environment, "--num-cpus=1"))


@contextlib.contextmanager
def ray_folder(s3: S3Server) -> Iterator[dict[str, str]]:
    """A folder for a Ray of this test alone; the variables of all its processes."""
    with tempfile.TemporaryDirectory(prefix="ft-ray-", ignore_cleanup_errors=True) as folder:
        yield os.environ | {
            "RAY_ADDRESS": f"127.0.0.1:{free_port()}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": folder,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }


@contextlib.contextmanager
def ray_node(environment: dict[str, str], *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`ray start`, as KubeRay has it in a pod, once it is there: what it starts is of its process group."""
    folder, address = environment["TMPDIR"], environment["RAY_ADDRESS"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1", *options]
    if "--head" in options:
        command += [f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}/ray", "--include-dashboard=false"]
    else:
        command += [f"--address={address}"]
    with tempfile.NamedTemporaryFile(dir=folder, prefix="ray-", suffix=".log") as log:
        for _ in range(_STARTS):
            node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                if _is_up(node, Path(log.name)):
                    yield node
                    return
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(node.pid, signal.SIGKILL)  # all that it started; told to stop, it takes half a minute
                node.wait()
        raise AssertionError(Path(log.name).read_text())


def _is_up(node: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Once Ray says so; False when it has given up. Who connects to a head that isn't there gives up after a minute, too."""
    while b"Ray runtime started" not in log.read_bytes():
        if node.poll() is not None:
            return False
        time.sleep(0.5)
    return True
