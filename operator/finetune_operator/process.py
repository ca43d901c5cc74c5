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

from finetune_api.status import UnreadableStatus
from finetune_operator import keys, kinds
from finetune_operator.caches import job_key, stores
from finetune_operator.cluster import Cluster
from finetune_operator.metrics import JobMetrics
from finetune_operator.observation import KubeRay
from finetune_operator.reconcile import Key, reconcile_once
from finetune_operator.runtime.api import Api, Json, Resource
from finetune_operator.runtime.clock import Clock
from finetune_operator.runtime.controller import Controller, Requeue
from finetune_operator.runtime.lease import LeaderElector
from finetune_operator.runtime.metrics import RuntimeMetrics
from finetune_operator.runtime.reflector import Reflector
from finetune_operator.runtime.server import ProbeServer
from finetune_operator.runtime.workqueue import WorkQueue
from finetune_operator.settings import Settings
from finetune_operator.urgency import Urgency, of_job, of_report

log = structlog.get_logger()

_NAME: Final = "finetunejob"
# An API server that starts serves its CRDs some seconds later: KubeRay is believed gone when it stays absent this long.
# Less than the reflector's own patience, after which it forgets the RayJobs.
_ABSENT_SECONDS: Final = 20.0
# When to look again at a job whose namespace isn't readable; that it has become so is noticed by itself.
_UNREADABLE_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.1
# Progress of a job is written this often at most: of a thousand jobs that report every ten seconds, 33 statuses a second.
PROGRESS_SECONDS: Final = 30.0
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
        self._leads = False
        self._looked: dict[Key, float] = {}  # when each job was last looked at
        self._states = threading.Lock()
        self._absent_since: float | None = None
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
        self._cluster = Cluster(
            writing,
            self._known,
            clock,
            instance=identity,
            kuberay=self._kuberay,
            on_written=self._jobs.written,
            defaults=settings.job_defaults,
        )
        self._reflectors = {resource: self._reflector(api, resource) for resource in (kinds.FINETUNEJOBS, *kinds.CHILDREN)}
        self._controller = Controller(
            self._queue,
            self._look,
            clock=clock,
            workers=settings.concurrent_reconciles,
            name=_NAME,
            metrics=metrics.controller(_NAME),
            # Told in an event and by a metric of its own.
            foreseen=(UnreadableStatus,),
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
                self._leads = True  # from now on what changes is looked at; all that there was is looked at first
                for key in self._known.jobs.names():
                    self._queue.add(key, urgent=False)  # what changes from now on comes first
                self._controller.start()

        threading.Thread(target=start, name="start", daemon=True).start()

    def _end(self) -> None:
        self._controller.stop()

    def _look(self, key: Key) -> Requeue | None:
        """Look at one job, and at the first steps of an attempt without waiting for events."""
        if self._unlisted(key[0]):
            return Requeue(_UNREADABLE_SECONDS)
        self._looked[key] = self._clock.monotonic()
        with structlog.contextvars.bound_contextvars(namespace=key[0], name=key[1], attempt=None):
            try:
                decision = reconcile_once(self._cluster, key, self._settings)
            except UnreadableStatus:
                self._jobs.read(key, readable=False)
                raise
            self._jobs.read(key, readable=True)
            for _ in range(_STEPS_AT_ONCE):
                if decision is not None and decision.at_once:
                    decision = reconcile_once(self._cluster, key, self._settings)
        if decision is None:
            self._looked.pop(key, None)
        if decision is None or decision.requeue_after_seconds is None:
            return None
        return Requeue(decision.requeue_after_seconds)

    # ---- watching

    def _reflector(self, api: Api, resource: Resource) -> Reflector:
        is_job = resource == kinds.FINETUNEJOBS
        changed = {kinds.FINETUNEJOBS: self._job_changed, kinds.FINETUNEREPORTS: self._report_changed}.get(resource, self._child_changed)
        return Reflector(
            api,
            resource,
            store=self._known.of(resource),
            on_change=changed,
            clock=self._clock,
            namespaces=self._settings.namespaces,
            label_selector="" if is_job else keys.JOB_LABEL,
            on_state=self._state_changed,
        )

    def _job_changed(self, old: Json | None, new: Json | None) -> None:
        self._jobs.seen(old, new)
        if new is not None:
            self._cluster.caught_up((new["metadata"]["namespace"], new["metadata"]["name"]), new["metadata"]["resourceVersion"])
        if of_job(old, new) is Urgency.NOW:
            self._child_changed(old, new)

    def _report_changed(self, old: Json | None, new: Json | None) -> None:
        """Progress waits until the job's last look is so long ago."""
        key = job_key(new or old or {"metadata": {}})
        if of_report(old, new) is Urgency.NOW:
            self._child_changed(old, new)
        elif key is not None and self._leads:
            waited = self._clock.monotonic() - self._looked.get(key, 0.0)
            self._queue.add_after(key, PROGRESS_SECONDS - waited)

    def _child_changed(self, old: Json | None, new: Json | None) -> None:
        key = job_key(new or old or {"metadata": {}})
        if key is not None and self._leads:
            self._queue.add(key)

    def _state_changed(self) -> None:
        """A kind appeared or went, or may be read or no longer: every job is looked at again, and once more when KubeRay is believed gone.

        This is rare, and what jobs were told in between isn't known here.
        """
        with self._states:  # two reflectors may tell at once, and the later one must not go by what the earlier one saw
            absent = self._reflectors[kinds.RAYJOBS].absent
            if absent is not (self._absent_since is not None):
                self._absent_since = self._clock.monotonic() if absent else None
                log.info("KubeRay", absent=absent)
        for key in self._known.jobs.names() if self._leads else ():
            self._queue.add(key, urgent=False)
            if absent:
                self._queue.add_after(key, _ABSENT_SECONDS)

    def _kuberay(self, namespace: str) -> KubeRay:
        """What a job of that namespace finds."""
        reflector, since = self._reflectors[kinds.RAYJOBS], self._absent_since
        if reflector.forbidden_in(namespace):
            return KubeRay.FORBIDDEN
        if not reflector.absent:
            return KubeRay.PRESENT
        late = not reflector.listed_in(namespace) or (since is not None and self._clock.monotonic() - since >= _ABSENT_SECONDS)
        return KubeRay.ABSENT if late else KubeRay.PRESENT

    # ---- probes

    def _unready(self) -> str | None:
        """What isn't known yet. A cluster without KubeRay is no reason to wait, nor is one of several namespaces that we may not read."""
        for resource, reflector in self._reflectors.items():
            if not (reflector.asked if resource == kinds.RAYJOBS else reflector.listed):
                return f"{resource.plural} are not listed yet"
        return None

    def _unlisted(self, namespace: str) -> bool:
        """Whether something of that namespace's jobs was never listed: what is missing there would be taken for gone."""
        needed = (reflector for resource, reflector in self._reflectors.items() if resource != kinds.RAYJOBS)
        return not all(reflector.listed_in(namespace) for reflector in needed)

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
