"""plan(job, model shape, data shape): what the job's numbers amount to, before anything is started.

In: a job and what is known of its model, its data and the machine. Out: a Plan whose unknowns are named, or InvalidSpec
with every reason why the job can't run. Pure arithmetic: it opens no file and asks no machine.
"""

from dataclasses import dataclass
from typing import Final, Literal

from finetune_api.accelerators import ACCELERATORS, Accelerator, accelerator, nearest_name, slice_of
from finetune_api.batch_size import FEWEST_STEPS, SIZES, chosen_size, global_batch_size, micro_batch_size
from finetune_api.checks import device, in_spec_order, spec_problems
from finetune_api.cluster_checks import cluster_problems
from finetune_api.duration import EFFICIENCY, Duration, Steps, peak_flops, run_duration, run_steps
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.evaluation_notes import evaluation_notes
from finetune_api.field_effects import idle_notes
from finetune_api.finetunejob import GPU_RESOURCE, FineTuneJob, FineTuneJobSpec, ModelShape
from finetune_api.fit import MOST_ROWS, Batch, fit_problem, gib
from finetune_api.memory import Load, memory
from finetune_api.quantity import number
from finetune_api.training_run import DataShape, Memory, Plan, SplitShape, Unknown

# An `Unknown` of the plan: nobody compared a worker's memory with what it will have.
WHETHER_IT_FITS: Final = "whether it fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is known of the machine that workers run on. None is unknown. `called`, `field`: whose memory it is, and where it is set."""

    called: str = "this machine"
    field: str = ""
    memory_bytes: int | None = None
    gpus: int | None = None
    gpu_memory_bytes: int | None = None
    accelerator: str | None = None
    fast_bf16: bool | None = None


def plan(job: FineTuneJob, model_shape: ModelShape | None, data_shape: DataShape | None, machine: Machine | None = None) -> Plan:
    """The plan, or InvalidSpec with all problems. `model_shape` is read from the model's config; absent, spec.model.shape counts."""
    spec, machine = job.spec, machine or Machine()
    problems = [*spec_problems(spec), *_shape_problems(spec, model_shape), *_machine_problems(spec, machine)]
    shape = model_shape or spec.model.shape
    card = accelerator(machine.accelerator or spec.workers.accelerator or "")
    card = slice_of(card, spec.workers.gpu) if card else None
    precision = _precision(spec, card, machine)
    problems += _precision_problems(spec, card) + _length_problems(spec, shape)
    batch_size = global_batch_size(spec, data_shape)
    steps = run_steps(spec, data_shape, batch_size)
    problems += _warmup_problems(spec, steps)
    if spec.workers.world_size == 0:
        raise InvalidSpec(in_spec_order(problems))
    batch = _batch(spec, batch_size)
    problems += _batch_problems(spec, batch)
    needed = _memory(spec, shape, batch, card, machine, precision) if shape else None
    if shape and needed and not problems:
        found = fit_problem(_load(spec, shape, batch, precision), batch, needed, _capacity_name(spec, batch, card, machine))
        problems += [found] if found else []
    if problems:
        raise InvalidSpec(in_spec_order(problems))
    return _plan(spec, shape, data_shape, batch, card, machine, precision, steps, needed)


def cluster_plan(job: FineTuneJob, model_shape: ModelShape | None, data_shape: DataShape | None) -> Plan:
    """The plan for a cluster; InvalidSpec with all problems, a cluster's own among them.

    Its GPUs are those of workers.accelerator; CPU workers have the memory that their pod is limited to.
    """
    problems = cluster_problems(job)
    try:
        found = plan(job, model_shape, data_shape, _worker_pod(job.spec))
    except InvalidSpec as refused:
        raise InvalidSpec(in_spec_order([*refused.problems, *problems])) from None
    if problems:
        raise InvalidSpec(in_spec_order(problems))
    return found


def _worker_pod(spec: FineTuneJobSpec) -> Machine:
    limit = spec.workers.resources.limits.get("memory")
    return Machine(called="its pod", field=" (workers.resources.limits.memory)", memory_bytes=None if limit is None else int(number(limit)))


def _plan(
    spec: FineTuneJobSpec,
    shape: ModelShape | None,
    data: DataShape | None,
    batch: Batch,
    card: Accelerator | None,
    machine: Machine,
    precision: Literal["bf16", "fp32"],
    steps: Steps,
    needed: Memory | None,
) -> Plan:
    """The value, once nothing is wrong."""
    training, world = spec.training, spec.workers.world_size
    peak = peak_flops(spec, card, precision)
    duration = run_duration(spec, shape, data, peak, steps, batch.global_batch_size)
    weight_bytes = 2 if precision == "bf16" else 4
    return Plan(
        device=_device(spec),
        accelerator=card.name if card and _device(spec) == "gpu" else None,
        precision=precision,
        world_size=world,
        nodes=spec.workers.nodes,
        micro_batch_size=batch.micro_batch_size,
        micro_steps=batch.global_batch_size // (batch.micro_batch_size * world),
        global_batch_size=batch.global_batch_size,
        max_sequence_length=training.max_sequence_length,
        tokens_per_step=batch.global_batch_size * training.max_sequence_length,
        rows_per_epoch=steps.rows_per_epoch,
        steps_per_epoch=steps.steps_per_epoch,
        epochs=steps.epochs,
        total_steps=steps.total,
        warmup_steps=steps.warmup,
        memory=needed,
        host_loading_bytes=shape.parameters * weight_bytes if shape else None,
        checkpoint_bytes=shape.parameters * 12 if shape else None,
        export_bytes=shape.parameters * weight_bytes if shape else None,
        flops_per_token=duration.flops_per_token,
        efficiency=EFFICIENCY if duration.seconds_per_step else None,
        seconds_per_step=duration.seconds_per_step,
        seconds=duration.seconds,
        gpu_hours=duration.gpu_hours,
        unknown=tuple(_unknown(spec, shape, data, card, machine, needed, peak)),
        notes=tuple(_notes(spec, shape, data, batch, steps, duration)),
    )


def assumed_data(tokens: int, max_sequence_length: int) -> DataShape:
    """A data shape for planning before preparation: full rows, attention at its most, nothing known of labels."""
    rows = -(-tokens // max_sequence_length)
    split = SplitShape(
        dialogues=0, segments=rows, tokens=tokens, supervised_tokens=0, rows=rows, squared_lengths=tokens * max_sequence_length
    )
    return DataShape(fingerprint="assumed", train=split)


def _device(spec: FineTuneJobSpec) -> Literal["cpu", "gpu"]:
    return "gpu" if device(spec) == "gpu" else "cpu"


# ---- batches


def _batch(spec: FineTuneJobSpec, batch_size: int) -> Batch:
    training, workers = spec.training, spec.workers
    return Batch(
        nodes=workers.nodes,
        workers_per_node=workers.world_size // workers.nodes,
        micro_batch_size=micro_batch_size(spec, batch_size),
        global_batch_size=batch_size,
        max_sequence_length=training.max_sequence_length,
    )


def _batch_problems(spec: FineTuneJobSpec, batch: Batch) -> list[Problem]:
    """Every rank has to get whole micro-batches."""
    if batch.divides():
        return []
    size, world = batch.global_batch_size, spec.workers.world_size
    unit = batch.micro_batch_size * world
    if spec.training.global_batch_size is None:
        return [_no_share(size, world, unit)]
    near = [str(multiple) for multiple in (size // unit * unit, (size // unit + 1) * unit) if multiple]
    remedy = f"use {' or '.join(near)}"
    if size % world == 0:
        micro = next(m for m in range(min(spec.training.micro_batch_size, MOST_ROWS), 0, -1) if size // world % m == 0)
        remedy += f", or microBatchSize {micro}"
    return [Problem("spec.training.globalBatchSize", f"{size} is not a multiple of microBatchSize*worldSize={unit}", remedy)]


def _no_share(size: int, world: int, unit: int) -> Problem:
    """A size that we chose, and that the workers can't divide among them."""
    return Problem(
        "spec.training.globalBatchSize",
        f"is absent, and the {size} that leave {FEWEST_STEPS} steps are not a multiple of the {world} workers",
        f"set it to a multiple of microBatchSize*worldSize={unit}",
    )


def _warmup_problems(spec: FineTuneJobSpec, steps: Steps) -> list[Problem]:
    if steps.warmup is None or steps.total is None or steps.warmup <= steps.total:
        return []
    return [
        Problem(
            "spec.training.optimizer.warmupSteps",
            f"{steps.warmup} is more than the run's {steps.total} steps",
            f"use at most {steps.total}",
        )
    ]


# ---- the model


def _shape_problems(spec: FineTuneJobSpec, found: ModelShape | None) -> list[Problem]:
    """spec.model.shape is a promise that the model's config has to keep."""
    given = spec.model.shape
    if given is None or found is None:
        return []
    told, read = given.model_dump(by_alias=True), found.model_dump(by_alias=True)
    return [
        Problem(
            f"spec.model.shape.{name}", f"{told[name]} is not what config.json says ({read[name]})", f"use {read[name]}, or remove shape"
        )
        for name in told
        if told[name] is not None and told[name] != read[name]
    ]


def _length_problems(spec: FineTuneJobSpec, shape: ModelShape | None) -> list[Problem]:
    length = spec.training.max_sequence_length
    if shape is None or shape.positions is None or length <= shape.positions:
        return []
    return [
        Problem(
            "spec.training.maxSequenceLength",
            f"{length} is more than the {shape.positions} positions of the model",
            f"use at most {shape.positions}" if shape.positions >= 8 else "name a model that takes 8 tokens or more",
        )
    ]


# ---- the machine


def _machine_problems(spec: FineTuneJobSpec, machine: Machine) -> list[Problem]:
    """More GPUs than the machine has."""
    wanted, nodes = spec.workers.gpus_per_node, spec.workers.nodes
    if machine.gpus is None or device(spec) != "gpu" or wanted * nodes <= machine.gpus:
        return []
    if wanted <= machine.gpus:
        told = f"{nodes} nodes of {wanted} GPUs are more than the {machine.gpus} GPUs of this one machine"
        return [Problem("spec.workers.nodes", told, f"use {machine.gpus // wanted}, or run the job on a cluster")]
    remedy = f"use {machine.gpus}" if machine.gpus else "use device: cpu and workersPerNode: 2, or a machine with GPUs"
    return [Problem("spec.workers.gpusPerNode", f"{wanted} is more than the {machine.gpus} GPUs of this machine", remedy)]


def _precision(spec: FineTuneJobSpec, card: Accelerator | None, machine: Machine) -> Literal["bf16", "fp32"]:
    """The arithmetic that `auto` comes to: bf16 on GPUs that have it (or that we don't know), on CPUs only where it is known to be fast."""
    if spec.training.precision != "auto":
        return spec.training.precision
    if machine.fast_bf16 is not None:
        return "bf16" if machine.fast_bf16 else "fp32"
    fast = device(spec) == "gpu" and (card is None or card.bf16_flops is not None)
    return "bf16" if fast else "fp32"


def _precision_problems(spec: FineTuneJobSpec, card: Accelerator | None) -> list[Problem]:
    if spec.training.precision != "bf16" or device(spec) != "gpu" or card is None or card.bf16_flops is not None:
        return []
    return [Problem("spec.training.precision", f"bf16 is not in {card.name}", "use auto or fp32")]


def _load(spec: FineTuneJobSpec, shape: ModelShape, batch: Batch, precision: Literal["bf16", "fp32"]) -> Load:
    training = spec.training
    return Load(
        shape=shape,
        zero=training.deepspeed,
        device=_device(spec),
        precision=precision,
        world_size=spec.workers.world_size,
        tokens=batch.micro_batch_size * training.max_sequence_length,
        checkpointing=training.activation_checkpointing,
    )


def _memory(
    spec: FineTuneJobSpec, shape: ModelShape, batch: Batch, card: Accelerator | None, machine: Machine, precision: Literal["bf16", "fp32"]
) -> Memory:
    """The peak beside what a worker has: its GPU's memory, or on CPUs its share of the machine."""
    if device(spec) == "gpu":
        capacity = machine.gpu_memory_bytes or (card.memory_bytes if card else None)
    else:
        capacity = machine.memory_bytes // batch.workers_per_node if machine.memory_bytes else None
    return memory(_load(spec, shape, batch, precision), capacity)


def _capacity_name(spec: FineTuneJobSpec, batch: Batch, card: Accelerator | None, machine: Machine) -> str:
    if device(spec) == "gpu":
        part = "" if spec.workers.gpu == GPU_RESOURCE else f" ({spec.workers.gpu})"
        return f"{card.name}{part}" if card else "this machine's GPU"
    workers = batch.workers_per_node
    if workers == 1:
        return machine.called + machine.field
    return f"its share of {machine.called}'s {gib(machine.memory_bytes or 0)} GiB{machine.field} among {workers} workers"


# ---- what to say besides


def _unknown(
    spec: FineTuneJobSpec,
    shape: ModelShape | None,
    data: DataShape | None,
    card: Accelerator | None,
    machine: Machine,
    needed: Memory | None,
    peak: float | None,
) -> list[Unknown]:
    """What the plan leaves open, and what would settle it."""
    found = []
    if shape is None:
        found.append(Unknown(name="memory", why="the model's shape is not known; give spec.model.shape, or a directory with config.json"))
    unknown_gpu = device(spec) == "gpu" and card is None and machine.gpu_memory_bytes is None
    if unknown_gpu or (needed and needed.capacity_bytes is None):
        found.append(Unknown(name=WHETHER_IT_FITS, why=_why_no_capacity(spec, needed)))
    if data is None:
        what = "time" if spec.training.max_steps else "steps and time"
        found.append(Unknown(name=what, why="the data is not prepared yet; preparation counts its rows"))
        if spec.training.global_batch_size is None:
            found.append(Unknown(name="batch", why=f"globalBatchSize is absent and follows from the rows; {SIZES[0]} is assumed here"))
    if shape is not None and peak is None and device(spec) == "cpu":
        found.append(Unknown(name="seconds", why="CPUs differ too much; the first steps tell"))
    elif shape is not None and peak is None:
        found.append(Unknown(name="seconds", why="no peak is known for the GPU; set spec.workers.accelerator or peakTeraflops"))
    if spec.training.precision == "auto" and machine.fast_bf16 is None and (card is None or device(spec) == "cpu"):
        assumed = _precision(spec, card, machine)
        found.append(Unknown(name="precision", why=f"auto looks at the hardware; {assumed} is assumed here"))
    return found


def _why_no_capacity(spec: FineTuneJobSpec, needed: Memory | None) -> str:
    if device(spec) == "cpu":
        return (
            "the memory of workers is not known here; `finetune run` compares, and so does a cluster with workers.resources.limits.memory"
        )
    name = spec.workers.accelerator
    if name is None:
        return "the GPU model is not given; set spec.workers.accelerator, for example nvidia-a100-80gb" + _beside_the_largest(needed)
    like = nearest_name(name)
    return f"{name} is not a GPU model that we know" + (f"; did you mean {like}?" if like else "") + _beside_the_largest(needed)


def _beside_the_largest(needed: Memory | None) -> str:
    """What a worker needs, where no GPU that we know has that."""
    largest = max(ACCELERATORS, key=lambda card: card.memory_bytes)
    if needed is None or needed.total_bytes <= largest.memory_bytes:
        return ""
    return f"; a worker needs {gib(needed.total_bytes)} GiB, more than any that we know has ({largest.name}: {gib(largest.memory_bytes)})"


def _notes(
    spec: FineTuneJobSpec, shape: ModelShape | None, data: DataShape | None, batch: Batch, steps: Steps, duration: Duration
) -> list[str]:
    """What a reader of the numbers should know."""
    notes = idle_notes(spec)
    if spec.training.global_batch_size is None and data is not None:
        notes.append(chosen_size(batch.global_batch_size, steps.total))
    if duration.seconds_per_step is not None:
        notes.append(
            f"Time is computing time at {EFFICIENCY:.0%} of the peak, as the recipe's published run reached, recomputation counted; "
            "loading and checkpoints come on top."
        )
    if duration.flops_per_token is not None and data is None:
        notes.append("Operations assume full rows of one dialogue each, the most they can be.")
    if data is not None and data.fingerprint == "assumed":
        notes.append(
            f"Steps and time follow from {data.train.tokens:,} tokens an epoch, which is an assumption until the data is prepared."
        )
    if data is not None and data.train.rows < batch.global_batch_size:
        rows, size = data.train.rows, batch.global_batch_size
        notes.append(f"An epoch has {rows} rows, fewer than globalBatchSize {size}: each epoch is one short step.")
    if spec.training.max_steps and steps.steps_per_epoch and steps.total:
        notes.append(f"{steps.total} steps are {steps.total / steps.steps_per_epoch:.2f} epochs.")
    notes += evaluation_notes(spec, data, steps)
    if shape is not None and spec.workers.nodes > 1:
        notes.append(_network_note(spec, shape, batch, duration))
    return notes


def _network_note(spec: FineTuneJobSpec, shape: ModelShape, batch: Batch, duration: Duration) -> str:
    """ZeRO-3 gathers weights twice and scatters gradients once per micro-step."""
    world = spec.workers.world_size
    moved = 3 * 2 * shape.parameters * (world - 1) / world
    note = f"Each micro-step moves {moved / 1e9:.0f} GB between the nodes"
    if duration.seconds_per_step is None:
        return note + "."
    computing = duration.seconds_per_step * batch.micro_batch_size * world / batch.global_batch_size
    return f"{note}: below {moved * 8 / computing / 1e9:.0f} Gb/s a node the network, not computing, sets the time."
