"""What a check finds: an error and the most that it may be. Checks of `make test-gpu` give these, one after another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
from tests.gpu.training import LEARNING_RATE, Sizes
from torch import Tensor

from finetune_trainer.model.micro_batch import MicroBatch

BF16: Final = torch.bfloat16
CPU: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`error`: relative to the reference, in the Euclidean norm, unless the name says otherwise. `path`: how attention was computed."""

    name: str
    error: float
    tolerance: float
    path: str = ""

    @property
    def good(self) -> bool:
        """False also for an error that is no number."""
        return self.error <= self.tolerance


Check = Callable[[torch.device, Sizes], Iterator[Measure]]


def relative(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference by the norm of the reference, in fp64 on the CPU."""
    ours, reference = ours.detach().double().cpu(), reference.detach().double().cpu()
    return float((ours - reference).norm() / reference.norm())


def apart(one: float, other: float) -> float:
    """How far a number is from another, relative to that."""
    return abs(one / other - 1)


def losses(trained: Any, rows: list[MicroBatch]) -> list[float]:
    """Of a step of an engine over each row."""
    return [trained.train_step([row], num_supervised=row.num_supervised, learning_rate=LEARNING_RATE).loss for row in rows]


def state(trained: Any) -> dict[tuple[str, str], Tensor]:
    """A copy of an engine's masters and moments on the CPU, by kind and name."""
    return {(piece.kind, piece.name): piece.tensor.detach().to("cpu", copy=True) for piece in trained.local_state()}


def differing(one: dict[tuple[str, str], Tensor], other: dict[tuple[str, str], Tensor]) -> int:
    """Elements that two states don't share to the last bit."""
    return sum(int((tensor != other[key]).sum()) for key, tensor in one.items())


def is_installed(*packages: str) -> bool:
    """Whether all of them are. What takes one that this machine lacks is left out."""
    return all(find_spec(name) is not None for name in packages)
