"""The control plane that the other tests stand on: it starts, authorizes, comes back after a restart, and leaves nothing behind."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.testcluster.binaries import CONTROL_PLANE
from tests.testcluster.control_plane import ControlPlane, ExtraFlags
from tests.testcluster.control_plane import control_plane as running_control_plane
from tests.testcluster.processes import Process, ProcessFailed

pytestmark = pytest.mark.control_plane


def eventually(what: str, holds: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def listens(address: str, port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((address, port)) == 0


def may(plane: ControlPlane, kubeconfig: Path, verb: str, namespace: str) -> bool:
    """Whether this user may do this with pods."""
    try:
        return plane.kubectl("auth", "can-i", verb, "pods", "-n", namespace, kubeconfig=kubeconfig) == "yes\n"
    except RuntimeError:  # how kubectl says no
        return False


def names(processes: list[Process]) -> list[str]:
    return [process.name for process in processes]


def test_all_four_run_on_loopback(control_plane: ControlPlane) -> None:
    assert sorted(names(control_plane.processes.running())) == sorted(CONTROL_PLANE)  # another test may have started one of them again
    assert control_plane.url.startswith("https://127.0.0.1:")
    assert '"gitVersion": "v1.' in control_plane.kubectl("get", "--raw", "/version")


def test_controllers_make_the_pods_of_a_job_and_the_scheduler_sees_them(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "job", "hello", "--image=hello")
    status = "jsonpath={.items[*].status.conditions[*].reason}"
    eventually("no node for the pod", lambda: control_plane.kubectl("get", "pods", "-l", "job-name=hello", "-o", status) == "Unschedulable")
    control_plane.kubectl("delete", "job", "hello")


def test_a_user_may_do_what_rbac_grants(control_plane: ControlPlane) -> None:
    """By name, by group, and as a service account."""
    control_plane.kubectl("create", "namespace", "granted")
    control_plane.kubectl("create", "rolebinding", "readers", "-n", "granted", "--clusterrole=view", "--group=readers")
    control_plane.kubectl("create", "rolebinding", "jane", "-n", "granted", "--clusterrole=edit", "--user=jane")
    control_plane.kubectl("create", "rolebinding", "default", "-n", "granted", "--clusterrole=view", "--serviceaccount=granted:default")
    reader = control_plane.user_kubeconfig("joe", ["readers"])
    jane = control_plane.user_kubeconfig("jane")
    eventually("service account of the namespace", lambda: "default" in control_plane.kubectl("get", "sa", "-n", "granted", "-o", "name"))
    service_account = control_plane.service_account_kubeconfig("granted", "default")

    for kubeconfig in (reader, jane, service_account):
        eventually("what was granted is allowed", functools.partial(may, control_plane, kubeconfig, "get", "granted"))
        assert not may(control_plane, kubeconfig, "get", "default")
    assert may(control_plane, jane, "create", "granted")
    assert not may(control_plane, reader, "create", "granted")
    with pytest.raises(RuntimeError, match='"joe" cannot create resource "pods"'):
        control_plane.kubectl("run", "one", "--image=one", "-n", "granted", kubeconfig=reader)


def test_after_a_restart_of_the_api_server_objects_and_controllers_are_there(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "configmap", "kept")
    before = {process.name: process.pid for process in control_plane.processes.running()}
    control_plane.stop_api_server()
    assert not listens("127.0.0.1", control_plane.ports.api_server)
    control_plane.start_api_server()
    after = {process.name: process.pid for process in control_plane.processes.running()}
    assert {name for name in after if after[name] != before[name]} == {"kube-apiserver"}
    assert control_plane.kubectl("get", "configmap", "kept", "-o", "name") == "configmap/kept\n"
    control_plane.kubectl("create", "job", "afterwards", "--image=hello")
    eventually("a pod of the job", lambda: "pod/" in control_plane.kubectl("get", "pods", "-l", "job-name=afterwards", "-o", "name"))
    control_plane.kubectl("delete", "job", "afterwards")


def test_a_later_process_finds_it_by_its_folder(control_plane: ControlPlane) -> None:
    assert ControlPlane.load(control_plane.folder) == control_plane
    with pytest.raises(ValueError, match="already"):
        ControlPlane.create(control_plane.folder)


def test_a_server_that_does_not_start_is_told_with_its_log_and_the_others_end(tmp_path: Path) -> None:
    wrong = ExtraFlags(api_server=("--authorization-mode=Nobody",))
    with pytest.raises(ProcessFailed, match=r"(?s)kube-apiserver ended .*Nobody"), running_control_plane(tmp_path / "new", flags=wrong):
        pass
    assert ControlPlane.load(tmp_path / "new").processes.running() == []


def test_nothing_is_left_of_it_when_its_python_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    code = f"""
import pathlib, time
from tests.testcluster.control_plane import control_plane
with control_plane(pathlib.Path({str(folder)!r})):
    print("ready", flush=True)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as starter:
        assert starter.stdout is not None
        try:
            assert starter.stdout.readline() == "ready\n"
            plane = ControlPlane.load(folder)
            assert names(plane.processes.running()) == list(CONTROL_PLANE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                starter.send_signal(signal.SIGKILL)
    eventually("all have ended", lambda: plane.processes.running() == [], seconds=20)
    assert not listens("127.0.0.1", plane.ports.api_server)
    assert not listens("127.0.0.1", plane.ports.etcd)


def test_nothing_is_left_of_it_when_it_is_stopped(tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "new") as plane:
        pids = [process.pid for process in plane.processes.running()]
        assert len(pids) == 4
    assert plane.processes.recorded() == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
