"""What the ranks tell one another besides gradients: small Python values, over torch.distributed. All methods are collective."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


class Ranks:
    """This rank among all of them; torch.distributed is already initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        # Values travel as bytes in CPU memory wherever there is a CPU backend beside NCCL.
        self._device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

    def from_first(self, ask: Callable[[], Value]) -> Value:
        """What rank 0's `ask` gives, on every rank; only rank 0 calls it. An error of it is raised on every rank: none may wait for it."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = ask()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, device=self._device)
        if box[1] is not None:
            raise box[1]
        value: Value = box[0]
        return value

    def gathered(self, value: Value) -> list[Value]:
        """Every rank's value, in order of rank, on every rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def largest(self, value: int) -> int:
        """The largest of the ranks' numbers."""
        number = torch.tensor([value], dtype=torch.int64, device=self._device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number.item())
