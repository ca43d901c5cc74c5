"""The manifest of a checkpoint: where every element of every tensor is, in logical coordinates, and digests to prove it.

In: the parts that the ranks wrote. Out: a Manifest, and its bytes. Pure, no I/O. A tensor is a name, a kind and a shape; its
flattened elements lie in extents (start, stop, object, byte offset). World size is provenance only, so any world size can restore.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from finetune_api.errors import InvalidStorage
from finetune_api.json_text import json_value
from finetune_trainer.storage.errors import DamagedCheckpoint

# "constant": what is saved with a model and not trained, such as a router's correction of DeepSeek-V3.
# "..._codes", "..._scales": moments in 8 bits, of tensors that have none in fp32.
Kind = Literal["master", "exp_avg", "exp_avg_sq", "exp_avg_codes", "exp_avg_sq_codes", "exp_avg_scales", "exp_avg_sq_scales", "constant"]
DTYPE: Final = "float32"  # little-endian, of every tensor
ITEM_BYTES: Final = 4
CHUNK_BYTES: Final = 8 * 2**20  # a digest covers this much of an object, or less at the end of a section
_FORMAT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPiece:
    """Elements [start, stop) of a flattened tensor, from byte `offset` of the part they are in."""

    kind: Kind
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What one rank wrote: one object and the pieces in it. `sections` and `digests` as a StoredObject's."""

    rank: int
    key: str
    size: int
    sections: tuple[int, ...]
    digests: tuple[str, ...]
    pieces: tuple[StoredPiece, ...]

    @property
    def stored(self) -> "StoredObject":
        """The object, as a manifest names it."""
        return StoredObject(key=self.key, size=self.size, sections=self.sections, digests=self.digests)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, to be gathered on rank 0: pieces as lists, since there may be some thousand, and training waits meanwhile."""
        pieces = [[one.kind, one.name, one.shape, one.start, one.stop, one.offset] for one in self.pieces]
        own = {"rank": self.rank, "key": self.key, "size": self.size, "sections": self.sections, "digests": self.digests}
        return {**own, "pieces": pieces}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PartRecord":
        pieces = tuple(
            StoredPiece(kind=kind, name=name, shape=tuple(shape), start=start, stop=stop, offset=offset)
            for kind, name, shape, start, stop, offset in value["pieces"]
        )
        return cls(**{**value, "sections": tuple(value["sections"]), "digests": tuple(value["digests"]), "pieces": pieces})


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object of a checkpoint. `digests`: SHA-256 of each chunk."""

    key: str
    size: int
    sections: tuple[int, ...]
    """Bytes of each column of a kind, which begins with a chunk of its own: who wants one reads no byte of another."""
    digests: tuple[str, ...]

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """Where each chunk begins, and the end of the last.

        >>> StoredObject(key="k", size=CHUNK_BYTES + 5, sections=(CHUNK_BYTES + 3, 2), digests=()).bounds
        (0, 8388608, 8388611, 8388613)
        """
        found, start = [0], 0
        for size in self.sections:
            found += [min(end, start + size) for end in range(start + CHUNK_BYTES, start + size + CHUNK_BYTES, CHUNK_BYTES)]
            start += size
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Extent:
    """Elements [start, stop) are in objects[object] from byte `offset`."""

    start: int
    stop: int
    object: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of one kind; the extents follow each other from 0 to its number of elements."""

    kind: Kind
    name: str
    shape: tuple[int, ...]
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole checkpoint. `extra` is the caller's: JSON values such as the position in the data."""

    identity: str
    step: int
    attempt: int
    world_size: int  # provenance: nothing depends on it
    objects: tuple[StoredObject, ...]
    tensors: Mapping[tuple[str, str], StoredTensor]  # by (kind, name)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Where the manifest itself is."""
        return manifest_key(self.step, self.attempt)

    @property
    def num_bytes(self) -> int:
        """Size of all objects."""
        return sum(one.size for one in self.objects)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the body: another checkpoint of the same step has another."""
        return _digest(self._body())

    def to_bytes(self) -> bytes:
        """As an object: the body and its SHA-256."""
        body = self._body()
        return _canonical({"format": _FORMAT, "sha256": _digest(body), "body": body})

    def _body(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.step,
            "attempt": self.attempt,
            "worldSize": self.world_size,
            "chunkBytes": CHUNK_BYTES,
            "objects": [[one.key, one.size, list(one.sections), list(one.digests)] for one in self.objects],
            "tensors": [_tensor_json(tensor) for tensor in self.tensors.values()],
            "extra": dict(self.extra),
        }

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> "Manifest":
        """Raises DamagedCheckpoint if the bytes are not what was written under `key`, InvalidStorage for a format of the future."""
        try:
            envelope = json_value(data)
            body, version, digest = envelope["body"], envelope["format"], envelope["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{key} is no manifest: {type(error).__name__}") from error
        if version != _FORMAT:
            raise InvalidStorage(f"{key} has format {version}, this version reads {_FORMAT}; use the version that wrote it")
        try:
            if _digest(body) != digest:
                raise DamagedCheckpoint(f"{key} does not match its own digest")
            manifest = cls._from_body(body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpoint(f"{key} is no manifest of ours: {type(error).__name__}") from error
        if manifest.key != key:
            raise DamagedCheckpoint(f"{key} is the manifest of {manifest.key}")
        return manifest

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> "Manifest":
        tensors = [_tensor(one) for one in body["tensors"]]
        for number in (body["step"], body["attempt"], body["worldSize"], *(size for _, size, _, _ in body["objects"])):
            if type(number) is not int or number < 0:
                raise ValueError(f"{number!r} is no step, no number and no size")
        if not all(isinstance(text, str) for text in (body["identity"], *(key for key, _, _, _ in body["objects"]))):
            raise ValueError("an identity or a key is no text")
        return cls(
            identity=body["identity"],
            step=body["step"],
            attempt=body["attempt"],
            world_size=body["worldSize"],
            objects=tuple(
                StoredObject(key=key, size=size, sections=tuple(sections), digests=tuple(digests))
                for key, size, sections, digests in body["objects"]
            ),
            tensors={(one.kind, one.name): one for one in tensors},
            extra=body["extra"],
        )


def folder(step: int, attempt: int) -> str:
    """Where a checkpoint's objects are."""
    return f"checkpoints/step-{step:08d}/attempt-{attempt:04d}/"


def manifest_key(step: int, attempt: int) -> str:
    """Where a checkpoint's manifest is."""
    return folder(step, attempt) + "manifest.json"


def manifest(identity: str, step: int, attempt: int, parts: Sequence[PartRecord], extra: Mapping[str, Any]) -> Manifest:
    """The manifest of what the ranks wrote. Raises ValueError unless every element of every tensor is there exactly once."""
    parts = sorted(parts, key=lambda part: part.rank)
    if [part.rank for part in parts] != list(range(len(parts))):
        raise ValueError(f"step {step}: parts of ranks {[part.rank for part in parts]}; every rank gives one")
    found: defaultdict[tuple[Kind, str], list[tuple[StoredPiece, int]]] = defaultdict(list)
    for index, part in enumerate(parts):
        for piece in part.pieces:
            found[piece.kind, piece.name].append((piece, index))
    tensors: dict[tuple[str, str], StoredTensor] = {key: _assembled(key, pieces) for key, pieces in found.items()}
    _check_kinds(tensors.values())
    return Manifest(
        identity=identity,
        step=step,
        attempt=attempt,
        world_size=len(parts),
        objects=tuple(part.stored for part in parts),
        tensors=tensors,
        extra=json.loads(_canonical(dict(extra))),
    )


def _assembled(key: tuple[Kind, str], pieces: list[tuple[StoredPiece, int]]) -> StoredTensor:
    """Pieces in order as one tensor, without the empty ones."""
    kind, name = key
    shapes = {piece.shape for piece, _ in pieces}
    if len(shapes) > 1:
        raise ValueError(f"{kind} {name}: pieces of shapes {sorted(shapes)}")
    (shape,) = shapes
    extents = sorted(
        (Extent(one.start, one.stop, index, one.offset) for one, index in pieces if one.stop > one.start), key=lambda one: one.start
    )
    reached = 0
    for extent in extents:
        if extent.start != reached:
            raise ValueError(
                f"{kind} {name}: elements {sorted((reached, extent.start))} are {'missing' if extent.start > reached else 'there twice'}"
            )
        reached = extent.stop
    if reached != math.prod(shape):
        raise ValueError(f"{kind} {name}: {reached} of {math.prod(shape)} elements of shape {shape}")
    return StoredTensor(kind=kind, name=name, shape=shape, extents=tuple(extents))


def _check_kinds(tensors: Iterable[StoredTensor]) -> None:
    """Raise ValueError unless every kind of what is trained holds the same tensors, and constants others."""
    by_kind: defaultdict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for tensor in tensors:
        by_kind[tensor.kind][tensor.name] = tensor.shape
    constants = by_kind.pop("constant", {})
    for moment in ("exp_avg", "exp_avg_sq"):
        codes, scales = by_kind.pop(f"{moment}_codes", {}), by_kind.pop(f"{moment}_scales", {})
        if codes.keys() != scales.keys():
            raise ValueError(f"codes and scales of {moment} differ in {sorted(codes.keys() ^ scales.keys())[:4]}")
        if codes:
            by_kind[moment] = by_kind[moment] | codes
    (first, wanted), *others = by_kind.items() or [("", {})]
    if both := constants.keys() & wanted:
        raise ValueError(f"{sorted(both)[:4]} are trained, and constant")
    for kind, shapes in others:
        if shapes != wanted:
            raise ValueError(f"{first} and {kind} differ in {sorted(set(wanted.items()) ^ set(shapes.items()))[:4]}")


def _tensor_json(tensor: StoredTensor) -> dict[str, Any]:
    extents = [[one.start, one.stop, one.object, one.offset] for one in tensor.extents]
    return {"kind": tensor.kind, "name": tensor.name, "dtype": DTYPE, "shape": list(tensor.shape), "extents": extents}


def _tensor(value: Mapping[str, Any]) -> StoredTensor:
    extents = tuple(Extent(*one) for one in value["extents"])
    return StoredTensor(kind=value["kind"], name=value["name"], shape=tuple(value["shape"]), extents=extents)


def _canonical(value: object) -> bytes:
    """The one way to write a value as JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(body: object) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()
