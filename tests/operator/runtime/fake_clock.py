"""Clocks for tests, and waiting for what other threads do."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

POLL_SECONDS = 0.002
START = datetime(2026, 11, 1, tzinfo=UTC)


class FakeClock:
    """Stands still until `advance`. Waiting threads look at it every 2 ms of real time."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._wall = START
        self.sleeping: dict[str, float] = {}  # thread -> until when

    def monotonic(self) -> float:
        return self._now

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self._now - 1000.0)

    def jump(self, seconds: float) -> None:
        """The wall clock alone is set forward or back."""
        self._wall += timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        deadline = self._now + seconds
        me = threading.current_thread().name
        self.sleeping[me] = deadline
        try:
            while not event.is_set() and self._now < deadline:
                event.wait(POLL_SECONDS)
        finally:
            del self.sleeping[me]
        return event.is_set()

    def wait_until(self, condition: threading.Condition, deadline: float | None) -> None:
        if deadline is None or self._now < deadline:
            condition.wait(POLL_SECONDS)

    def asleep(self, thread: str) -> None:
        """Return when the thread of this name waits for a time still to come."""
        eventually(lambda: self.sleeping.get(thread, 0.0) > self._now)


class SkippingClock(FakeClock):
    """Every wait is over at once, as if its time had passed; what was waited for is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.advance(seconds)
        return event.wait(POLL_SECONDS)


def eventually(true: Callable[[], object], limit_seconds: float = 20) -> None:
    """Return as soon as `true()` is; fail when it isn't for so long that it never will be."""
    deadline = time.monotonic() + limit_seconds
    while not true():
        assert time.monotonic() < deadline, "this never happened"
        time.sleep(POLL_SECONDS)
