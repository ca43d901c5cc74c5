"""The check at the start of an attempt: products on this GPU, and sums of pairs over NCCL where there is more than one."""

import os
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.gpu.measure import Measure
from tests.gpu.training import Sizes

from finetune_trainer.training.startup_check import ON_CPU, ON_GPU, Size, measured, multiplied, partners
from finetune_trainer.training.surroundings import Position

_MOST_RANKS = 8
_PATIENCE_SECONDS = 120.0


def products(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Matrices of whole numbers, whose product is known: in 16 bits as in 32."""
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
        _, wrong = multiplied(device, dtype, _size(device))
        yield Measure(name=f"check at the start, {word}: a product is wrong", error=wrong, tolerance=0)


def pairs(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Every GPU as a node of its own; on CPUs two processes over gloo. One GPU has nobody to add up with."""
    on_gpus = device.type == "cuda"
    ranks = min(_MOST_RANKS, torch.cuda.device_count()) if on_gpus else 2
    if ranks < 2:
        return
    found = [_of_rank(one) for one in _measured(ranks, "nccl" if on_gpus else "gloo", _size(device))]
    missing = sum(met != partners(rank, ranks) for rank, (met, _) in enumerate(found))
    yield Measure(name=f"check at the start, {ranks} ranks: ranks that did not meet their partners", error=missing, tolerance=0)
    yield Measure(name=f"check at the start, {ranks} ranks: sums of pairs that are wrong", error=sum(bad for _, bad in found), tolerance=0)


def _of_rank(one: Any) -> tuple[list[int], int]:
    return [pair.node for pair in one.pairs], sum(pair.wrong for pair in one.pairs)


def _size(device: torch.device) -> Size:
    return replace(ON_GPU, seconds=1.0) if device.type == "cuda" else ON_CPU


def _measured(ranks: int, backend: str, size: Size) -> list[Any]:
    """What each rank found. Processes of their own, which are gone afterwards."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    with TemporaryDirectory() as folder:
        started = [context.Process(target=_rank, args=(rank, ranks, backend, folder, size, results)) for rank in range(ranks)]
        for one in started:
            one.start()
        try:
            found = dict(results.get(timeout=_PATIENCE_SECONDS) for _ in started)
        except queue.Empty:
            raise TimeoutError(f"{ranks} ranks over {backend} did not all answer within {_PATIENCE_SECONDS:.0f} s") from None
        finally:
            for one in started:
                one.join(timeout=5.0)
                one.kill()
    return [found[rank] for rank in range(ranks)]


def _rank(rank: int, ranks: int, backend: str, folder: str, size: Size, results: Any) -> None:
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group(backend, init_method=f"file://{Path(folder, 'meeting')}", rank=rank, world_size=ranks)
    position = Position(rank=rank, node=rank, worker=0, workers=1)
    results.put((rank, measured(ranks, position, precision="bfloat16" if backend == "nccl" else "float32", size=size)))
    dist.barrier()
    dist.destroy_process_group()
