"""What the ranks tell one another besides gradients: small Python values, over torch.distributed. All methods are collective.

They travel in CPU memory, in a group of their own: a rank that waits for another's storage or disk must not run into the time-out of its
GPU's collectives, nor stop what the GPU has yet to do.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")

# Of a wait for one rank's storage or disk. That nothing goes on, the driver notices earlier (docs/decisions/0008).
_PATIENCE: Final = timedelta(hours=1)


def rank_device() -> torch.device:
    """Where this rank computes: its GPU where the ranks talk by NCCL, else the CPU."""
    if dist.get_backend() != "nccl":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


class Ranks:
    """This rank among all of them; torch.distributed is already initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def from_first(self, ask: Callable[[], Value]) -> Value:
        """What rank 0's `ask` gives, on every rank; only rank 0 calls it. An error of it is raised on every rank: none may wait for it."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = ask()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, group=self._group)
        if box[1] is not None:
            raise box[1]
        value: Value = box[0]
        return value

    def gathered(self, value: Value) -> list[Value]:
        """Every rank's value, in order of rank, on every rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values
