"""A Prometheus and a kube-state-metrics of a test's own, which watch operators on a real API server.

Prometheus is Debian's. Time runs faster for it: it scrapes twice a second, and what alerts wait for is `HURRY` times shorter.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.conftest import CI, ROOT
from tests.control_plane.operators import Operator
from tests.control_plane.played import eventually
from tests.control_plane.scraping import asked, port_of
from tests.testcluster.binaries import binaries

HURRY: Final = 120
NAMESPACE: Final = "finetune-system"
ALERTS: Final = ROOT / "charts/finetune-operator/files/alerts.yaml"
_VALUES: Final = ROOT / "manifests/kube-state-metrics.yaml"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def hurried(text: str, factor: int = HURRY) -> str:
    """Rules whose durations (ranges and `for`) are that much shorter.

    >>> hurried("rate(x[10m]) > 5 for: 1h", 60)
    'rate(x[10000ms]) > 5 for: 60000ms'
    """
    return re.sub(r"(?<=\[)(\d+)([smhd])(?=\])|(?<=for: )(\d+)([smhd])", lambda found: _shorter(found, factor), text)


def _shorter(found: "re.Match[str]", factor: int) -> str:
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return f"{int(number) * _SECONDS[unit] * 1000 // factor}ms"


def alerts_of(group: str) -> set[str]:
    """Names of all alerts of a group."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"] for found in groups if found["name"] == group for rule in found["rules"]}


@dataclass(frozen=True, slots=True)
class Series:
    """One of the series that a query gives, now."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """One that runs."""

    def __init__(self, port: int, targets: Path, log: Path) -> None:
        self.port = port
        self.log = log
        self._targets = targets

    def watch(self, operators: Sequence[Operator]) -> None:
        """Scrape these, as pods of one Deployment."""
        found = [
            {"targets": [f"127.0.0.1:{port_of(operator)}"], "labels": {"namespace": NAMESPACE, "pod": f"operator-{number}"}}
            for number, operator in enumerate(operators)
        ]
        unfinished = self._targets.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(self._targets)

    def ask(self, query: str, at: float | None = None) -> list[Series]:
        """What the query gives now, or gave at a time. A query that is refused fails the test with Prometheus' words."""
        wish = {"query": query} | ({"time": f"{at:.3f}"} if at is not None else {})
        answer = self._get("query", wish)
        assert answer["status"] == "success", f"{query}: {answer}"
        result = answer["data"]["result"]
        if answer["data"]["resultType"] == "scalar":
            return [Series({}, float(result[1]))]
        return [Series({k: v for k, v in item["metric"].items() if k != "__name__"}, float(item["value"][1])) for item in result]

    def alerts(self) -> set[tuple[str, str]]:
        """Names of what fires, each with the job's."""
        return {(s.labels["alertname"], s.labels.get("name", "")) for s in self.ask('ALERTS{alertstate="firing"}')}

    def _get(self, what: str, wish: dict[str, str]) -> Any:
        text = asked(self.port, f"/api/v1/{what}?{urllib.parse.urlencode(wish)}")
        assert text, f"Prometheus doesn't answer:\n{self.log.read_text()[-3000:]}"
        return json.loads(text)


@contextlib.contextmanager
def prometheus(folder: Path, state_metrics: int) -> Iterator[Prometheus]:
    """Started; operators are given to it with `watch`. `state_metrics` is the port of kube-state-metrics."""
    program = installed("prometheus")
    folder.mkdir(parents=True)
    targets, log = folder / "operators.json", folder / "prometheus.log"
    targets.write_text("[]")
    (folder / "alerts.yaml").write_text(hurried(ALERTS.read_text(encoding="utf-8")))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": "finetune-operator", "file_sd_configs": [{"files": [targets.name], "refresh_interval": "1s"}]},
            {"job_name": "kube-state-metrics", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{state_metrics}"]}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
    options = {"config.file": "prometheus.yaml", "storage.tsdb.path": "data", "web.listen-address": f"127.0.0.1:{port}"}
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    with _running(command, folder, log):
        found = Prometheus(port, targets, log)
        eventually("Prometheus is ready", lambda: asked(port, "/-/ready"), say=log.read_text)
        yield found


def installed(program: str) -> str:
    """Path of a program of Debian's package prometheus. Its tests are left out on a machine without it, and fail in CI."""
    found = shutil.which(program)
    if found is None and not CI:
        pytest.skip(f"needs {program}: Debian's package prometheus")
    assert found is not None, f"there is no {program}; install Debian's package prometheus"
    return found


@contextlib.contextmanager
def kube_state_metrics(folder: Path, kubeconfig: Path, port: int, namespace: str) -> Iterator[None]:
    """Started with our file, and nothing else to tell of."""
    folder.mkdir(parents=True)
    values = yaml.safe_load(_VALUES.read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump(values["customResourceState"]["config"]))
    [telemetry] = free_ports(1)
    options = {
        "kubeconfig": kubeconfig,
        "custom-resource-state-config-file": folder / "config.yaml",
        "custom-resource-state-only": "true",
        "namespaces": namespace,
        "host": "127.0.0.1",
        "port": port,
        "telemetry-host": "127.0.0.1",
        "telemetry-port": telemetry,
    }
    command = [str(binaries(["kube-state-metrics"])["kube-state-metrics"]), *(f"--{name}={value}" for name, value in options.items())]
    log = folder / "kube-state-metrics.log"
    with _running(command, folder, log):
        # Without a job it tells nothing; its log says that it has found the kind.
        eventually("kube-state-metrics has found the kind", lambda: "discovery finished" in log.read_text(), say=log.read_text)
        yield


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
