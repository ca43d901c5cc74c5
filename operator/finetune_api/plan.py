"""plan(job, model shape, data shape): what the job's numbers amount to, before anything is started.

In: a job and what is known of its model, its data and the machine. Out: a Plan whose unknowns are named, or InvalidSpec
with every reason why the job can't run. Pure arithmetic: it opens no file and asks no machine.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from finetune_api.accelerators import Accelerator, accelerator, slice_of
from finetune_api.batch_size import FEWEST_STEPS, global_batch_size, micro_batch_size
from finetune_api.calibration import Calibration
from finetune_api.checks import device, in_spec_order, spec_problems
from finetune_api.cluster_checks import cluster_problems
from finetune_api.duration import Steps, run_steps
from finetune_api.elastic import told_of_fewest, with_fewest_nodes
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import GPU_RESOURCE, FineTuneJob, FineTuneJobSpec, ModelShape
from finetune_api.fit import MOST_ROWS, Batch, fit_problem, gib
from finetune_api.load import Load, adapter_parameters
from finetune_api.memory import memory
from finetune_api.plan_notes import Known, notes, unknown
from finetune_api.quantity import number
from finetune_api.run_time import Duration, Setting, run_duration
from finetune_api.training_run import DataShape, Memory, Plan, SplitShape, TrainingRun

_NO_LIMIT: Final = 2**62
# Share of a worker's memory that is planned with where there is a choice: the plan is within 10 % of what was measured
# (docs/benchmarks.md).
ROOM: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is known of the machine that workers run on. None is unknown. `called`, `field`: whose memory it is, and where it is set.

    `network_bandwidth`: bytes a second between nodes, of each.
    """

    called: str = "this machine"
    field: str = ""
    memory_bytes: int | None = None
    gpus: int | None = None
    gpu_memory_bytes: int | None = None
    accelerator: str | None = None
    fast_bf16: bool | None = None
    network_bandwidth: float | None = None


def plan(
    job: FineTuneJob,
    model_shape: ModelShape | None,
    data_shape: DataShape | None,
    machine: Machine | None = None,
    earlier: Calibration | None = None,
) -> Plan:
    """The plan, or InvalidSpec with all problems. `model_shape` is read from the model's config; absent, spec.model.shape counts.

    `earlier`: what runs on such machines say of their speed and memory.
    """
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
    load = load_of(spec, shape, data_shape, batch, precision) if shape else None
    if load is not None and spec.training.recomputed_layers == "fewest":
        load = _recomputing_fewest(load, lambda one: _memory(spec, one, batch, card, machine, earlier))
    needed = _memory(spec, load, batch, card, machine, earlier) if load else None
    if load and needed and not problems:
        found = fit_problem(load, batch, needed, _capacity_name(spec, batch, card, machine))
        problems += [found] if found else []
    if problems:
        raise InvalidSpec(in_spec_order(problems))
    whole = _plan(spec, load, data_shape, batch, card, machine, precision, steps, needed, earlier)
    if not spec.workers.is_elastic:
        return whole
    fewest = with_fewest_nodes(job, lambda fewer: plan(fewer, model_shape, data_shape, machine, earlier))
    return whole.model_copy(update={"notes": (*whole.notes, told_of_fewest(whole, fewest))})


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
    load: Load | None,
    data: DataShape | None,
    batch: Batch,
    card: Accelerator | None,
    machine: Machine,
    precision: Literal["bf16", "fp16", "fp32"],
    steps: Steps,
    needed: Memory | None,
    earlier: Calibration | None,
) -> Plan:
    """The value, once nothing is wrong."""
    training, world = spec.training, spec.workers.world_size
    checkpoint_bytes = load.trained * 12 if load else None
    duration, work = Duration(), None
    if load is not None and checkpoint_bytes is not None:
        setting = Setting(
            spec=spec,
            load=load,
            data=data,
            card=card,
            steps=steps,
            rows=batch.global_batch_size,
            checkpoint_bytes=checkpoint_bytes,
            network=machine.network_bandwidth,
            earlier=earlier,
        )
        duration, work = run_duration(setting), setting.work
    known = Known(spec=spec, load=load, work=work, data=data, card=card, batch=batch, steps=steps, needed=needed, duration=duration)
    # In 4 bits each worker reads for itself.
    whole = load.base_bytes * (batch.workers_per_node if load.method == "qlora" else 1) if load else None
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
        recompute_every=_recompute_every(load) if load is not None and training.recomputed_layers == "fewest" else None,
        memory=needed,
        host_loading_bytes=whole,
        checkpoint_bytes=checkpoint_bytes,
        export_bytes=_export_bytes(spec, load),
        flops_per_token=duration.flops_per_token,
        efficiency=duration.efficiency,
        seconds_per_step=duration.seconds_per_step,
        seconds=duration.seconds,
        gpu_hours=duration.gpu_hours,
        timing=duration.timing,
        unknown=tuple(unknown(known, precision, measured=machine.fast_bf16 is not None, gpu_memory=machine.gpu_memory_bytes is not None)),
        notes=tuple(notes(known, machine.network_bandwidth)),
    )


def _export_bytes(spec: FineTuneJobSpec, load: Load | None) -> int | None:
    """What is published: the whole model, or the adapters alone."""
    if load is None:
        return None
    return load.width * (load.shape.parameters if load.method == "full" or spec.publish.merge else load.adapters)


def replanned(run: TrainingRun) -> Plan:
    """What is planned of a run at best, a CPU at a nominal speed: what calibration compares with."""
    machine = Machine(
        # It ran, so it fitted.
        gpu_memory_bytes=_NO_LIMIT if run.plan.device == "gpu" else None,
        accelerator=run.plan.accelerator,
        fast_bf16=run.plan.precision == "bf16",
    )
    return plan(run.job, run.model_shape, run.data, machine, Calibration(runs=0, step=1.0))


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


def _precision(spec: FineTuneJobSpec, card: Accelerator | None, machine: Machine) -> Literal["bf16", "fp16", "fp32"]:
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
    return [Problem("spec.training.precision", f"bf16 is not in {card.name}", "use auto, fp32 or fp16")]


def load_of(
    spec: FineTuneJobSpec, shape: ModelShape, data: DataShape | None, batch: Batch, precision: Literal["bf16", "fp16", "fp32"]
) -> Load:
    """What one worker carries, of a job with that batch. Without data, or with assumed data, every token counts as supervised."""
    training, train = spec.training, data.train if data is not None and data.train.supervised_tokens else None
    return Load(
        shape=shape,
        zero=training.deepspeed,
        device=_device(spec),
        precision=precision,
        world_size=spec.workers.world_size,
        tokens=batch.micro_batch_size * training.max_sequence_length,
        checkpointing=training.activation_checkpointing,
        supervised=train.supervised_tokens / train.tokens if train else 1.0,
        moments_in_8_bits=training.optimizer.name == "adamw8bit",
        stage=2 if training.sharding == "zero2" else 3,
        offloads_optimizer=training.deepspeed.offload_optimizer.device == "cpu",
        offloads_parameters=training.deepspeed.offload_param.device == "cpu",
        method=training.method,
        adapters=adapter_parameters(shape, training.adapter.r) if training.adapter else 0,
    )


def _recompute_every(load: Load) -> int:
    return load.recompute_every if load.checkpointing else 0


def _recomputing_fewest(load: Load, memory_of: Callable[[Load], Memory]) -> Load:
    """With as few layers recomputing as leave room; all, where nothing is known to compare with."""

    def fits(option: Load) -> bool:
        needed = memory_of(option)
        return needed.capacity_bytes is not None and needed.total_bytes <= ROOM * needed.capacity_bytes

    layers, all_kept = load.shape.layers, replace(load, checkpointing=False)
    if fits(all_kept):
        return all_kept
    if not fits(load):
        return load
    # Memory grows with n: the largest that fits, and then the smallest that recomputes as few layers.
    every = bisect_left(range(2, layers + 1), True, key=lambda n: not fits(replace(load, recompute_every=n))) + 1
    return replace(load, recompute_every=-(-layers // -(-layers // every)))


def _memory(
    spec: FineTuneJobSpec, load: Load, batch: Batch, card: Accelerator | None, machine: Machine, earlier: Calibration | None
) -> Memory:
    """The peak beside what a worker has: its GPU's memory, or on CPUs its share of the machine."""
    if device(spec) == "gpu":
        capacity = machine.gpu_memory_bytes or (card.memory_bytes if card else None)
    else:
        capacity = machine.memory_bytes // batch.workers_per_node if machine.memory_bytes else None
    if earlier is None:
        return memory(load, capacity)
    return memory(load, capacity, beside_bytes=earlier.beside_bytes, footprint_bytes=earlier.footprint_bytes)


def _capacity_name(spec: FineTuneJobSpec, batch: Batch, card: Accelerator | None, machine: Machine) -> str:
    if device(spec) == "gpu":
        part = "" if spec.workers.gpu == GPU_RESOURCE else f" ({spec.workers.gpu})"
        return f"{card.name}{part}" if card else "this machine's GPU"
    workers = batch.workers_per_node
    if workers == 1:
        return machine.called + machine.field
    return f"its share of {machine.called}'s {gib(machine.memory_bytes or 0)} GiB{machine.field} among {workers} workers"
