"""Weights as safetensors files, streamed: no tensor is ever whole in memory.

In: names, shapes and a function that reads a range of a tensor as fp32. Out: `model.safetensors`, or shards with their index,
as transformers reads them, and the digest of each file. Format: 8 bytes of header length, a JSON header, the data
(https://github.com/huggingface/safetensors#format). What a tensor means is unknown here.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.publishing.model_folder import FileDigest, digest_of_file

DType = Literal["bfloat16", "float16", "float32", "int64", "int32", "uint8", "bool"]
Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str, int, int], NDArray[np.float32]]
"""(name, start, stop) -> that range of the flat tensor."""

SHARD_BYTES = 5_000_000_000  # what transformers' users know; also below the 5 GB of a single S3 upload
CHUNK_ELEMENTS = 4 << 20  # 16 MiB of fp32 at a time
_CODES: dict[DType, str] = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_ITEM_BYTES: dict[DType, int] = {"bfloat16": 2, "float16": 2, "float32": 4, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


def write_weights(
    folder: Path, shapes: Shapes, read: Read, dtype: DType, *, constants: Mapping[str, DType] | None = None, shard_bytes: int = SHARD_BYTES
) -> dict[str, FileDigest]:
    """Write all tensors into `folder`; the files by name. `constants`: tensors of another type. OSError when the disk is full."""
    types = dict.fromkeys(shapes, dtype) | dict(constants or {})
    shards = split(shapes, _ITEM_BYTES[dtype], shard_bytes)
    if len(shards) == 1:
        return {"model.safetensors": _write_shard(folder / "model.safetensors", {name: shapes[name] for name in shards[0]}, read, types)}
    files: dict[str, FileDigest] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files[file] = _write_shard(folder / file, {name: shapes[name] for name in names}, read, types)
        weight_map |= dict.fromkeys(names, file)
    parameters = sum(map(prod, shapes.values()))
    size = sum(prod(shape) * _ITEM_BYTES[types[name]] for name, shape in shapes.items())
    metadata = {"total_parameters": parameters, "total_size": size}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n")
    return {**files, index.name: digest_of_file(index)}


def split(shapes: Shapes, item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Names in their order, cut where a shard would grow beyond `shard_bytes`; a larger tensor has a shard of its own.

    >>> split({"a": (4,), "b": (5,), "c": (20,), "d": (1,)}, 1, 9)
    [['a', 'b'], ['c'], ['d']]
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        num_bytes = prod(shape) * item_bytes
        if shards[-1] and filled + num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += num_bytes
    return shards


def _write_shard(path: Path, shapes: Shapes, read: Read, types: Mapping[str, DType]) -> FileDigest:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for data in chain([_header(shapes, types)], _data(shapes, read, types)):
            digest.update(data)
            file.write(data)
        return FileDigest(size=file.tell(), sha256=digest.hexdigest())


def _header(shapes: Shapes, types: Mapping[str, DType]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + prod(shape) * _ITEM_BYTES[types[name]]
        header[name] = {"dtype": _CODES[types[name]], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def ranges(shapes: Shapes) -> Iterator[tuple[str, int, int]]:
    """What `write_weights` reads, in its order: name, start and stop in the flat tensor.

    >>> list(ranges({"a": (2, 3), "empty": (0,)}))
    [('a', 0, 6)]
    """
    for name, shape in shapes.items():
        for start in range(0, prod(shape), CHUNK_ELEMENTS):
            yield name, start, min(start + CHUNK_ELEMENTS, prod(shape))


def _data(shapes: Shapes, read: Read, types: Mapping[str, DType]) -> Iterator[bytes]:
    for name, start, stop in ranges(shapes):
        values = read(name, start, stop)
        yield (bfloat16(values) if types[name] == "bfloat16" else values.astype(types[name], copy=False)).tobytes()


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, as torch rounds; NaN stays NaN.

    >>> [hex(bits) for bits in bfloat16(np.array([1.0, 1.00390625, 1.01171875, np.nan], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82', '0x7fc0']
    """
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
