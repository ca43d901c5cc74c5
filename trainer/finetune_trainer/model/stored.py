"""Parameters whose values are still in their safetensors: each rank reads the range that it will hold, and nobody the whole model.

In: a folder, and a model of its config whose parameters are on the meta device. Out: on each parameter where its values are, as an
attribute. Which tensors of the files make up a parameter, Transformers' own renaming says (`publishing.tensor_names`). A family for
which it can't, or a folder that holds anything unexpected, is left to `from_pretrained`, which reads all and explains what is wrong.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from finetune_trainer.model.headers import INDEX, SINGLE
from finetune_trainer.publishing.tensor_names import published_tensors

_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# At once: a range is read in pieces, each cast to the model's type.
_PIECE_ELEMENTS: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Consecutive elements of a parameter, `start` to `stop`, in a file from byte `offset`."""

    start: int
    stop: int
    file: Path
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValues:
    """Where the values of one parameter are; what no extent has is 0.

    `fresh`: its rows that no base model has seen; they are the mean of the others.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    extents: Sequence[Extent]
    fresh: Sequence[int] = field(default=())

    @property
    def row(self) -> int:
        """Elements of a row."""
        return prod(self.shape[1:])

    def read(self, start: int, stop: int, mean: Tensor | None) -> Tensor:
        """Elements [start, stop) of the flattened parameter. `mean`: the value of fresh rows, where there are any."""
        values = torch.zeros(stop - start, dtype=self.dtype)
        for one in self.extents:
            first, last = max(start, one.start), min(stop, one.stop)
            for begin in range(first, last, _PIECE_ELEMENTS):
                end = min(begin + _PIECE_ELEMENTS, last)
                values[begin - start : end - start] = _read(one, begin - one.start, end - one.start)
        for row in self.fresh:
            first, last = max(start, row * self.row), min(stop, (row + 1) * self.row)
            if first < last:
                assert mean is not None, "a parameter with fresh rows has a mean of the others"
                values[first - start : last - start] = mean.view(-1)[first - row * self.row : last - row * self.row]
        return values

    def mean(self) -> Tensor:
        """The mean of the rows that are not fresh: reads the whole table, and holds a piece of it."""
        unused = torch.zeros(self.row, dtype=self.dtype)

        def rows(first: int, last: int) -> Tensor:
            return self.read(first * self.row, last * self.row, unused).view(last - first, self.row)

        return mean_row(rows, self.shape[0], self.row, self.fresh).to(self.dtype).view(self.shape[1:])


def mean_row(rows: Callable[[int, int], Tensor], num_rows: int, row: int, fresh: Sequence[int]) -> Tensor:
    """(row,) in fp64: the mean of all rows but the `fresh` ones. `rows(first, last)`: those of the table, (last - first, row).

    A piece at a time: whether the table is in memory or in a file, the same sums are made in the same order.
    """
    known = torch.ones(num_rows, dtype=torch.bool)
    known[list(fresh)] = False
    total, each = torch.zeros(row, dtype=torch.float64), max(1, _PIECE_ELEMENTS // row)
    for first in range(0, num_rows, each):
        last = min(first + each, num_rows)
        total += rows(first, last)[known[first:last]].sum(dim=0, dtype=torch.float64)
    return total / known.sum()


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """While the block runs, parameters that are left in files are on the CPU: one element, seen in each place.

    Who puts something beside them, on their device and in their type, makes it for real. What the block froze stays frozen.
    """
    left, made = list[tuple[nn.Module, str, nn.Parameter]](), dict[int, nn.Parameter]()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and stored_values(parameter) is not None:
                left.append((module, name, parameter))
    for module, name, parameter in left:
        if id(parameter) not in made:
            one = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            made[id(parameter)] = nn.Parameter(one, requires_grad=parameter.requires_grad)
        module._parameters[name] = made[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in left:
            parameter.requires_grad_(made[id(parameter)].requires_grad)
            module._parameters[name] = parameter


def stored_values(parameter: nn.Parameter) -> StoredValues | None:
    """Where the values of a parameter on the meta device are; None where it has none to read."""
    return cast("StoredValues | None", getattr(parameter, _ATTRIBUTE, None))


_ATTRIBUTE: Final = "finetune_stored_values"


def leave_in_files(model: Any, folder: Path, as_stored: Any, fresh: Mapping[str, Sequence[int]]) -> bool:
    """Tell the parameters of `model` where their values are; False, and nothing is told, where that can't be said of each of them.

    `as_stored`: the model of the folder's own config, without memory: with the vocabulary of the files. `fresh`: rows that the files lack
    or that no base model has seen, by parameter.
    """
    saved, parameters = as_stored.state_dict().keys(), dict(as_stored.named_parameters())
    if getattr(as_stored.config, "quantization_config", None) or any(name in saved for name, _ in as_stored.named_buffers()):
        return False
    if not all(one.requires_grad for one in parameters.values()):
        return False
    if any(one.shape != parameters[name].shape and name not in fresh for name, one in model.named_parameters()):
        return False
    pieces, found = published_tensors(as_stored, list(parameters)), dict(tensors_of(folder))
    if {name: piece.shape for name, piece in pieces.items()} != {name: shape for name, (shape, *_) in found.items()}:
        return False
    extents: dict[str, list[Extent]] = {name: [] for name in parameters}
    for name, piece in pieces.items():
        shape, code, file, offset = found[name]
        if code not in _DTYPES:
            return False
        stop = piece.offset + prod(shape)
        extents[piece.source].append(Extent(start=piece.offset, stop=stop, file=file, offset=offset, dtype=_DTYPES[code]))
    for name, parameter in model.named_parameters():
        values = StoredValues(shape=tuple(parameter.shape), dtype=parameter.dtype, extents=extents[name], fresh=fresh.get(name, ()))
        setattr(parameter, _ATTRIBUTE, values)
    return True


def left_to_checkpoint(model: Any) -> Any:
    """`model`, whose parameters are on the meta device, with nothing to read for them: a checkpoint will give them their values."""
    saved, buffers = model.state_dict().keys(), dict(model.named_buffers())
    assert not saved & buffers.keys(), "what is saved and not trained is read with the weights"
    for parameter in model.parameters():
        assert parameter.requires_grad, "what is frozen is read with the weights"
        setattr(parameter, _ATTRIBUTE, StoredValues(shape=tuple(parameter.shape), dtype=parameter.dtype, extents=()))
    return model


def _read(one: Extent, start: int, stop: int) -> Tensor:
    """Elements of an extent."""
    size = one.dtype.itemsize
    data = torch.empty((stop - start) * size, dtype=torch.uint8)
    with one.file.open("rb", buffering=0) as file:
        file.seek(one.offset + start * size)
        count = file.readinto(cast(Any, data.numpy()))
    assert count == data.numel(), "a header says where its file ends"
    return data.view(one.dtype)


def tensors_of(folder: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], str, Path, int]]]:
    """(name, (shape, type, file, byte)) of every tensor of a folder whose files `headers` has found whole."""
    index = folder / INDEX
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else {SINGLE}
    for path in (folder / name for name in sorted(names)):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, (tuple(entry["shape"]), entry["dtype"], path, 8 + length + entry["data_offsets"][0])
