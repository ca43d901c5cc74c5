"""When the next request may be sent: so many a minute at most, none while an endpoint asks for a pause, none after a stop.

In: calls from several threads. Out: time that passes. Requests are unknown here.
"""

import threading
import time


class Stopped(Exception):
    """Somebody asked for an end; what was under way is done or given up."""


class Pace:
    """One pace for all threads."""

    def __init__(self, requests_per_minute: float | None = None) -> None:
        """None is as fast as the endpoint answers."""
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._next = self._paused_until = 0.0
        self._ended = threading.Event()

    def wait(self) -> None:
        """Until it is this thread's turn. Raises Stopped."""
        while (left := self.take(time.monotonic())) > 0:
            self.sleep(left)
        self.sleep(0)

    def take(self, now: float) -> float:
        """Seconds from `now`, on the monotonic clock, until the next turn; 0 or less when it is now, and taken by this call."""
        with self._lock:
            left = max(self._next, self._paused_until) - now
            if left <= 0:
                self._next = now + self._interval
            return left

    def pause(self, seconds: float) -> None:
        """No request of any thread begins for so long."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """For this thread alone. Raises Stopped, also in the middle."""
        if self._ended.wait(max(0.0, seconds)):
            raise Stopped

    def stop(self) -> None:
        """End all waiting, now and later."""
        self._ended.set()
