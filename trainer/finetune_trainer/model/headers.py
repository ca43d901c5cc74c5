"""Names and shapes of a model's tensors, from the headers of its safetensors: in a folder, or in object storage.

In: the names of a model's files, and how to read a header (`hub_models` has a way of its own). Out: name -> shape. The weights behind
the headers are never read, so that a model of 60 GB is looked at where it is. Format: 8 bytes of header length, a JSON header, the
data (https://github.com/huggingface/safetensors#format).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import InvalidModel
from finetune_api.json_text import json_value
from finetune_trainer.storage.protocol import Storage

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
SUFFIX: Final = ".safetensors"
# Read at once: most headers are shorter, and one request is cheaper than two.
_FIRST_BYTES: Final = 100_000
# The format's own limit.
_LONGEST_HEADER: Final = 100_000_000

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model's files where they are, `where` for messages. `header(name)` is what a safetensors file holds; it raises InvalidModel."""

    where: str
    names: Collection[str]
    header: Callable[[str], Shapes]


def weights_in_folder(folder: Path) -> Weights:
    """Those of a folder on this disk."""
    return Weights(where=str(folder), names={path.name for path in folder.iterdir()}, header=lambda name: _header_of_file(folder / name))


def weights_in_storage(storage: Storage, sizes: Mapping[str, int]) -> Weights:
    """Those of object storage; `sizes`: its files and their bytes."""

    def header(name: str) -> Shapes:
        return parse_header(f"{storage.url}/{name}", sizes[name], partial(storage.get, name))

    return Weights(where=storage.url, names=sizes.keys(), header=header)


def stored_tensors(weights: Weights, index: Mapping[str, Any] | None) -> Shapes:
    """Name and shape of every tensor. `index`: the content of INDEX, if there is one. Raises InvalidModel for missing or cut files."""
    tensors: Shapes = {}
    for name in _weight_files(weights, index):
        tensors.update(weights.header(name))
    return tensors


def parse_header(where: str, size: int, read: Callable[[int, int], bytes]) -> Shapes:
    """The tensors of a file of `size` bytes, of which `read(start, stop)` gives a range; the last one's end must be the file's."""
    start = read(0, min(size, _FIRST_BYTES))
    length = int.from_bytes(start[:8], "little")
    if length > _LONGEST_HEADER or size < 8 + length:
        raise damaged(where)
    text = start[8 : 8 + length]
    text += read(8 + len(text), 8 + length) if len(text) < length else b""
    try:
        found = {name: entry for name, entry in json_value(text).items() if name != "__metadata__"}
        end = max((_natural(entry["data_offsets"][1]) for entry in found.values()), default=0)
        shapes = {name: tuple(map(_natural, entry["shape"])) for name, entry in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise damaged(where) from None
    if size != 8 + length + end:
        raise damaged(where)
    return shapes


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _header_of_file(path: Path) -> Shapes:
    with path.open("rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        return parse_header(str(path), path.stat().st_size, read)


def _weight_files(weights: Weights, index: Mapping[str, Any] | None) -> list[str]:
    if index is not None:
        named = index.get("weight_map", {})
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise damaged(f"{weights.where}/{INDEX}")
        shards = sorted(set(named.values()))
        if missing := [shard for shard in shards if shard not in weights.names]:
            raise InvalidModel(f"{weights.where} lacks {', '.join(missing[:3])}, which {INDEX} names; download the model again")
        return shards
    if SINGLE in weights.names:
        return [SINGLE]
    # Pickled weights run code when they are read: they are never fetched.
    pickled = any(Path(name).match("pytorch_model*.bin") for name in weights.names)
    remedy = (
        "save it again with safetensors (model.save_pretrained)" if pickled else "download them, or set spec.model.initialization: random"
    )
    raise InvalidModel(f"{weights.where} has no weights in safetensors; {remedy}")


def damaged(where: str) -> InvalidModel:
    return InvalidModel(f"{where} is damaged or cut off; download it again")
