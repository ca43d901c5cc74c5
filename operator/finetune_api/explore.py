"""Other layouts of a job: which fit, how long each takes, what each costs; and of those that don't fit, why.

In: a job, what is known of its model, data and machine. Out: layouts, the fastest first. Every one is a job that `plan` takes: settings
are those that this version can run, the rows of a step stay as they are, and so does all else that decides what is learnt, but for the
method, which is told apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal, get_args

from finetune_api.batch_size import global_batch_size
from finetune_api.calibration import Calibration
from finetune_api.checks import device
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob, FineTuneJobSpec, ModelShape, Offload, Training
from finetune_api.load import Method
from finetune_api.plan import ROOM, Machine, plan
from finetune_api.training_run import DataShape, Plan

_NODES: Final = (1, 2, 4, 8)
# Rows of a micro-batch that are tried: powers of two up to here.
_MOST_ROWS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between layouts. `offload`: what is kept in the host's memory."""

    nodes: int
    method: Method
    sharding: Literal["zero3", "zero2"]
    offload: Literal["nothing", "optimizer", "optimizer and weights"]
    micro_batch_size: int
    checkpointing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Settings that fit, and the plan of them."""

    settings: Settings
    plan: Plan

    @property
    def is_tight(self) -> bool:
        """Whether less memory is left than the plan may be wrong by."""
        needed = self.plan.memory
        return needed is not None and needed.capacity_bytes is not None and needed.total_bytes > ROOM * needed.capacity_bytes

    @property
    def seconds(self) -> float:
        """What they are ranked by: the run's time, or that of a step; 0 where neither is known."""
        timing = self.plan.timing
        return (timing.held_seconds if timing else None) or self.plan.seconds_per_step or 0.0

    def as_spec(self, rows: int) -> dict[str, Any]:
        """The layout as a part of `spec`."""
        chosen = self.settings
        training: dict[str, Any] = {
            "method": chosen.method,
            "sharding": chosen.sharding,
            "microBatchSize": chosen.micro_batch_size,
            "globalBatchSize": rows,
            "activationCheckpointing": chosen.checkpointing,
            **({"recomputedLayers": "fewest"} if chosen.checkpointing else {}),
        }
        if chosen.offload != "nothing":
            kept = ("offload_optimizer", "offload_param") if chosen.offload != "optimizer" else ("offload_optimizer",)
            training["deepspeed"] = {name: {"device": "cpu"} for name in kept}
        workers: dict[str, Any] = {"nodes": chosen.nodes}
        if self.plan.device == "gpu":
            workers["gpusPerNode"] = self.plan.world_size // self.plan.nodes
        return {"training": training, "workers": workers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A number of nodes and a method with which nothing fits, and why not even the smallest layout does."""

    nodes: int
    method: Method
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """Layouts that fit, fastest first; what doesn't; rows of a step in all of them."""

    fitting: tuple[Layout, ...]
    refused: tuple[Refused, ...]
    rows: int


def explore(
    job: FineTuneJob, shape: ModelShape | None, data: DataShape | None, machine: Machine | None = None, earlier: Calibration | None = None
) -> Exploration:
    """For each number of nodes and each method the layout of the least time; of those that leave room in memory, if there are any."""
    rows = global_batch_size(job.spec, data)
    fitting, refused = [], []
    for nodes, method in product(_nodes(job.spec), _words("method")):
        found, why = [], ""
        for settings in _settings(job.spec, rows, nodes, method):
            try:
                found.append(Layout(settings=settings, plan=plan(_with(job, rows, settings), shape, data, machine, earlier)))
            except InvalidSpec as error:
                why = str(error.problems[0])  # of the last, which is the smallest
        if found:
            fitting.append(min(found, key=lambda layout: _preference(layout, job.spec)))
        elif why:
            refused.append(Refused(nodes=nodes, method=method, why=why))
    return Exploration(fitting=tuple(sorted(fitting, key=lambda layout: layout.seconds)), refused=tuple(refused), rows=rows)


def _preference(layout: Layout, spec: FineTuneJobSpec) -> tuple[bool, float, bool, bool, int]:
    """The smaller, the better. Where no time is known: the job's own sharding, no recomputation, the largest micro-batch."""
    chosen = layout.settings
    own = chosen.sharding == spec.training.sharding
    return layout.is_tight, layout.seconds, not own, chosen.checkpointing, -chosen.micro_batch_size


def _nodes(spec: FineTuneJobSpec) -> list[int]:
    return sorted({*_NODES, spec.workers.nodes}) if device(spec) == "gpu" else [spec.workers.nodes]


def _words(field: str) -> tuple[Any, ...]:
    """The values that a field of training takes in this version."""
    return get_args(Training.model_fields[field].annotation)


def _settings(spec: FineTuneJobSpec, rows: int, nodes: int, method: Method) -> Iterator[Settings]:
    """All that divide a step, the smallest in memory last. One worker has nothing to divide, and a CPU no host to offload to."""
    world = nodes * (spec.workers.world_size // spec.workers.nodes)
    sizes = {size for size in (2**power for power in range(_MOST_ROWS.bit_length())) if rows % (size * world) == 0}
    if rows % (spec.training.micro_batch_size * world) == 0:
        sizes.add(spec.training.micro_batch_size)
    shardings: tuple[Literal["zero3", "zero2"], ...] = ("zero2", "zero3") if world > 1 else (spec.training.sharding,)
    if method == "qlora":
        shardings = ("zero2",)  # ZeRO-3 can't cut what is in 4 bits
    for offload in get_args(Settings.__annotations__["offload"]) if device(spec) == "gpu" else ("nothing",):
        for sharding, checkpointing in product(shardings, (False, True)):
            if offload == "optimizer and weights" and sharding == "zero2":
                continue
            for size in sorted(sizes, reverse=True):
                yield Settings(
                    nodes=nodes, method=method, sharding=sharding, offload=offload, micro_batch_size=size, checkpointing=checkpointing
                )


def _with(job: FineTuneJob, rows: int, chosen: Settings) -> FineTuneJob:
    """The job with that layout."""
    spec, training = job.spec, job.spec.training
    host, none = Offload(device="cpu"), Offload()
    zero = training.deepspeed.model_copy(
        update={
            "offload_optimizer": none if chosen.offload == "nothing" else host,
            "offload_param": host if chosen.offload == "optimizer and weights" else none,
        }
    )
    changes = {
        "global_batch_size": rows,
        "micro_batch_size": chosen.micro_batch_size,
        "activation_checkpointing": chosen.checkpointing,
        "recomputed_layers": "fewest" if chosen.checkpointing else "all",
        "method": chosen.method,
        "sharding": chosen.sharding,
        "deepspeed": zero,
        "lora": training.lora if chosen.method != "full" else None,
    }
    workers = spec.workers.model_copy(update={"nodes": chosen.nodes})
    return job.model_copy(update={"spec": spec.model_copy(update={"training": training.model_copy(update=changes), "workers": workers})})
