"""Workers: take a key from the queue, reconcile it, say when to come back.

An exception is never fatal and never lost: it is logged once with its key, and the key comes back after its back-off.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol

import structlog

from finetune_operator.runtime.clock import Clock
from finetune_operator.runtime.errors import ApiError, Conflict, NotPermitted
from finetune_operator.runtime.workqueue import Key, WorkQueue

log = structlog.get_logger()

SUCCESS, AGAIN, ERROR = "success", "requeue_after", "error"
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Requeue:
    """Reconcile again after this time even if nothing changes."""

    after_seconds: float


class ReconcileMetrics(Protocol):
    """What a controller tells of itself; see metrics.py."""

    def watch(self, workers: int, active: Callable[[], int]) -> None: ...
    def reconciled(self, result: str, seconds: float) -> None: ...
    def panicked(self) -> None: ...


class Controller(Generic[Key]):
    """`workers` threads on one queue. `reconcile(key)` is never called twice at once for a key."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        reconcile: Callable[[Key], Requeue | None],
        *,
        clock: Clock,
        workers: int = 4,
        name: str = "controller",
        metrics: ReconcileMetrics | None = None,
        foreseen: tuple[type[Exception], ...] = (),
    ) -> None:
        """`foreseen`: failures of `reconcile` beside ApiError that are no fault of the program."""
        self._queue = queue
        self._reconcile = reconcile
        self._clock = clock
        self._metrics = metrics
        self._foreseen: tuple[type[Exception], ...] = (ApiError, *foreseen)
        self._name = name
        self._busy: dict[str, tuple[Key, float]] = {}  # thread -> its key, since when
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)]
        self._started = False
        self._working = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()  # no worker is left
        if metrics:
            metrics.watch(workers, self._busy.__len__)

    def start(self) -> None:
        """Start the workers."""
        self._started = True
        self._working = len(self._threads)
        for thread in self._threads:
            thread.start()

    def stop(self, limit_seconds: float = 20) -> bool:
        """Take no more keys, wait for those under way; False if some aren't finished within the limit (they are abandoned)."""
        self._queue.shut_down()
        ended = not self._started or self._clock.wait(self._ended, limit_seconds)
        for name, (key, _) in self._busy.copy().items():
            log.warning("stopped in the middle of a reconcile", controller=self._name, key=str(key), worker=name)
        return ended

    def problem(self, limit_seconds: float = 300) -> str | None:
        """Why this process should be restarted: a worker that died or that has been at one key for `limit_seconds`; None if well."""
        now = self._clock.monotonic()
        for name, (key, since) in self._busy.copy().items():
            if now - since > limit_seconds:
                return f"{name} has been at {key} for {now - since:.0f} s"
        if self._started and not self._queue.shutting_down and self._working < len(self._threads):
            return f"{len(self._threads) - self._working} of {len(self._threads)} workers have died"
        return None

    def _work(self) -> None:
        try:
            self._take_keys()
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._ended.set()

    def _take_keys(self) -> None:
        name = threading.current_thread().name
        while not self._queue.shutting_down:
            key = self._queue.get()
            if key is None:
                continue
            self._busy[name] = (key, self._clock.monotonic())
            try:
                self._once(key)
            finally:
                del self._busy[name]
                self._queue.done(key)

    def _once(self, key: Key) -> None:
        started = self._clock.monotonic()
        try:
            requeue = self._reconcile(key)
        except Exception as error:
            self._failed(key, error)
            result = ERROR
        else:
            self._queue.forget(key)
            if requeue is not None:
                self._queue.add_after(key, requeue.after_seconds)
            result = AGAIN if requeue is not None else SUCCESS
        if self._metrics:
            self._metrics.reconciled(result, self._clock.monotonic() - started)

    def _failed(self, key: Key, error: Exception) -> None:
        """Log it, and try again later: not before the API server wants to be asked again."""
        again = log.bind(controller=self._name, key=str(key), failures=self._queue.failures(key) + 1)
        if isinstance(error, Conflict | NotPermitted):  # the cache was behind, or another process leads: no fault
            again.info("reconcile again", error=str(error))
        elif isinstance(error, self._foreseen):
            again.warning("reconcile failed", error=str(error))
        else:
            again.exception("reconcile failed")
            if self._metrics:
                self._metrics.panicked()
        after = error.retry_after_seconds if isinstance(error, ApiError) else None
        self._queue.add_rate_limited(key, min(after or 0.0, PATIENCE_SECONDS))
