"""A rank's checkpoints: its state is copied to host memory, and written to storage while training goes on.

In: the engine's pieces at a step. Out: an object of each rank and, once all ranks have written theirs, the manifest that makes them a
checkpoint. One is under way at a time. What fails is told, and the loop decides when the next one is tried; only a claim that another
attempt took is raised. Every method that says so is collective.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from finetune_api.errors import FineTuneError, RunConflict
from finetune_trainer.checkpoints.columns import COLUMNS
from finetune_trainer.checkpoints.manifest import Manifest, PartRecord
from finetune_trainer.checkpoints.store import CheckpointStore, Piece
from finetune_trainer.training.snapshot import Snapshot

Result = TypeVar("Result")
Word = Literal["nothing", "writing", "written", "failed"]

# Of the memory that is free, so much may go to copies.
_MOST_OF_FREE_MEMORY: Final = 0.8
_SIGN_SECONDS: Final = 1.0
# A checkpoint that is under way for longer is told.
_LATE_SECONDS: Final = 600.0


class Collective(Protocol):
    """What the ranks tell one another."""

    rank: int

    def from_first(self, ask: Callable[[], Any]) -> Any: ...
    def gathered(self, value: Any) -> list[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What became of a checkpoint; `problem` says why there is none."""

    step: int
    manifest: Manifest | None
    problem: str = ""
    blocked_seconds: float
    """For which training waited."""
    write_seconds: float
    """From its moment to its commit."""


@dataclass(slots=True, kw_only=True)
class _Current:
    """The checkpoint under way; `writing` becomes this rank's part, `commit` the manifest, on rank 0 alone."""

    step: int
    extra: Mapping[str, Any]
    began: float
    writing: "Future[PartRecord]"
    commit: "Future[tuple[Manifest, list[str]]] | None" = None
    chunks: int = 0
    """That have been made: a sign that it gets on."""
    blocked_seconds: float | None = None
    """None: for as long as it takes."""
    late: bool = False

    def seconds(self) -> tuple[float, float]:
        """Since its moment, and for how many of them training waited."""
        since = time.monotonic() - self.began
        return since, since if self.blocked_seconds is None else self.blocked_seconds


@dataclass(slots=True, kw_only=True)
class Saver:
    """Saves the state of one rank.

    `snapshot`: of this rank's state; its bytes are `state_bytes`. `free_bytes`: host memory that this rank may use; None is unknown.
    `columns`: in which a copy lies, one where ranks cut between tensors. `prune`: on rank 0 after a commit, in another thread; it returns
    what to tell of older ones. `notice` hears what a person should know.
    """

    store: CheckpointStore
    ranks: Collective
    snapshot: Snapshot
    state_bytes: Callable[[], int]
    free_bytes: Callable[[], int | None]
    prune: Callable[[], list[str]]
    notice: Callable[[str], None]
    signs: Callable[[str], None]
    columns: int = COLUMNS
    _copies: bool | None = None
    _current: _Current | None = None

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is being written or, on rank 0, committed."""
        return self._current is not None

    @property
    def word(self) -> Word:
        """How far this rank is with writing its part."""
        current = self._current
        if current is None or current.commit is not None:
            return "nothing"
        if not current.writing.done():
            return "writing"
        return "written" if current.writing.exception() is None else "failed"

    def begin(self, step: int, extra: Mapping[str, Any]) -> Saved | None:
        """Collective. Copy the state after `step` steps and begin to write it; what became of the one before, if it was under way.

        Where memory is too short for a copy, training waits until it is written.
        """
        began = time.monotonic()
        before = self.settle()
        if self._copies is None:
            self._copies = self._fits()
        if self._copies:
            self.snapshot.take()
            self._write(step, extra, began, self.snapshot.pieces, columns=self.columns)
        else:
            self._write(step, extra, began, self.snapshot.live, columns=1)
            self._wait(lambda current: current.writing)
        assert self._current is not None
        self._current.blocked_seconds = time.monotonic() - began
        return before

    def take_up(self, words: list[Word]) -> Saved | None:
        """Collective, with every rank's `word`: go on with the checkpoint under way. What became of it, where that is known by now.

        A commit is known on rank 0 alone. Raises RunConflict where another attempt has taken over.
        """
        current = self._current
        if current is None:
            return None
        if current.commit is not None:
            return self._committed(current) if current.commit.done() else None
        if "writing" in words:
            self._tell_late(current)
            return None
        if "failed" in words:
            return self._failed(current)
        parts = self.ranks.gathered(current.writing.result().to_json())
        if self.ranks.rank != 0:
            self._current = None
            return None
        current.commit = Future()
        _run(current.commit, lambda: self._commit(current, [PartRecord.from_json(part) for part in parts]))
        return None

    def settle(self) -> Saved | None:
        """Collective. Wait until no checkpoint is under way; what became of it, where that is known: on rank 0 always."""
        # Rank 0 alone knows of a commit, the others of their parts.
        self._wait(lambda current: current.commit or current.writing)
        saved = self.take_up(self.ranks.gathered(self.word))
        if saved is None and self._current is not None:
            self._wait(lambda current: current.commit or current.writing)
            saved = self._committed(self._current)
        return saved

    def save(self, step: int, extra: Mapping[str, Any]) -> Saved | None:
        """Collective, with nothing under way. Write and commit the state after `step` steps while training waits; as `settle` tells it."""
        assert not self.under_way, "two would share this rank's state and its object's key"
        self.begin(step, extra)
        assert self._current is not None
        self._current.blocked_seconds = None
        return self.settle()

    def _fits(self) -> bool:
        needed, free = self.state_bytes(), self.free_bytes()
        here = free is None or needed <= _MOST_OF_FREE_MEMORY * free
        everywhere = all(self.ranks.gathered(here))
        if not everywhere:
            self.notice(
                f"training waits while checkpoints are written: a copy of each worker's state takes {needed / 2**30:.1f} GiB of memory, "
                f"{'' if here else f'{(free or 0) / 2**30:.1f} GiB are free; '}raise the workers' memory limit to write them meanwhile"
            )
        return everywhere

    def _write(self, step: int, extra: Mapping[str, Any], began: float, pieces: Callable[[], Iterator[Piece]], *, columns: int) -> None:
        """Begin to write this rank's part."""
        writing: Future[PartRecord] = Future()
        current = self._current = _Current(step=step, extra=extra, began=began, writing=writing)

        def gets_on() -> None:
            current.chunks += 1

        _run(writing, lambda: self.store.write_part(step, self.ranks.rank, pieces(), columns=columns, gets_on=gets_on))

    def _wait(self, awaited: "Callable[[_Current], Future[Any]]") -> None:
        """Until it is done, however it ends, with a sign whenever it has got on."""
        current, seen = self._current, -1
        while current is not None and not awaited(current).done():
            if current.chunks != seen:
                seen = current.chunks
                self.signs(f"the checkpoint of step {current.step}")
            wait([awaited(current)], timeout=_SIGN_SECONDS)

    def _commit(self, current: _Current, parts: list[PartRecord]) -> tuple[Manifest, list[str]]:
        """In a thread of rank 0: the manifest, and what to tell of older checkpoints: to keep them costs money, and no step."""
        seconds, blocked = current.seconds()
        made = self.store.commit(current.step, parts, {**current.extra, "seconds": blocked, "writeSeconds": seconds})
        try:
            return made, self.prune()
        except RunConflict:
            raise
        except FineTuneError as error:
            left = f"older checkpoints than that of step {current.step} could not be deleted, which is tried after the next: {error}"
            return made, [left]

    def _committed(self, current: _Current) -> Saved:
        assert current.commit is not None
        self._current = None
        if (error := current.commit.exception()) is not None:
            return self._not_saved(current, error)
        made, told = current.commit.result()
        for text in told:
            self.notice(text)
        return self._saved(current, manifest=made)

    def _failed(self, current: _Current) -> Saved:
        error = current.writing.exception()
        self._current = None
        problems = self.ranks.gathered("" if error is None else str(error))
        if error is not None:
            return self._not_saved(current, error)
        return self._saved(current, problem=next(filter(None, problems)))

    def _not_saved(self, current: _Current, error: BaseException) -> Saved:
        if isinstance(error, RunConflict) or not isinstance(error, FineTuneError):
            raise error
        return self._saved(current, problem=str(error))

    def _saved(self, current: _Current, *, manifest: Manifest | None = None, problem: str = "") -> Saved:
        seconds, blocked = current.seconds()
        return Saved(step=current.step, manifest=manifest, problem=problem, blocked_seconds=blocked, write_seconds=seconds)

    def _tell_late(self, current: _Current) -> None:
        seconds = time.monotonic() - current.began
        if seconds >= _LATE_SECONDS and not current.late:
            current.late = True
            self.notice(f"the checkpoint of step {current.step} is still being written after {seconds:.0f} s; the next one waits for it")


def _run(promised: "Future[Result]", task: Callable[[], Result]) -> None:
    """Fulfil it by a thread that keeps no process alive: one that ends in the middle leaves no checkpoint, as if it had been killed."""

    def fulfil() -> None:
        try:
            promised.set_result(task())
        except BaseException as error:
            promised.set_exception(error)

    threading.Thread(target=fulfil, name="finetune-checkpoint", daemon=True).start()
