"""The store of prepared data: written once as a stream, then memory-mapped by every rank.

    <folder>/<fingerprint>/
        train.ids.bin         uint32, the tokens of all examples one after another
        train.supervised.bin  uint8, 1 where a token is learnt
        train.offsets.npy     int64, where examples begin, and the end
        train.counts.npy      int64, labels of each example that count in the loss
        train.origins.npy     int64, two for each example: which of meta.json's `origins` it is of, and which row there
        evaluation.*          the same, when there is held-out data
        meta.json             sizes and digests of the files above, and what the writer adds; written last

A folder without meta.json does not count: a store appears under its name whole or not at all. What a token means, and how
examples share rows, is not known here.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from finetune_api.errors import StorageFailed
from finetune_api.json_text import json_value
from finetune_trainer.files.atomic import sync, write_atomically
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

Integers = NDArray[np.int64]
Side = Literal["train", "evaluation"]

META = "meta.json"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """One side of the split. Arrays are memory-mapped and read-only."""

    _ids: NDArray[np.uint32]
    _supervised: NDArray[np.uint8]
    offsets: Integers  # (examples + 1,)
    supervised_counts: Integers  # (examples,), without each example's first label
    _origins: Integers | None  # (examples, 2); None: an older version wrote the store
    _sources: Sequence[str]

    @classmethod
    def open(cls, folder: Path, side: Side) -> Self:
        """`folder` is the one named by the fingerprint. Raises StorageFailed when a file is not as long as it was written, or damaged."""
        meta = _check(folder, verify_digests=False)
        origins = folder / f"{side}.origins.npy"
        try:
            data = cls(
                _ids=_mapped(folder / f"{side}.ids.bin", np.uint32),
                _supervised=_mapped(folder / f"{side}.supervised.bin", np.uint8),
                offsets=np.load(folder / f"{side}.offsets.npy", mmap_mode="r"),
                supervised_counts=np.load(folder / f"{side}.counts.npy", mmap_mode="r"),
                _origins=np.load(origins, mmap_mode="r") if origins.name in meta["files"] else None,
                _sources=meta.get("origins", ()),
            )
            data._check_offsets()
        except (OSError, ValueError, SyntaxError, TokenError) as error:  # numpy reads a header as Python
            raise _damaged(folder, error) from None
        return data

    def _check_offsets(self) -> None:
        """Raises ValueError for offsets that lead out of the ids: digests were looked at when the files came here, and disks lie."""
        offsets, counts = self.offsets, self.supervised_counts
        is_sound = offsets.dtype == counts.dtype == np.int64 and offsets.ndim == counts.ndim == 1 and len(offsets) == len(counts) + 1
        if not is_sound or offsets[0] != 0 or offsets[-1] != len(self._ids) or np.any(offsets[1:] < offsets[:-1]):
            raise ValueError("examples don't follow one another")
        if len(self._supervised) != len(self._ids):
            raise ValueError(f"{len(self._supervised):,} labels for {len(self._ids):,} tokens")

    @property
    def num_examples(self) -> int:
        return len(self.supervised_counts)

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> Integers:
        """Tokens of each example."""
        lengths: Integers = np.diff(self.offsets)
        return lengths

    def ids(self, index: int) -> NDArray[np.uint32]:
        """The tokens of an example: a view."""
        return self._ids[self.offsets[index] : self.offsets[index + 1]]

    def supervised(self, index: int) -> NDArray[np.uint8]:
        """1 where a token of an example is learnt: a view."""
        return self._supervised[self.offsets[index] : self.offsets[index + 1]]

    def labels(self, index: int) -> Integers:
        """Unshifted labels of an example: its tokens, IGNORE_INDEX where they are not learnt."""
        return np.where(self.supervised(index) != 0, self.ids(index).astype(np.int64), IGNORE_INDEX)

    def origin(self, index: int) -> tuple[str, int] | None:
        """The source that an example is of, and its row there; None where that is not known."""
        if self._origins is None:
            return None
        source, row = self._origins[index].tolist()
        return self._sources[source], row


def store_folder(folder: Path, fingerprint: str) -> Path:
    """Where a store is, or would be."""
    return folder / fingerprint


def read_meta(folder: Path, *, verify_digests: bool = True) -> dict[str, Any] | None:
    """meta.json of a store; None if there is no store. Raises StorageFailed when its files are not those that were written."""
    return _check(folder, verify_digests=verify_digests) if (folder / META).exists() else None


@contextmanager
def write_store(folder: Path, fingerprint: str) -> Iterator["StoreWriter"]:
    """A writer whose store gets its name when the block ends well, and leaves nothing behind when it doesn't.

    A store of that name that is there already is replaced. Raises StorageFailed when the disk is full.
    """
    target, draft = store_folder(folder, fingerprint), folder / f".{fingerprint}.{os.getpid()}"
    try:
        # Whoever holds the run folder's lock is alone here: other drafts are what a killed process left.
        for left in folder.glob(f".{fingerprint}.*"):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        with closing(StoreWriter(draft)) as writer:
            yield writer
            writer.finish(fingerprint)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        sync(folder)
    except OSError as error:
        raise StorageFailed(f"prepared data can't be written to {folder} ({error}); make room there, or choose another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class StoreWriter:
    """Appends examples to a store; what it keeps in memory are 32 bytes an example. `meta` is added to meta.json."""

    def __init__(self, folder: Path) -> None:
        self.meta: dict[str, Any] = {}
        self._folder = folder
        self._sides: dict[Side, _SideWriter] = {}
        self._sources: dict[str, int] = {}

    def append(
        self,
        side: Side,
        ids: NDArray[np.uint32],
        supervised: NDArray[np.uint8],
        lengths: Integers,
        dialogues: int,
        origins: Iterable[tuple[str, int]],
    ) -> int:
        """Add examples that stand one after another in `ids`, of so many dialogues; the labels of them that count in the loss.

        `origins`: source and row of each example.
        """
        if side not in self._sides:
            self._sides[side] = _SideWriter(self._folder, side)
        numbers = [(self._sources.setdefault(source, len(self._sources)), row) for source, row in origins]
        return self._sides[side].append(ids, supervised, lengths, dialogues, np.array(numbers, dtype=np.int64).reshape(-1, 2))

    def add_text(self, name: str, text: str) -> None:
        """A small file beside the arrays."""
        (self._folder / name).write_text(text, encoding="utf-8")

    def lengths(self, side: Side) -> Integers:
        """Tokens of each example so far."""
        return self._sides[side].lengths() if side in self._sides else np.zeros(0, dtype=np.int64)

    def dialogues(self, side: Side) -> int:
        """Dialogues so far."""
        return self._sides[side].dialogues if side in self._sides else 0

    def supervised_tokens(self, side: Side) -> int:
        """Labels so far that count in the loss."""
        return self._sides[side].supervised_tokens if side in self._sides else 0

    def close(self) -> None:
        """Let go of the files, finished or not."""
        for side in self._sides.values():
            side.close()

    def finish(self, fingerprint: str) -> None:
        """Write what is left, then meta.json."""
        for side in self._sides.values():
            side.finish()
        files = {file.name: {"bytes": file.stat().st_size, "sha256": _digest(file)} for file in sorted(self._folder.iterdir())}
        meta = {"format": 1, "fingerprint": fingerprint, "files": files, "origins": list(self._sources), **self.meta}
        write_atomically(self._folder / META, json.dumps(meta, indent=1, ensure_ascii=False))


@dataclass(slots=True)
class _SideWriter:
    folder: Path
    side: Side
    _ids: BinaryIO = field(init=False)
    _supervised: BinaryIO = field(init=False)
    dialogues: int = 0
    supervised_tokens: int = 0
    _lengths: list[Integers] = field(default_factory=list)
    _counts: list[Integers] = field(default_factory=list)
    _origins: list[Integers] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = (self.folder / f"{self.side}.ids.bin").open("wb")
        self._supervised = (self.folder / f"{self.side}.supervised.bin").open("wb")

    def append(self, ids: NDArray[np.uint32], supervised: NDArray[np.uint8], lengths: Integers, dialogues: int, origins: Integers) -> int:
        assert len(ids) == len(supervised) == lengths.sum()
        assert len(origins) == len(lengths)
        assert (lengths > 0).all()
        counts = supervised_counts(supervised, lengths)
        self._ids.write(ids.astype("<u4", copy=False).tobytes())
        self._supervised.write(supervised.astype(np.uint8, copy=False).tobytes())
        self._lengths.append(lengths)
        self._counts.append(counts)
        self._origins.append(origins)
        self.dialogues += dialogues
        self.supervised_tokens += int(counts.sum())
        return int(counts.sum())

    def lengths(self) -> Integers:
        return np.concatenate(self._lengths)

    def close(self) -> None:
        """A buffer that the disk does not take any more goes with the unfinished file."""
        for file in (self._ids, self._supervised):
            with suppress(OSError):
                file.close()

    def finish(self) -> None:
        for file in (self._ids, self._supervised):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        np.save(self.folder / f"{self.side}.offsets.npy", np.concatenate([[0], np.cumsum(self.lengths())]).astype(np.int64))
        np.save(self.folder / f"{self.side}.counts.npy", np.concatenate(self._counts).astype(np.int64))
        np.save(self.folder / f"{self.side}.origins.npy", np.concatenate(self._origins))


def supervised_counts(supervised: NDArray[np.uint8], lengths: Integers) -> Integers:
    """Labels of each example that count in the loss: its first token is predicted by nothing.

    >>> supervised_counts(np.array([1, 1, 0, 1, 0], dtype=np.uint8), np.array([3, 2])).tolist()
    [1, 0]
    """
    if len(lengths) == 0:
        return np.zeros(0, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    counts: Integers = np.add.reduceat(supervised.astype(np.int64), starts) - supervised[starts]
    return counts


def _check(folder: Path, *, verify_digests: bool) -> dict[str, Any]:
    """meta.json, after a look at every file that it names."""
    try:
        meta: dict[str, Any] = json_value((folder / META).read_text(encoding="utf-8"))
        for name, written in meta["files"].items():
            file = folder / name
            if file.stat().st_size != written["bytes"] or (verify_digests and _digest(file) != written["sha256"]):
                raise StorageFailed(f"{file} is not what was written: cut off or altered; remove {folder} to prepare the data again")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from None
    return meta


def _damaged(folder: Path, error: Exception) -> StorageFailed:
    return StorageFailed(f"prepared data in {folder} is damaged ({error}); remove that folder to prepare the data again")


def _mapped(file: Path, dtype: type[np.generic]) -> NDArray[Any]:
    return np.memmap(file, dtype=dtype, mode="r")


def _digest(file: Path) -> str:
    """SHA-256 (hex), a block at a time."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
