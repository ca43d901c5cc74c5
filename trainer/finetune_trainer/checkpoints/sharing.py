"""Ranks of one node read a checkpoint together: what several of them need of it is fetched by one, and left in a folder for the others.

In: the chunks that each rank needs. Who fetches what follows from that alone, so nobody asks anybody. All fetch in one order, and before a
rank waits for another's chunk it has begun to fetch whatever is its own task up to there: no two ever wait for each other. Who is ahead
soon needs a chunk that somebody behind fetches, so some thirty chunks (a quarter of a GiB) lie in the folder at most.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from finetune_api.errors import StorageFailed
from finetune_trainer.files.locks import folder_in_use, remove_unused
from finetune_trainer.storage.errors import DamagedCheckpoint

# A chunk: which object, and which of its chunks.
Chunk = tuple[int, int]

_PREFIX: Final = "finetune-restore-"
_DAMAGED: Final = "damaged"
_LOOK_SECONDS: Final = 0.005


class Collective(Protocol):
    """What the ranks tell one another."""

    rank: int

    def gathered(self, value: Any) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Task:
    """Of one rank: what it fetches, with the ranks that wait for it, in the order of all; and what others fetch for it."""

    ranks: int
    """Of the node."""
    order: dict[Chunk, int]
    """Of all chunks that any rank of the node needs."""
    fetches: dict[Chunk, tuple[int, ...]]
    comes: frozenset[Chunk]


def task(needs: Sequence[Sequence[Chunk]], rank: int) -> Task:
    """What `rank` has to do, where each rank of a node needs chunks in that order.

    Of those that need a chunk, who has least to fetch by then fetches it.

    >>> mine = task([[(0, 0), (0, 1)], [(0, 1), (0, 2)]], 1)
    >>> mine.fetches, mine.comes
    ({(0, 1): (0,), (0, 2): ()}, frozenset())
    """
    wanted_by: dict[Chunk, list[int]] = {}
    first_use: dict[Chunk, float] = {}
    for one, chunks in enumerate(needs):
        for position, chunk in enumerate(chunks):
            wanted_by.setdefault(chunk, []).append(one)
            first_use[chunk] = min(first_use.get(chunk, 1.0), position / len(chunks))
    ordered = sorted(wanted_by, key=lambda chunk: (first_use[chunk], chunk))
    fetched = Counter[int]()
    fetches: dict[Chunk, tuple[int, ...]] = {}
    for chunk in ordered:
        by = min(wanted_by[chunk], key=lambda one: (fetched[one], one))
        fetched[by] += 1
        if by == rank:
            fetches[chunk] = tuple(one for one in wanted_by[chunk] if one != rank)
    comes = frozenset(chunk for chunk in needs[rank] if chunk not in fetches)
    order = {chunk: position for position, chunk in enumerate(ordered)}
    return Task(ranks=len(needs), order=order, fetches=fetches, comes=comes)


class SharedFolder:
    """Where the ranks of a node leave chunks for each other, as one link to a file for each that needs it. For many threads."""

    def __init__(self, path: Path, rank: int) -> None:
        self._path, self._rank = path, rank

    def leave(self, chunk: Chunk, data: bytes, takers: Sequence[int]) -> None:
        """For other ranks to take, each once. Raises StorageFailed where there is no room."""
        if not takers:
            return
        draft = self._path / f"{_name(chunk)}.draft"
        try:
            draft.write_bytes(data)
            for one in takers:
                os.link(draft, self._path / f"{_name(chunk)}.{one}")
            draft.unlink()
        except OSError as error:
            raise _no_room(self._path, error) from error

    def take(self, chunk: Chunk) -> bytes:
        """What another rank leaves. Raises DamagedCheckpoint if a rank of the node has found damage, StorageFailed if one has gone."""
        link = self._path / f"{_name(chunk)}.{self._rank}"
        while True:
            with contextlib.suppress(FileNotFoundError):
                data = link.read_bytes()
                link.unlink()
                return data
            with contextlib.suppress(FileNotFoundError):
                raise DamagedCheckpoint((self._path / _DAMAGED).read_text(encoding="utf-8"))
            if not self._path.exists():
                raise StorageFailed("another worker of this node gave up while workers read a checkpoint together; its error says why")
            time.sleep(_LOOK_SECONDS)

    def tell_damage(self, error: DamagedCheckpoint) -> None:
        """Let no rank wait for what this one won't fetch any more."""
        draft = self._path / f"{_DAMAGED}.{self._rank}"
        with contextlib.suppress(OSError):
            draft.write_text(str(error), encoding="utf-8")
            draft.replace(self._path / _DAMAGED)


@contextlib.contextmanager
def shared_folder(ranks: Collective, name: str, needs: Sequence[Chunk]) -> Iterator[tuple[SharedFolder, Task] | None]:
    """Collective. A folder for the ranks of this node, and this rank's task there; None where it is alone.

    The block ends when all ranks have read. `name` is one that nobody else uses, nor another block of this run. Who leaves by an error
    takes the folder away, which the others see; what a run left that was killed goes with the next one.
    """
    path = Path(tempfile.gettempdir()) / f"{_PREFIX}{name}"
    with contextlib.ExitStack() as use:
        try:
            remove_unused(other for other in path.parent.glob(f"{_PREFIX}*") if other != path)
            found = use.enter_context(folder_in_use(path))
        except OSError as error:
            raise _no_room(path, error) from error
        try:
            # Who sees the same folder shares it: pods of one host may have one name, and not one folder.
            everyone = ranks.gathered(((socket.gethostname(), found.st_dev, found.st_ino), list(needs)))
            here = [rank for rank, (place, _) in enumerate(everyone) if place == everyone[ranks.rank][0]]
            mine = here.index(ranks.rank)
            yield (SharedFolder(path, mine), task([everyone[rank][1] for rank in here], mine)) if len(here) > 1 else None
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _no_room(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"chunks of a checkpoint that workers of a node share can't be written to {path}: {error.strerror}; "
        "make room there, or name another folder by TMPDIR"
    )


def _name(chunk: Chunk) -> str:
    return f"{chunk[0]}-{chunk[1]}"
