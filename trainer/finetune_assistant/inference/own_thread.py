"""One thread in which a model is loaded and asked, while another waits and can be interrupted.

PyTorch's libgomp gives each thread that computes a pool of its own. Once pools have more threads than there are processors, those of every
later pool sleep at each barrier instead of spinning: on two cores a small model answered at 10 tokens/s in a new thread, at 19 in the one
that had loaded it. So the thread that waits must not have computed either.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class OwnThread:
    """Does one task after the other. A process that ends doesn't wait for it."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def begin(self, task: Callable[[], Result]) -> "Future[Result]":
        """The promise of what `task` gives or raises, once those before it are done."""
        promised: Future[Result] = Future()

        def fulfil() -> None:
            try:
                promised.set_result(task())
            except BaseException as error:
                promised.set_exception(error)

        self._tasks.put(fulfil)
        return promised

    def run(self, task: Callable[[], Result]) -> Result:
        """What `task` gives or raises."""
        return self.begin(task).result()

    def _work(self) -> None:
        while True:
            self._tasks.get()()
