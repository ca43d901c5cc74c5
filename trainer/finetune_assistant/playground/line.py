"""A line of those who want the same thing, first come, first served.

In: threads. Out: whose turn it is, and how many stand before the others. What they wait for is unknown here.
"""

import threading
from collections import deque


class Line:
    """One line. Whoever enters must leave, however its turn ends."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._waiting: deque[object] = deque()

    def enter(self) -> object:
        """A ticket at the end of the line."""
        ticket = object()
        with self._moved:
            self._waiting.append(ticket)
        return ticket

    def before(self, ticket: object, *, seconds: float = 0.0) -> int:
        """How many stand before `ticket`; 0: it is its turn. Waits for that, `seconds` at most."""
        with self._moved:
            self._moved.wait_for(lambda: self._waiting[0] is ticket, timeout=seconds)
            return self._waiting.index(ticket)

    def leave(self, ticket: object) -> None:
        """Whether it had its turn or not."""
        with self._moved:
            self._waiting.remove(ticket)
            self._moved.notify_all()
