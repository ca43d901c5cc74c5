"""Prometheus metrics of the runtime: controller-runtime's names and labels, all of them, so that its dashboards and alerts fit.

The registry is the caller's. Labels are few and bounded: no object's name is ever one. What this runtime doesn't know, such as a
reconcile's own time limit, is there and stays 0, as in a program of controller-runtime that doesn't use it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

# client-go's: 10 ns to 1,000 s, of which the first below 100 us say nothing here.
QUEUE_BUCKETS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RESULTS: Final = ("success", "requeue", "requeue_after", "error")


class RuntimeMetrics:
    """Made once per registry; gives queues, controllers, the API client and the elector what they report to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # A controller's queue has its name, which controller-runtime says twice.
        queue, reconcile = ["name", "controller"], ["controller"]
        self._depth = Gauge("workqueue_depth", "Keys that wait for a worker.", queue, registry=registry)
        self._adds = Counter("workqueue_adds_total", "Keys added.", queue, registry=registry)
        self._retries = Counter("workqueue_retries_total", "Keys added again after a failure.", queue, registry=registry)
        self._waited = Histogram(
            "workqueue_queue_duration_seconds", "From add to a worker.", queue, buckets=QUEUE_BUCKETS, registry=registry
        )
        self._worked = Histogram("workqueue_work_duration_seconds", "With a worker.", queue, buckets=QUEUE_BUCKETS, registry=registry)
        self._unfinished = Gauge(
            "workqueue_unfinished_work_seconds", "For how long all keys with a worker have been there, added up.", queue, registry=registry
        )
        self._longest = Gauge(
            "workqueue_longest_running_processor_seconds", "For how long the oldest key has been with its worker.", queue, registry=registry
        )
        self._results = Counter("controller_runtime_reconcile_total", "Reconciles by result.", ["controller", "result"], registry=registry)
        self._errors = Counter("controller_runtime_reconcile_errors_total", "Reconciles that failed.", reconcile, registry=registry)
        self._panics = Counter(
            "controller_runtime_reconcile_panics_total", "Reconciles that failed by a fault of the operator.", reconcile, registry=registry
        )
        self._terminal = Counter(
            "controller_runtime_terminal_reconcile_errors_total", "0: every failure is tried again.", reconcile, registry=registry
        )
        self._timeouts = Counter(
            "controller_runtime_reconcile_timeouts_total", "0: calls have time limits, reconciles don't.", reconcile, registry=registry
        )
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds", "Length of a reconcile.", reconcile, buckets=RECONCILE_BUCKETS, registry=registry
        )
        self._workers = Gauge("controller_runtime_max_concurrent_reconciles", "Workers.", reconcile, registry=registry)
        self._active = Gauge("controller_runtime_active_workers", "Workers that have a key.", reconcile, registry=registry)
        self._leading = Gauge("leader_election_master_status", "1 while this process leads.", ["name"], registry=registry)
        self._slow = Counter(
            "leader_election_slowpath_total", "0: a renewal reads the lease only when its write failed.", ["name"], registry=registry
        )
        self._requests = Counter("rest_client_requests_total", "Calls to the API server.", ["code", "method", "host"], registry=registry)
        ProcessCollector(registry=registry)

    def queue(self, name: str) -> "OneQueue":
        """For a WorkQueue."""
        return OneQueue(
            _depth=self._depth.labels(name, name),
            _adds=self._adds.labels(name, name),
            _retries=self._retries.labels(name, name),
            _waited=self._waited.labels(name, name),
            _worked=self._worked.labels(name, name),
            _unfinished=self._unfinished.labels(name, name),
            _longest=self._longest.labels(name, name),
        )

    def controller(self, name: str) -> "OneController":
        """For a Controller."""
        for family in (self._terminal, self._timeouts):
            family.labels(name)
        return OneController(
            _results={result: self._results.labels(name, result) for result in RESULTS},
            _errors=self._errors.labels(name),
            _panics=self._panics.labels(name),
            _seconds=self._seconds.labels(name),
            _workers=self._workers.labels(name),
            _active=self._active.labels(name),
        )

    def request(self, method: str, code: str, host: str) -> None:
        """For Api.connect(observe=...)."""
        self._requests.labels(code, method, host).inc()

    def leading(self, name: str) -> Callable[[bool], None]:
        """For LeaderElector(on_leading=...); 0 from now on."""
        gauge = self._leading.labels(name)
        gauge.set(0)
        self._slow.labels(name)
        return lambda leading: gauge.set(int(leading))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneQueue:
    """A queue's own series."""

    _depth: Gauge
    _adds: Counter
    _retries: Counter
    _waited: Histogram
    _worked: Histogram
    _unfinished: Gauge
    _longest: Gauge

    def watch(self, depth: Callable[[], int], ages: Callable[[], Sequence[float]]) -> None:
        """`depth`: keys that are ready; `ages`: for how many seconds each key with a worker has been there."""
        self._depth.set_function(depth)
        self._unfinished.set_function(lambda: sum(ages()))
        self._longest.set_function(lambda: max(ages(), default=0.0))

    def added(self) -> None:
        self._adds.inc()

    def retried(self) -> None:
        self._retries.inc()

    def taken(self, waited_seconds: float) -> None:
        self._waited.observe(waited_seconds)

    def finished(self, worked_seconds: float) -> None:
        self._worked.observe(worked_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneController:
    """A controller's own series."""

    _results: dict[str, Counter]
    _errors: Counter
    _panics: Counter
    _seconds: Histogram
    _workers: Gauge
    _active: Gauge

    def watch(self, workers: int, active: Callable[[], int]) -> None:
        """`active`: how many of the workers have a key."""
        self._workers.set(workers)
        self._active.set_function(active)

    def reconciled(self, result: str, seconds: float) -> None:
        self._results[result].inc()
        self._seconds.observe(seconds)
        if result == "error":
            self._errors.inc()

    def panicked(self) -> None:
        self._panics.inc()
