"""One operator process: reflectors that keep caches warm, a queue, workers that look at jobs while this process leads, probes.

Every replica reads all the time, so that the next leader starts with full caches; only the leader writes, and each of its
writes is fenced by what is left of its lease.
"""

import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from finetune_operator import keys, kinds
from finetune_operator.caches import job_key, stores
from finetune_operator.cluster import Cluster
from finetune_operator.metrics import JobMetrics
from finetune_operator.observation import KubeRay
from finetune_operator.reconcile import Key, look
from finetune_operator.runtime.api import Api, Json, Resource
from finetune_operator.runtime.clock import Clock
from finetune_operator.runtime.controller import Controller, Requeue
from finetune_operator.runtime.lease import LeaderElector
from finetune_operator.runtime.metrics import RuntimeMetrics
from finetune_operator.runtime.reflector import Reflector
from finetune_operator.runtime.server import ProbeServer
from finetune_operator.runtime.workqueue import WorkQueue
from finetune_operator.settings import Settings

log = structlog.get_logger()

_NAME: Final = "finetunejob"
# An API server that starts serves its CRDs some seconds later: KubeRay is believed gone when it stays absent this long.
# Less than the reflector's own patience, after which it forgets the RayJobs.
_ABSENT_SECONDS: Final = 20.0
_TICK_SECONDS: Final = 0.1
# An attempt that is entered, begun and recorded.
_STEPS_AT_ONCE: Final = 2


class Process:
    """Made once, run once."""

    def __init__(self, settings: Settings, api: Api, clock: Clock, registry: CollectorRegistry, metrics: RuntimeMetrics) -> None:
        self._settings = settings
        self._clock = clock
        self._registry = registry
        self._jobs = JobMetrics(registry)
        self._known = stores()
        self._queue: WorkQueue[Key] = WorkQueue(clock, metrics.queue(_NAME))
        self._absent_since: float | None = None
        self._told: KubeRay | None = None
        identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        self._elector = LeaderElector(
            api,
            namespace=settings.operator_namespace,
            name=settings.lease_name,
            identity=identity,
            clock=clock,
            on_leading=metrics.leading(settings.lease_name),
        )
        writing = api.fenced(self._elector.seconds_to_write) if settings.leader_election else api
        self._cluster = Cluster(writing, self._known, clock, instance=identity, kuberay=self._kuberay, on_written=self._jobs.written)
        self._reflectors = {resource: self._reflector(api, resource) for resource in (kinds.FINETUNEJOBS, *kinds.CHILDREN)}
        self._controller = Controller(
            self._queue,
            self._look,
            clock=clock,
            workers=settings.concurrent_reconciles,
            name=_NAME,
            metrics=metrics.controller(_NAME),
        )

    def run(self, stop: threading.Event) -> bool:
        """Work until `stop`; False when the lease was lost, and the process has to end."""
        done = threading.Event()
        threads = [threading.Thread(target=reflector.run, args=(done,), daemon=True) for reflector in self._reflectors.values()]
        for thread in threads:
            thread.start()
        try:
            with self._probes().serving() as probes:
                log.info("serving", port=probes.port, namespaces=self._settings.namespaces or "all")
                return self._lead(stop)
        finally:
            done.set()
            for thread in threads:
                thread.join(5)

    # ---- leading

    def _lead(self, stop: threading.Event) -> bool:
        if self._settings.leader_election:
            return self._elector.run(stop, lambda: self._begin(stop), self._end)
        self._begin(stop)
        stop.wait()
        self._end()
        return True

    def _begin(self, stop: threading.Event) -> None:
        """Start the workers as soon as the caches are full: what is missing there would be made twice."""

        def start() -> None:
            while self._unready() and not stop.is_set():
                self._clock.wait(stop, _TICK_SECONDS)
            if not stop.is_set():
                log.info("working", jobs=len(self._known.jobs))
                self._controller.start()

        threading.Thread(target=start, name="start", daemon=True).start()

    def _end(self) -> None:
        self._controller.stop()

    def _look(self, key: Key) -> Requeue | None:
        """Look at one job, and at the first steps of an attempt without waiting for events."""
        with structlog.contextvars.bound_contextvars(namespace=key[0], name=key[1], attempt=None):
            decision = look(self._cluster, key, self._settings)
            for _ in range(_STEPS_AT_ONCE):
                if decision is not None and decision.at_once:
                    decision = look(self._cluster, key, self._settings)
        if decision is None or decision.requeue_after_seconds is None:
            return None
        return Requeue(decision.requeue_after_seconds)

    # ---- watching

    def _reflector(self, api: Api, resource: Resource) -> Reflector:
        is_job = resource == kinds.FINETUNEJOBS
        return Reflector(
            api,
            resource,
            store=self._known.of(resource),
            on_change=self._job_changed if is_job else self._child_changed,
            clock=self._clock,
            namespaces=self._settings.namespaces,
            label_selector="" if is_job else keys.JOB_LABEL,
            on_state=self._state_changed,
        )

    def _job_changed(self, old: Json | None, new: Json | None) -> None:
        self._jobs.seen(old, new)
        self._child_changed(old, new)

    def _child_changed(self, old: Json | None, new: Json | None) -> None:
        key = job_key(new or old or {"metadata": {}})
        if key is not None:
            self._queue.add(key)

    def _state_changed(self) -> None:
        """A kind appeared or went: what waited for that is looked at again."""
        now = self._kuberay()
        if now is self._told:
            return
        self._told = now
        log.info("KubeRay", state=now.value)
        for key in self._known.jobs.names():
            self._queue.add(key)

    def _kuberay(self) -> KubeRay:
        reflector = self._reflectors[kinds.RAYJOBS]
        if reflector.forbidden:
            return KubeRay.FORBIDDEN
        if not reflector.absent:
            self._absent_since = None
            return KubeRay.PRESENT
        now = self._clock.monotonic()
        self._absent_since = self._absent_since if self._absent_since is not None else now
        late = not reflector.synced.is_set() or now - self._absent_since >= _ABSENT_SECONDS
        return KubeRay.ABSENT if late else KubeRay.PRESENT

    # ---- probes

    def _unready(self) -> str | None:
        """What isn't known yet. A cluster without KubeRay is no reason to wait."""
        for resource, reflector in self._reflectors.items():
            excused = resource == kinds.RAYJOBS and (reflector.absent or reflector.forbidden)
            if not reflector.synced.is_set() and not excused:
                return f"{resource.plural} are not listed yet"
        return None

    def _probes(self) -> ProbeServer:
        healthy: dict[str, Callable[[], str | None]] = {
            f"watch-{resource.plural}": reflector.problem for resource, reflector in self._reflectors.items()
        }
        healthy["workers"] = self._controller.problem
        return ProbeServer(
            port=self._settings.http_port,
            host=self._settings.http_host,
            registry=self._registry,
            healthy=healthy,
            ready={"caches": self._unready},
        )
