"""What a plan leaves open, and what a reader of its numbers should know: sentences, made of what is known. Pure."""

from dataclasses import dataclass
from typing import Final, Literal

from finetune_api.accelerators import ACCELERATORS, Accelerator, nearest_name
from finetune_api.batch_size import SIZES, chosen_size
from finetune_api.checks import device
from finetune_api.duration import Steps
from finetune_api.evaluation_notes import evaluation_notes
from finetune_api.field_effects import idle_notes
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.fit import Batch, gib
from finetune_api.load import Load
from finetune_api.run_time import Duration
from finetune_api.step_time import AT_BEST, RECIPE_SLOWDOWN, Work, sent_to_a_node
from finetune_api.training_run import DataShape, Memory, Unknown

# An `Unknown` of the plan: nobody compared a worker's memory with what it will have.
WHETHER_IT_FITS: Final = "whether it fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that a plan was made from, and what it came to."""

    spec: FineTuneJobSpec
    load: Load | None
    work: Work | None
    data: DataShape | None
    card: Accelerator | None
    batch: Batch
    steps: Steps
    needed: Memory | None
    duration: Duration


def unknown(known: Known, precision: Literal["bf16", "fp16", "fp32"], *, measured: bool, gpu_memory: bool) -> list[Unknown]:
    """What the plan leaves open, and what would settle it. `measured`, `gpu_memory`: of this machine, its bf16 and its GPU's memory."""
    spec, needed, card = known.spec, known.needed, known.card
    found = []
    if known.load is None:
        found.append(Unknown(name="memory", why="the model's shape is not known; give spec.model.shape, or a directory with config.json"))
    unknown_gpu = device(spec) == "gpu" and card is None and not gpu_memory
    if unknown_gpu or (needed and needed.capacity_bytes is None):
        found.append(Unknown(name=WHETHER_IT_FITS, why=_why_no_capacity(spec, needed)))
    if known.data is None:
        what = "time" if spec.training.max_steps else "steps and time"
        found.append(Unknown(name=what, why="the data is not prepared yet; preparation counts its rows"))
        if spec.training.global_batch_size is None:
            found.append(Unknown(name="batch", why=f"globalBatchSize is absent and follows from the rows; {SIZES[0]} is assumed here"))
    timed = known.load is None or known.duration.timing is not None
    if not timed and device(spec) == "cpu":
        found.append(Unknown(name="seconds", why="CPUs differ too much; the first steps tell"))
    elif not timed:
        found.append(Unknown(name="seconds", why="no peak is known for the GPU; set spec.workers.accelerator or peakTeraflops"))
    if spec.training.precision == "auto" and not measured and (card is None or device(spec) == "cpu"):
        found.append(Unknown(name="precision", why=f"auto looks at the hardware; {precision} is assumed here"))
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


def notes(known: Known, network: float | None) -> list[str]:
    """What a reader of the numbers should know."""
    spec, data, steps = known.spec, known.data, known.steps
    found = idle_notes(spec)
    if spec.training.global_batch_size is None and data is not None:
        found.append(chosen_size(known.batch.global_batch_size, steps.total))
    found += _time_notes(known)
    if known.load is not None and known.load.host_bytes:
        hosted = known.load.host_bytes * known.batch.workers_per_node
        found.append(f"What is offloaded takes {gib(hosted)} GiB of each node's memory, which is not compared with what it has.")
    if known.duration.flops_per_token is not None and data is None:
        found.append("Operations assume full rows of one dialogue each, all of whose tokens are learnt: the most they can be.")
    if data is not None and data.fingerprint == "assumed":
        found.append(
            f"Steps and time follow from {data.train.tokens:,} tokens an epoch, which is an assumption until the data is prepared."
        )
    if data is not None and data.train.rows < known.batch.global_batch_size:
        rows, size = data.train.rows, known.batch.global_batch_size
        found.append(f"An epoch has {rows} rows, fewer than globalBatchSize {size}: each epoch is one short step.")
    if spec.training.max_steps and steps.steps_per_epoch and steps.total:
        found.append(f"{steps.total} steps are {steps.total / steps.steps_per_epoch:.2f} epochs.")
    found += evaluation_notes(spec, data, steps)
    if known.work is not None and spec.workers.nodes > 1:
        found.append(_network_note(known.work, known, network))
    return found


def _time_notes(known: Known) -> list[str]:
    """Where the two ends of the time come from."""
    timing = known.duration.timing
    if timing is None:
        return []
    if timing.calibrated_by:
        return [f"Time and memory are calibrated by {timing.calibrated_by} earlier run{'s' if timing.calibrated_by > 1 else ''}."]
    if known.load is not None and known.load.device == "cpu":
        return [
            "Time is a rough range: CPUs reach very different shares of their peak. `--calibrate RUN` takes the speed of a run of yours."
        ]
    return [
        "Time is a range: at best what llm-foundry's published runs reached of an A100; at the slow end, which counts, "
        f"{RECIPE_SLOWDOWN:g} times that, as the recipe's own published run took. `--calibrate RUN` takes the speed of a run of yours."
    ]


def _network_note(work: Work, known: Known, network: float | None) -> str:
    """What one step sends, and from which bandwidth on the network sets the time: `step_time`'s own numbers."""
    sent, formula = sent_to_a_node(work)
    note = f"Each step sends {_rounded(sent / 1e9)} GB into each node, its share of {formula}"
    computing = known.duration.computing
    if computing is None:
        return note + "."
    if network is None and known.card is not None:
        least, most = (bandwidth * 8 / 1e9 for bandwidth in known.card.network_bandwidth)
        offered = f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
        note += f"; nodes with this card are offered with {offered} Gb/s, the least of which counts here (`--network` gives yours)"
    bound = sent * 8 / (computing * AT_BEST.network) / 1e9
    return f"{note}: below {_rounded(bound)} Gb/s a node the network, not computing, sets the time."


def _rounded(number: float) -> str:
    """A whole number, two digits below ten.

    >>> _rounded(1234.5), _rounded(0.0123)
    ('1,234', '0.012')
    """
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
