"""Work of any thread with a deadline for the whole of it, which blocking calls don't have: theirs is one for each piece that arrives.

In: a coroutine and seconds. Out: what it returns, or TimeoutError; it is cancelled then, and what it held is let go. What it does is
unknown here.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import TypeVar

Result = TypeVar("Result")


class EventLoop:
    """A loop in a thread of its own, for several threads at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[None, None, Result], *, seconds: float | None = None) -> Result:
        """Do the work, and wait for it. Raises what it raises, and TimeoutError."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop).result()

    def close(self) -> None:
        """End it; nothing may be under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
