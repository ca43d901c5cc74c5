"""Checkpoints in one logical format: written by many ranks, committed by one, read at any world size.

Each rank streams its pieces to one object (`write_part`), kind by kind where they come so and in columns (`columns.py`); rank 0 then
commits the manifest, last. A checkpoint without a verified manifest does not exist. Nothing here copies more than a few chunks of 8 MiB.
This room knows neither engine nor world size.

    checkpoints/step-00000012/attempt-0001/rank-00000.TOKEN.bin  rank-00001.TOKEN.bin  manifest.json
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from finetune_api.errors import InvalidStorage, RunConflict
from finetune_trainer.checkpoints import claims
from finetune_trainer.checkpoints.claims import Claim
from finetune_trainer.checkpoints.columns import Piece, in_columns
from finetune_trainer.checkpoints.manifest import (
    CHUNK_BYTES,
    ITEM_BYTES,
    Kind,
    Manifest,
    PartRecord,
    StoredPiece,
    folder,
    manifest,
    manifest_key,
)
from finetune_trainer.checkpoints.reader import Reader
from finetune_trainer.storage.errors import DamagedCheckpoint, MissingObject
from finetune_trainer.storage.protocol import Storage

_KEY = re.compile(r"checkpoints/step-(\d{8,})/attempt-(\d{4,})/(.+)")
_PART = re.compile(r"checkpoints/step-\d{8,}/attempt-(\d{4,})/rank-\d{5,}\.[0-9a-f]+\.bin")
_PREPARED = re.compile(r"prepared/[0-9a-f]+/[\w.-]+")


class CheckpointStore:
    """The checkpoints of one run. Reading needs no claim; writing and pruning do."""

    def __init__(self, storage: Storage, *, identity: str, job: str, claim: Claim | None = None) -> None:
        self.storage = storage
        self._identity, self._job, self._claim = identity, job, claim
        self._known: dict[tuple[int, int], Manifest] = {}  # manifests never change

    def claimed(self) -> "CheckpointStore":
        """A store that may write; earlier attempts may not from now on. One process takes it each time workers start, and tells the ranks.

        Raises RunConflict if the storage belongs to another run.
        """
        claim = claims.claim(self.storage, identity=self._identity, job=self._job)
        # Rubbish costs money, not correctness: keys that may not list uploads are good enough.
        with contextlib.suppress(InvalidStorage):
            self.storage.discard_incomplete(partial(_is_left, attempt=claim.number))
        return CheckpointStore(self.storage, identity=self._identity, job=self._job, claim=claim)

    @property
    def claim(self) -> Claim:
        """The claim that this store writes under."""
        assert self._claim is not None, "this store only reads; see claimed()"
        return self._claim

    def write_part(
        self, step: int, rank: int, pieces: Iterable[Piece], *, columns: int = 1, gets_on: Callable[[], None] = lambda: None
    ) -> PartRecord:
        """Stream this rank's pieces to its object: every rank, once a step. `gets_on` is called for each chunk.

        `columns`: in so many they lie (`columns.py`), for which all pieces of a kind are kept at a time. With one `data` may be reused once
        the next piece is asked for, and nodes of another world size read more than they need.

        A part of a checkpoint whose commit landed, though its answer was lost, is compared and not written again. Raises RunConflict,
        before anything is written, if the claim is old or the step was committed with other contents under its number.
        """
        self.claim.check(self.storage)
        landed = self._landed(step)
        part = _Part(pieces, columns, gets_on)
        # The token parts two attempts that were both told that they have this number: neither overwrites what the other commits.
        key = f"{folder(step, self.claim.number)}rank-{rank:05d}.{self.claim.token}.bin"
        if landed is None:
            size = self.storage.put_stream(key, part.chunks())
            assert size == part.size, f"{key}: {size} bytes stored, {part.size} given"
        else:
            for _ in part.chunks():
                pass
        record = PartRecord(
            rank=rank, key=key, size=part.size, sections=tuple(part.sections), digests=tuple(part.digests), pieces=tuple(part.pieces)
        )
        if landed is not None and record.stored not in landed.objects:
            raise self._twice(step)
        return record

    def commit(self, step: int, parts: Sequence[PartRecord], extra: Mapping[str, Any]) -> Manifest:
        """Make the checkpoint exist: rank 0 only, after every rank's `write_part`. One that exists with the same tensors is returned.

        Raises RunConflict if the claim is old or the step was committed with others under this claim, ValueError unless the pieces
        cover every tensor exactly once.
        """
        whole = manifest(self._identity, step, self.claim.number, parts, extra)
        self.claim.check(self.storage)
        self.verify(whole)
        if self.storage.put_if_absent(whole.key, whole.to_bytes()):
            return whole
        landed = self._landed(step)
        # What is told beside the tensors is each try's own, such as the seconds that it took.
        if landed is None or replace(landed, extra=whole.extra) != whole:
            raise self._twice(step)
        return landed

    def _landed(self, step: int) -> Manifest | None:
        """The manifest of a step under this claim, which is there before this try if the answer to an earlier one was lost."""
        key = manifest_key(step, self.claim.number)
        try:
            return Manifest.from_bytes(self.storage.get(key), key) if self.storage.exists(key) else None
        except DamagedCheckpoint as error:
            raise self._twice(step) from error

    def _twice(self, step: int) -> RunConflict:
        key = manifest_key(step, self.claim.number)
        return RunConflict(f"{self.storage.url}/{key} exists already; attempt {self.claim.number} saves step {step} a second time")

    def candidates(self, notice: Callable[[str], None] = lambda message: None) -> Iterator[Manifest]:
        """Checkpoints that exist, newest first: manifest intact, objects there and of the right size. `notice` hears of the others.

        Contents are verified when they are read: a `DamagedCheckpoint` then means that the next candidate is to be taken.
        """
        found = _Listing(self.storage.list("checkpoints/"))
        for step, attempt in found.committed():
            try:
                yield self._verified(step, attempt, found.sizes)
            except DamagedCheckpoint as error:
                notice(str(error))

    def newest_verified(self, notice: Callable[[str], None] = lambda message: None) -> Manifest | None:
        """The newest checkpoint that exists, if there is one."""
        return next(self.candidates(notice), None)

    def open(self, step: int, attempt: int | None = None) -> Manifest:
        """The checkpoint of a step, of its newest attempt if not told which. Raises InvalidStorage, naming the steps that there are."""
        found = _Listing(self.storage.list("checkpoints/"))
        for one in found.committed():
            if one[0] == step and attempt in {None, one[1]}:
                return self._verified(*one, found.sizes)
        steps = sorted({one for one, _ in found.committed()})
        raise InvalidStorage(f"{self.storage.url} has no checkpoint of step {step}; there are {steps or 'none'}")

    def verify(self, checkpoint: Manifest, *, deep: bool = False) -> None:
        """Raise DamagedCheckpoint unless every object is there with its size; `deep` reads every byte."""
        self._verify_sizes(checkpoint, dict(self.storage.list(folder(checkpoint.step, checkpoint.attempt))))
        if deep:
            with self.reader(checkpoint) as reader:
                reader.verify()

    def reader(self, checkpoint: Manifest) -> Reader:
        """Reads ranges of tensors; close it, or use it in a `with`."""
        return Reader(self.storage, checkpoint)

    def prune(self, keep: int, protect: Collection[int] = (), notice: Callable[[str], None] = lambda message: None) -> list[int]:
        """Delete all but the newest `keep` checkpoints (0 keeps all) and those of the steps `protect`; rank 0 only, after a commit.

        Also deletes what never became a checkpoint, and damaged ones, of which `notice` hears. Returns the steps deleted. Raises
        RunConflict if the claim is old.
        """
        found = _Listing(self.storage.list("checkpoints/"))
        complete = self._complete(found, notice)
        trusted = [one for one in complete if not self._is_passed_over(one, complete)]
        steps = sorted({one.step for one in trusted})
        kept_steps = {*(steps[-keep:] if keep else steps), *protect}
        kept = {one.step: one.attempt for one in reversed([*trusted, *complete]) if one.step in kept_steps}
        doomed = [one for one in found.folders() if one not in kept.items() and self._is_ours_to_delete(one, trusted)]
        if doomed:
            self._delete(doomed, found)
        return sorted({one.step for one in complete if (one.step, one.attempt) in doomed} - {*kept})

    def _is_passed_over(self, one: Manifest, complete: list[Manifest]) -> bool:
        """Whether this attempt went on from before this older attempt's checkpoint, because its content turned out damaged.

        Counted among the newest it would push out whole ones.
        """
        own_steps = [other.step for other in complete if other.attempt == self.claim.number]
        return bool(own_steps) and one.attempt < self.claim.number and one.step > max(own_steps)

    def complete(self, notice: Callable[[str], None] = lambda message: None) -> list[Manifest]:
        """Checkpoints that exist, newest first, as `candidates` gives them; a manifest that was read before isn't read again."""
        return self._complete(_Listing(self.storage.list("checkpoints/")), notice)

    def _complete(self, found: "_Listing", notice: Callable[[str], None]) -> list[Manifest]:
        complete, still = [], {}
        for one in found.committed():
            try:
                if (known := self._known.get(one)) is not None:
                    self._verify_sizes(known, found.sizes)
                else:
                    known = self._verified(*one, found.sizes)
                still[one] = known
                complete.append(known)
            except DamagedCheckpoint as error:
                notice(str(error))
        self._known = still  # those that were deleted need no memory: of a large model one has a megabyte
        return complete

    def _is_ours_to_delete(self, one: tuple[int, int], complete: list[Manifest]) -> bool:
        """Not what a newer attempt writes, nor what this one may be writing now: only what lies before the newest checkpoint."""
        step, attempt = one
        newest = complete[0].step if complete else -1
        return attempt < self.claim.number if step >= newest else attempt <= self.claim.number

    def _delete(self, doomed: list[tuple[int, int]], found: "_Listing") -> None:
        """Delete checkpoints, manifests first, so that none exists in part."""
        self.claim.check(self.storage)
        self.storage.delete([manifest_key(*one) for one in doomed if manifest_key(*one) in found.sizes])
        self.storage.delete([key for one in doomed for key in found.keys(one) if key != manifest_key(*one)])

    def _verified(self, step: int, attempt: int, sizes: Mapping[str, int]) -> Manifest:
        key = manifest_key(step, attempt)
        try:
            checkpoint = Manifest.from_bytes(self.storage.get(key), key)
        except MissingObject as error:
            raise DamagedCheckpoint(f"{key} was deleted meanwhile") from error
        if checkpoint.identity != self._identity:
            raise DamagedCheckpoint(f"{key} belongs to run {checkpoint.identity[:12]}")
        self._verify_sizes(checkpoint, sizes)
        return checkpoint

    def _verify_sizes(self, checkpoint: Manifest, sizes: Mapping[str, int]) -> None:
        for one in checkpoint.objects:
            if sizes.get(one.key) != one.size:
                seen = sizes.get(one.key, "no")
                raise DamagedCheckpoint(
                    f"{self.storage.url}: step {checkpoint.step} is damaged: {one.key} has {seen} bytes instead of {one.size}"
                )


def _is_left(key: str, *, attempt: int) -> bool:
    """Whether an upload that is under way can only be what an older attempt, or the preparation before it, left.

    Other programs may write below the same prefix, and a newer attempt may be saving already.
    """
    if found := _PART.fullmatch(key):
        return int(found[1]) < attempt
    return _PREPARED.fullmatch(key) is not None


class _Part:
    """The bytes of one rank's object, and the record of what is where in it."""

    def __init__(self, pieces: Iterable[Piece], columns: int, gets_on: Callable[[], None]) -> None:
        self._given, self._columns, self._gets_on = pieces, columns, gets_on
        self.pieces: list[StoredPiece] = []
        self.sections: list[int] = []
        self.digests: list[str] = []
        self.size = 0

    def chunks(self) -> Iterator[bytearray]:
        """Chunks of CHUNK_BYTES, the last of each column of a kind shorter; each is a buffer of its own."""
        for _, pieces in itertools.groupby(self._given, key=lambda piece: piece.kind):
            for column in in_columns(pieces, self._columns):
                before = self.size
                yield from self._section(column)
                if self.size > before:
                    self.sections.append(self.size - before)

    def _section(self, pieces: Iterable[Piece]) -> Iterator[bytearray]:
        chunk = bytearray()
        for block in self._blocks(pieces):
            while block:
                taken = block[: CHUNK_BYTES - len(chunk)]
                chunk += taken
                block = block[len(taken) :]
                if len(chunk) == CHUNK_BYTES:
                    yield self._closed(chunk)
                    chunk = bytearray()
        if chunk:
            yield self._closed(chunk)

    def _closed(self, chunk: bytearray) -> bytearray:
        self._gets_on()
        self.digests.append(hashlib.sha256(chunk).hexdigest())
        return chunk

    def _blocks(self, pieces: Iterable[Piece]) -> Iterator[memoryview]:
        """The bytes of each piece that has any."""
        for piece in pieces:
            assert piece.data.dtype == np.float32, f"{piece.name}: {piece.data.dtype}"
            assert piece.data.shape == (piece.stop - piece.start,), f"{piece.name}: {piece.data.shape}"
            self.pieces.append(
                StoredPiece(kind=piece.kind, name=piece.name, shape=piece.shape, start=piece.start, stop=piece.stop, offset=self.size)
            )
            self.size += piece.data.size * ITEM_BYTES
            if piece.data.size:
                yield np.ascontiguousarray(piece.data, dtype="<f4").data.cast("B")


class _Listing:
    """What lies under `checkpoints/`."""

    def __init__(self, listed: Iterable[tuple[str, int]]) -> None:
        self.sizes = dict(listed)
        self._keys: dict[tuple[int, int], list[str]] = {}
        for key in self.sizes:
            if match := _KEY.fullmatch(key):
                self._keys.setdefault((int(match[1]), int(match[2])), []).append(key)

    def folders(self) -> list[tuple[int, int]]:
        """(step, attempt), newest first."""
        return sorted(self._keys, reverse=True)

    def committed(self) -> list[tuple[int, int]]:
        """(step, attempt) of those with a manifest, newest first."""
        return [one for one in self.folders() if manifest_key(*one) in self.sizes]

    def keys(self, one: tuple[int, int]) -> list[str]:
        return self._keys[one]


__all__ = ["CheckpointStore", "Claim", "DamagedCheckpoint", "Kind", "Manifest", "PartRecord", "Piece", "Reader"]
