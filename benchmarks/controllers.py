"""The controllers that are measured, each a process that a control plane stops with its own: what they are told and what they use.

Both are started as their makers ship them; what differs is ports, which have to be free, and what only a pod has.
"""

import json
import os
import shutil
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.testcluster.binaries import binaries
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.processes import free_ports

OPERATOR_NAMESPACE = "default"
RAISED_LIMITS = {"qps": 1000, "burst": 2000}
# Both renew their leases with PUT, and write nothing else so.
_OF_LEASES = "PUT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a controller has used since it started. `calls` to the API server by method, renewals of its lease left out."""

    moment: float
    cpu_seconds: float
    memory_mib: float
    peak_memory_mib: float
    calls: Counter[str]
    reconciles: int

    @property
    def writes(self) -> int:
        return self.calls.total() - self.calls["GET"]


class Controller:
    """A controller's process."""

    def __init__(self, plane: ControlPlane, name: str, pid: int, metrics_port: int) -> None:
        self._plane = plane
        self._name = name
        self._pid = pid
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self.started = time.monotonic()

    def used(self) -> Used:
        calls, reconciles = self._told()
        memory = dict(line.split(":", 1) for line in Path(f"/proc/{self._pid}/status").read_text().splitlines())
        return Used(
            moment=time.monotonic(),
            cpu_seconds=processor_seconds(self._pid),
            memory_mib=int(memory["VmRSS"].split()[0]) / 1024,
            peak_memory_mib=int(memory["VmHWM"].split()[0]) / 1024,
            calls=calls,
            reconciles=reconciles,
        )

    def settled(self, quiet_seconds: float = 1.5, *, reconciles: int = 0, seconds: float = 300) -> Used:
        """What it has used when it has written nothing for so long, after so many reconciles at least."""
        used, deadline = self.used(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(quiet_seconds)
            later = self.used()
            if later.writes == used.writes and used.reconciles >= reconciles:
                return later
            used = later
        raise RuntimeError(f"{self._name} has {used.reconciles} reconciles and {used.writes} writes after {seconds:.0f} s, and no rest")

    def stop(self) -> None:
        self._plane.processes.stop(self._name)

    def _told(self) -> tuple[Counter[str], int]:
        """Calls by method, and reconciles, from its metrics; both controllers name them alike."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._metrics, timeout=30) as answer:
                text = answer.read().decode()
        except OSError:  # it has just been started
            return Counter(), 0
        calls: Counter[str] = Counter()
        reconciles = 0
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            if sample.name == "rest_client_requests_total" and sample.labels["method"] != _OF_LEASES:
                calls[sample.labels["method"]] += int(sample.value)
            elif sample.name == "controller_runtime_reconcile_total":
                reconciles += int(sample.value)
        return calls, reconciles


def processor_seconds(pid: int) -> float:
    """What a process has used of processors."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]  # utime and stime of proc(5)
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def cluster_seconds(plane: ControlPlane) -> dict[str, float]:
    """What each program of the control plane has used of processors."""
    records = {name: plane.processes.folder / f"{name}.json" for name in ("etcd", "kube-apiserver", "kube-controller-manager")}
    return {name: processor_seconds(int(json.loads(record.read_text())["pid"])) for name, record in records.items()}


def api_server_seconds(plane: ControlPlane) -> float:
    """What the API server has used of processors."""
    return cluster_seconds(plane)["kube-apiserver"]


def ours(plane: ControlPlane, folder: Path | None) -> Controller:
    """The FineTune operator with its defaults; another version's, where `folder` has one."""
    name, (port,) = "finetune-operator", free_ports(1)
    flags = {
        "kubeconfig": plane.kubeconfig,
        "operator-namespace": OPERATOR_NAMESPACE,
        "trainer-image": "registry.example/trainer:1",
        "http-host": "127.0.0.1",
        "http-port": port,
    }
    command = [sys.executable, "-m", "finetune_operator", *(f"--{flag}={value}" for flag, value in flags.items())]
    environment = os.environ | ({"PYTHONPATH": str(folder.absolute())} if folder else {})
    return Controller(plane, name, plane.processes.start(name, command, env=environment).pid, port)


def kubeflow_trainer(plane: ControlPlane, *, raised_limits: bool) -> Controller:
    """Kubeflow Trainer with the configuration that it ships, or with a client that is allowed more calls per second.

    It insists on a certificate for webhooks, which nothing calls here: its jobs are right.
    """
    name, (metrics, webhook) = "trainer-controller-manager", free_ports(2)
    folder = plane.folder / "trainer"
    certificates = folder / "k8s-webhook-server/serving-certs"
    certificates.mkdir(parents=True)
    pair = plane.authority.issue("webhook", "webhook", hosts=["localhost"])
    shutil.copyfile(pair.certificate, certificates / "tls.crt")
    shutil.copyfile(pair.key, certificates / "tls.key")
    configuration = {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": "0"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}", "secureServing": False},
        "webhook": {"host": "127.0.0.1", "port": webhook},
        "leaderElection": {
            "leaderElect": True,
            "resourceName": "trainer.kubeflow.org",
            "resourceNamespace": OPERATOR_NAMESPACE,
            "leaseDuration": "15s",
            "renewDeadline": "10s",
            "retryPeriod": "2s",
        },
        "controller": {
            "groupKindConcurrency": {
                "TrainJob.trainer.kubeflow.org": 5,
                "TrainingRuntime.trainer.kubeflow.org": 1,
                "ClusterTrainingRuntime.trainer.kubeflow.org": 1,
            }
        },
        "certManagement": {"enable": False},
        "clientConnection": RAISED_LIMITS if raised_limits else {"qps": 50, "burst": 100},
    }
    (folder / "configuration.json").write_text(json.dumps(configuration))
    command: list[str | Path] = [binaries([name])[name], f"--config={folder / 'configuration.json'}", f"--kubeconfig={plane.kubeconfig}"]
    process = plane.processes.start(name, command, env={**os.environ, "TMPDIR": str(folder)})
    return Controller(plane, name, process.pid, metrics)
