"""Micro-batches of a step that are read and joined while the step before it is computed. The same ones as without it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from finetune_trainer.model.micro_batch import MicroBatch

MakeStep = Callable[[int], list[MicroBatch]]


class ReadingAhead:
    """`make(step)` for one step after another, always one of them made beforehand; `steps` is where they end."""

    def __init__(self, make: MakeStep, steps: int) -> None:
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[MicroBatch]]] | None = None

    def of_step(self, step: int) -> list[MicroBatch]:
        """What `make(step)` gives, or the error that it raises."""
        ahead, self._next = self._next, None
        found = ahead[1].result() if ahead is not None and ahead[0] == step else self._make(step)
        if step + 1 < self._steps:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return found
