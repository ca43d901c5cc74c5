"""A checkpoint that is written while training goes on: it holds the state of its step, to the last bit."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.gpu import speed
from tests.gpu.measure import BF16, Measure, losses, state
from tests.gpu.training import Sizes, random_row

from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.training.engine_snapshot import snapshot_of
from finetune_trainer.training.plain_engine import PlainEngine
from finetune_trainer.training.saving import Saver


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A copy of a state of `nbytes`. Seconds: while the loop waits for it; of asking for it alone; until it was whole, with a step."""

    nbytes: int
    waiting: float
    asking: float
    whole: float
    step: float
    """Of a step without a copy."""


class _Held(DirectoryStorage):
    """A folder that takes nothing in until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.free = threading.Event()

    def put_stream(self, key: str, blocks: Any) -> int:
        assert self.free.wait(timeout=120.0), "training has gone on by now"
        return super().put_stream(key, blocks)


class _OneRank:
    """What one rank tells itself."""

    rank = 0

    def from_first(self, ask: Callable[[], Any]) -> Any:
        return ask()

    def gathered(self, value: Any) -> list[Any]:
        return [value]


def overlapped(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Two checkpoints, the second in the first one's buffers. Two steps are made while each waits to be written."""
    trained, rows = speed.engine(sizes, device, BF16, seed=0), [random_row(sizes, seed) for seed in range(6)]
    with TemporaryDirectory() as folder:
        storage = _Held(Path(folder))
        store = CheckpointStore(storage, identity="gpu", job="gpu").claimed()
        saver = _saver(trained, store)
        losses(trained, rows[:2])
        for step in (2, 4):
            right = state(trained)
            saver.begin(step, {})
            losses(trained, rows[step : step + 2])
            storage.free.set()
            done = saver.settle()
            storage.free.clear()
            assert done is not None
            assert done.manifest is not None, done.problem
            moved = sum(bool((one != right[key]).any()) for key, one in state(trained).items())
            assert moved, "training has gone on"
            with store.reader(store.open(step)) as reader:
                differ = sum(
                    int((torch.from_numpy(reader.read(kind, name, 0, one.numel())) != one).sum()) for (kind, name), one in right.items()
                )
            name = f"checkpoint of step {step}, written after step {step + 2}: elements of another step"
            yield Measure(name=name, error=differ, tolerance=0)


def copied(device: torch.device, sizes: Sizes) -> Copied:
    """The second copy of an engine's state: the first one makes room."""
    trained, row = speed.engine(sizes, device, BF16, seed=0), random_row(sizes, 0)
    losses(trained, [row, row])
    snapshot = snapshot_of(trained, _told)
    snapshot.take()
    for _ in snapshot.pieces():
        pass
    marks = [time.perf_counter()]
    for _ in snapshot.live():
        pass
    marks.append(time.perf_counter())
    losses(trained, [row])  # ends with a number on the host: nothing is left to compute
    marks.append(time.perf_counter())
    snapshot.take()
    marks.append(time.perf_counter())
    losses(trained, [row])
    next(snapshot.pieces())
    marks.append(time.perf_counter())
    return Copied(
        nbytes=snapshot.nbytes,
        waiting=marks[1] - marks[0],
        step=marks[2] - marks[1],
        asking=marks[3] - marks[2],
        whole=marks[4] - marks[2],
    )


def _told(text: str) -> None:
    """Not to stdout, which is the page."""
    print(text, file=sys.stderr)


def _saver(trained: PlainEngine, store: CheckpointStore) -> Saver:
    return Saver(
        store=store,
        ranks=_OneRank(),
        snapshot=snapshot_of(trained, _told),
        state_bytes=lambda: 0,
        free_bytes=lambda: None,
        prune=list,
        notice=_told,
        signs=lambda text: None,
    )
