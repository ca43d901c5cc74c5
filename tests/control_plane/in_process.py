"""A whole operator inside the test's process: the real one, with a clock that the test sets and patience that a test has."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.operator import builders

from finetune_operator.process import Process
from finetune_operator.runtime.api import Api, Resource, Watch
from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.metrics import RuntimeMetrics

# A watch that is silent for longer is given up: instead of 90 s, and still longer than a watch has to live to be a working one.
SILENCE_SECONDS = 11.0
TIMEOUT_SECONDS = 3.0


class SetClock(SystemClock):
    """The machine's clock, whose wall clock a test sets forward and back."""

    def __init__(self) -> None:
        super().__init__()
        self._offset = timedelta()

    def now(self) -> datetime:
        return super().now() + self._offset

    def jump(self, hours: float) -> None:
        self._offset += timedelta(hours=hours)


class ImpatientApi(Api):
    """Gives silent watches up early."""

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout_seconds: float = 240,
        read_timeout_seconds: float = 90,
        from_the_beginning: bool = False,
    ) -> Watch:
        return super().watch(
            resource,
            namespace,
            resource_version,
            label_selector=label_selector,
            timeout_seconds=timeout_seconds,
            read_timeout_seconds=SILENCE_SECONDS,
            from_the_beginning=from_the_beginning,
        )


@dataclass(slots=True, kw_only=True)
class Inside:
    """One that works. `kept` is said when it has ended: False if it lost its lease."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    kept: bool | None = None

    @property
    def looks(self) -> int:
        """How often a job was looked at without an error."""
        results = ("success", "requeue_after")
        found = (self._value("controller_runtime_reconcile_total", controller="finetunejob", result=result) for result in results)
        return int(sum(found))

    @property
    def leads(self) -> bool:
        return self._value("leader_election_master_status", name="finetune-operator") == 1

    def _value(self, series: str, **labels: str) -> float:
        return self.registry.get_sample_value(series, labels) or 0.0


@contextmanager
def operating(
    kubeconfig: Path, namespace: str, *, clock: SystemClock | None = None, leader_election: bool = True, impatient: bool = False
) -> Iterator[Inside]:
    """An operator for one namespace, from start to graceful end. `impatient`: calls and watches are given up early."""
    inside, clock, stop = Inside(), clock or SystemClock(), threading.Event()
    metrics = RuntimeMetrics(inside.registry)
    settings = builders.settings(
        trainer_image="trainer:1",
        operator_namespace=namespace,
        namespaces=(namespace,),
        leader_election=leader_election,
        http_host="127.0.0.1",
        http_port=0,
    )
    kind, seconds = (ImpatientApi, TIMEOUT_SECONDS) if impatient else (Api, 30.0)
    api = kind.connect(kubeconfig, user_agent="test", timeout_seconds=seconds, observe=metrics.request, clock=clock)
    process = Process(settings, api, clock, inside.registry, metrics)

    def work() -> None:
        inside.kept = process.run(stop)

    thread = threading.Thread(target=work, name="operator")
    thread.start()
    try:
        yield inside
    finally:
        stop.set()
        thread.join(60)
        api.close()
    assert not thread.is_alive()
