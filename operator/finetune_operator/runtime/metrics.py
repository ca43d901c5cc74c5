"""Prometheus metrics of the runtime, named as controller-runtime's so that its dashboards and alerts fit.

The registry is the caller's. Labels are few and bounded: no object's name is ever one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# client-go's: 10 ns to 1,000 s, of which the first below 100 us say nothing here.
QUEUE_BUCKETS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RuntimeMetrics:
    """Made once per registry; gives queues, controllers, the API client and the elector what they report to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        queue, reconcile = ["name"], ["controller"]
        self._depth = Gauge("workqueue_depth", "Keys that wait for a worker.", queue, registry=registry)
        self._adds = Counter("workqueue_adds_total", "Keys added.", queue, registry=registry)
        self._retries = Counter("workqueue_retries_total", "Keys added again after a failure.", queue, registry=registry)
        self._waited = Histogram(
            "workqueue_queue_duration_seconds", "From add to a worker.", queue, buckets=QUEUE_BUCKETS, registry=registry
        )
        self._worked = Histogram("workqueue_work_duration_seconds", "With a worker.", queue, buckets=QUEUE_BUCKETS, registry=registry)
        self._results = Counter("controller_runtime_reconcile_total", "Reconciles by result.", ["controller", "result"], registry=registry)
        self._errors = Counter("controller_runtime_reconcile_errors_total", "Reconciles that failed.", reconcile, registry=registry)
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds", "Length of a reconcile.", reconcile, buckets=RECONCILE_BUCKETS, registry=registry
        )
        self._leading = Gauge("leader_election_master_status", "1 while this process leads.", ["name"], registry=registry)
        self._requests = Counter("rest_client_requests_total", "Calls to the API server.", ["code", "method"], registry=registry)

    def queue(self, name: str) -> "OneQueue":
        """For a WorkQueue."""
        return OneQueue(
            _depth=self._depth.labels(name),
            _adds=self._adds.labels(name),
            _retries=self._retries.labels(name),
            _waited=self._waited.labels(name),
            _worked=self._worked.labels(name),
        )

    def controller(self, name: str) -> "OneController":
        """For a Controller."""
        results = {result: self._results.labels(name, result) for result in ("success", "requeue_after", "error")}
        return OneController(_results=results, _errors=self._errors.labels(name), _seconds=self._seconds.labels(name))

    def request(self, method: str, code: str) -> None:
        """For Api.connect(observe=...)."""
        self._requests.labels(code, method).inc()

    def leading(self, name: str) -> Callable[[bool], None]:
        """For LeaderElector(on_leading=...); 0 from now on."""
        gauge = self._leading.labels(name)
        gauge.set(0)
        return lambda leading: gauge.set(int(leading))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneQueue:
    """A queue's own series."""

    _depth: Gauge
    _adds: Counter
    _retries: Counter
    _waited: Histogram
    _worked: Histogram

    def depth(self, keys: Callable[[], int]) -> None:
        self._depth.set_function(keys)

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
    _seconds: Histogram

    def reconciled(self, result: str, seconds: float) -> None:
        self._results[result].inc()
        self._seconds.observe(seconds)
        if result == "error":
            self._errors.inc()
