"""Time, injected: everything in the runtime that waits or measures asks a Clock, so that tests turn it by hand."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the runtime may know about time. Durations come from `monotonic` only; `now` is for what people read."""

    def monotonic(self) -> float: ...

    def now(self) -> datetime:
        """The wall clock, in UTC. It jumps."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Sleep until `event` is set (True) or `seconds` have passed (False)."""

    def wait_until(self, condition: threading.Condition, deadline: float | None) -> None:
        """Wait on the held `condition` until it is notified or `monotonic()` reaches `deadline`. May wake for no reason."""


def _monotonic() -> Callable[[], float]:
    """Seconds that go on counting while the machine sleeps: CLOCK_MONOTONIC stands still there, and a lease doesn't."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self.monotonic = _monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(max(seconds, 0.0))

    def wait_until(self, condition: threading.Condition, deadline: float | None) -> None:
        condition.wait(None if deadline is None else max(deadline - self.monotonic(), 0.0))
