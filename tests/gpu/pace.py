"""What a step spares and what is told of it: layers recomputed, waits for the device, the trace of a profile, the head's own time."""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.gpu import speed
from tests.gpu.measure import BF16, Measure, apart, losses
from tests.gpu.training import LEARNING_RATE, Sizes, random_row
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_trainer.training.own_time import OwnTime
from finetune_trainer.training.plain_engine import PlainEngine
from finetune_trainer.training.profiling import Profile, StepProfiler

# Operators that give a number of the device's, or a size that depends on one.
_ASKING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero, torch.ops.aten.masked_select)


def recomputed(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """`recomputedLayers`: no layer, every second and all of them give the same losses, and keep the fewer bytes."""
    rows, kept, done = [random_row(sizes, seed) for seed in range(2)], [], []
    for every in (0, 2, 1):
        trained = speed.engine(sizes, device, BF16, seed=0, recompute_every=every)
        saved: list[Tensor] = []  # alive, so that no address is taken twice
        with torch.autograd.graph.saved_tensors_hooks(partial(_noted, saved), lambda tensor: tensor):
            first = losses(trained, rows[:1])
        kept.append(sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in saved}.values()))
        done.append([*first, *losses(trained, rows[1:])])
    for what, other in (("every second layer", done[1]), ("all layers", done[2])):
        yield Measure(name=f"recomputed, {what}: loss of step 2", error=apart(other[-1], done[0][-1]), tolerance=2e-3)
    half = abs((kept[0] - kept[1]) / (kept[0] - kept[2]) - -(-sizes.layers // 2) / sizes.layers)
    yield Measure(name="recomputed, every second layer: its share of the bytes that all of them spare", error=half, tolerance=0.1)


def _noted(saved: list[Tensor], tensor: Tensor) -> Tensor:
    saved.append(tensor)
    return tensor


def host_syncs(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """How often the host waits for the device in a step: once, however many micro-batches it has."""
    trained, rows = speed.engine(sizes, device, BF16, seed=0), [random_row(sizes, seed) for seed in range(4)]
    losses(trained, rows[:1])  # kernels are loaded, or chosen
    for count in (1, 4):
        with waits(device) as found:
            _step(trained, rows[:count])
        yield Measure(name=f"host syncs in a step of {count} micro-batch{'es' if count > 1 else ''}", error=len(found), tolerance=1)


def _step(trained: PlainEngine, rows: list[Any]) -> None:
    trained.train_step(rows, num_supervised=sum(row.num_supervised for row in rows), learning_rate=LEARNING_RATE)


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """What the host asks the device in the block, once it has ended; on a CPU, where nothing is waited for, what would be on a GPU.

    But for `tolist`, which reads a CPU's memory by no operator.
    """
    found: list[str] = []
    if device.type != "cuda":
        with _Asking(found):
            yield found
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [str(one.message) for one in told if "called a synchronizing" in str(one.message)]


class _Asking(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in _ASKING:
            self._found.append(str(function))
        return function(*args, **(kwargs or {}))


def profile(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """`--profile 2-3` of four steps: these two are in the trace, with the GPU's kernels, and no other."""
    trained = speed.engine(sizes, device, BF16, seed=0)
    with TemporaryDirectory() as folder:
        asked = Profile(first=2, last=3, folder=str(Path(folder, "traces")))
        profiler = StepProfiler(asked, 0)
        for number in range(1, 5):
            with profiler.step(number):
                losses(trained, [random_row(sizes, number)])
        events = json.loads(asked.file(0).read_text(encoding="utf-8"))["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("step ")}
    yield Measure(name="profile of steps 2-3: steps too many, or too few", error=len(steps ^ {"step 2", "step 3"}), tolerance=0)
    if device.type == "cuda":
        lacking = not any(event.get("cat") == "kernel" for event in events)
        yield Measure(name="profile of steps 2-3: kernels of the GPU are lacking", error=lacking, tolerance=0)


def own_time(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """By which a slow rank is found: the head's time is told, and is no more than that of steps; being watched costs no wait."""
    trained, rows = speed.engine(sizes, device, BF16, seed=0), [random_row(sizes, seed) for seed in range(3)]
    watch = OwnTime(trained.head, device)
    losses(trained, rows[:1])
    watch.take()
    began = time.perf_counter()
    with waits(device) as found:
        _step(trained, rows)
    wall, each = time.perf_counter() - began, watch.take()
    share = float("nan") if each is None else each * sum(row.num_supervised for row in rows) / wall
    yield Measure(name="the head's own time, of that of its step", error=share, tolerance=1.0)
    yield Measure(name="host syncs in a step whose head is watched", error=len(found), tolerance=1)
