"""Keys that wait for a worker, with the semantics of client-go's work queue and two priorities, as controller-runtime's has.

A key is added any number of times and processed once; a key that is added while it is processed is processed again afterwards, never
twice at once. Keys that aren't urgent wait until none that is urgent is ready. Knows nothing of what keys mean.
"""

import heapq
import itertools
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from finetune_operator.runtime.clock import Clock

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_SECONDS: Final = 0.005
# client-go's is 1,000: after an hour without an API server that would be another quarter of an hour.
LAST_RETRY_SECONDS: Final = 60.0
MOST_DOUBLINGS: Final = 14  # 5 ms x 2^14 is beyond the last
RETRY_JITTER: Final = 0.2
# To look once too often is nothing; no clock waits for the 300 years that somebody's number may mean.
LONGEST_SECONDS: Final = 86400.0
LITTER: Final = 64


class QueueMetrics(Protocol):
    """What a queue tells of itself; see metrics.py."""

    def watch(self, depth: Callable[[], int], ages: Callable[[], Sequence[float]]) -> None: ...
    def added(self) -> None: ...
    def retried(self) -> None: ...
    def taken(self, waited_seconds: float) -> None: ...
    def finished(self, worked_seconds: float) -> None: ...


class WorkQueue(Generic[Key]):
    """Thread-safe. Its one condition is notified for every key that becomes ready and for every earlier deadline."""

    def __init__(self, clock: Clock, metrics: QueueMetrics | None = None) -> None:
        self._clock = clock
        self._metrics = metrics
        self._condition = threading.Condition()
        # Ready for a worker, in the order in which they came.
        self._urgent: OrderedDict[Key, None] = OrderedDict()
        self._patient: OrderedDict[Key, None] = OrderedDict()
        self._dirty: dict[Key, tuple[float, bool]] = {}  # needs processing -> since when, and whether that is urgent
        self._processing: dict[Key, float] = {}  # with a worker -> since when
        self._deadlines: dict[Key, tuple[float, bool]] = {}
        self._heap: list[tuple[float, int, Key]] = []  # may hold entries that self._deadlines no longer does
        self._numbers = itertools.count()  # so that keys are never compared
        self._failures: dict[Key, int] = {}
        self._shut_down = False
        if metrics:
            metrics.watch(self.__len__, self._ages)

    def __len__(self) -> int:
        """How many keys are ready for a worker."""
        with self._condition:
            self._move_due()
            return len(self._urgent) + len(self._patient)

    def _ages(self) -> list[float]:
        """For how long each key with a worker has been there."""
        with self._condition:
            now = self._clock.monotonic()
            return [now - since for since in self._processing.values()]

    @property
    def shutting_down(self) -> bool:
        return self._shut_down

    def add(self, key: Key, *, urgent: bool = True) -> None:
        """Process `key` soon; a key that waits becomes urgent when it is added so."""
        with self._condition:
            self._add(key, urgent)

    def _add(self, key: Key, urgent: bool) -> None:
        if self._shut_down:
            return
        known = self._dirty.get(key)
        if known is not None and (known[1] or not urgent):
            return
        self._dirty[key] = (known[0] if known else self._clock.monotonic(), urgent)
        if self._metrics and known is None:
            self._metrics.added()
        if key not in self._processing:
            self._make_ready(key, urgent)

    def _make_ready(self, key: Key, urgent: bool) -> None:
        self._patient.pop(key, None)
        (self._urgent if urgent else self._patient)[key] = None
        self._condition.notify()

    def add_after(self, key: Key, seconds: float) -> None:
        """Process `key` in `seconds`, and in a day at the latest; of several such wishes for a key the earliest counts.

        It isn't urgent then: an hour that has come can wait for a second.
        """
        self._add_after(key, seconds, urgent=False)

    def _add_after(self, key: Key, seconds: float, *, urgent: bool) -> None:
        with self._condition:
            if self._shut_down:
                return
            if seconds <= 0:
                self._add(key, urgent)
                return
            deadline = self._clock.monotonic() + min(seconds, LONGEST_SECONDS)
            if key in self._deadlines and deadline >= self._deadlines[key][0]:
                return
            self._deadlines[key] = (deadline, urgent)
            heapq.heappush(self._heap, (deadline, next(self._numbers), key))
            if len(self._heap) > 2 * len(self._deadlines) + LITTER:
                self._heap = [entry for entry in self._heap if entry[2] in self._deadlines and self._deadlines[entry[2]][0] == entry[0]]
                heapq.heapify(self._heap)
            if self._heap[0][0] == deadline:
                # Every waiting worker sleeps until the former first deadline: one of them might be busy when this one comes.
                self._condition.notify_all()

    def add_rate_limited(self, key: Key, at_least_seconds: float = 0.0) -> None:
        """Process `key` again after its back-off, which doubles with every call until `forget`: 5 ms to a minute, and up to 20 % more.

        It is urgent then, as it may have been before.
        """
        with self._condition:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            if self._metrics:
                self._metrics.retried()
        seconds = min(FIRST_RETRY_SECONDS * 2 ** min(failures, MOST_DOUBLINGS), LAST_RETRY_SECONDS)
        self._add_after(key, max(seconds, at_least_seconds) * (1 + random.uniform(0, RETRY_JITTER)), urgent=True)

    def forget(self, key: Key) -> None:
        """Its back-off starts anew. Doesn't take it out of the queue."""
        with self._condition:
            self._failures.pop(key, None)

    def failures(self, key: Key) -> int:
        """Calls of add_rate_limited since it was forgotten."""
        with self._condition:
            return self._failures.get(key, 0)

    def get(self, timeout: float | None = None) -> Key | None:
        """The next key, which is then the caller's until `done`; None after `timeout` seconds or when shut down.

        Unlike client-go's, a queue that is shut down gives out nothing more: what waits is found again at the next start.
        """
        give_up = None if timeout is None else self._clock.monotonic() + timeout
        with self._condition:
            while not self._shut_down:
                self._move_due()
                if self._urgent or self._patient:
                    return self._take()
                if give_up is not None and self._clock.monotonic() >= give_up:
                    return None
                first = self._heap[0][0] if self._heap else None
                deadlines = [deadline for deadline in (give_up, first) if deadline is not None]
                self._clock.wait_until(self._condition, min(deadlines, default=None))
            return None

    def _take(self) -> Key:
        key, _ = (self._urgent or self._patient).popitem(last=False)
        now = self._clock.monotonic()
        since, _ = self._dirty.pop(key)
        if self._metrics:
            self._metrics.taken(now - since)
        self._processing[key] = now
        return key

    def _move_due(self) -> None:
        """Add what is due. No thread of its own does this: who looks for work does."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            deadline, _, key = heapq.heappop(self._heap)
            wanted, urgent = self._deadlines.get(key, (None, False))
            if wanted == deadline:
                del self._deadlines[key]
                self._add(key, urgent)

    def done(self, key: Key) -> None:
        """The caller of `get` has finished with `key`."""
        with self._condition:
            started = self._processing.pop(key)
            if self._metrics:
                self._metrics.finished(self._clock.monotonic() - started)
            if key in self._dirty and not self._shut_down:
                self._make_ready(key, self._dirty[key][1])

    def shut_down(self) -> None:
        """Nothing is added or given out any more; workers that wait get None."""
        with self._condition:
            self._shut_down = True
            self._condition.notify_all()
