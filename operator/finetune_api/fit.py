"""What doesn't fit, and the nearest setting that does.

In: a worker's load, its capacity, and what may be turned. Out: None, or a Problem with the numbers and what to change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_api.accelerators import ACCELERATORS
from finetune_api.errors import Problem
from finetune_api.load import Load, adapter_parameters
from finetune_api.memory import GIB, memory
from finetune_api.training_run import Memory

_MOST_NODES = 64
# Of a node, as nodes with A100s and later cards have them.
_MOST_GPUS = 8
# Rows of a micro-batch up to which remedies are looked for: a field holds 64 bits, and a search through them would never end.
MOST_ROWS = 4096
_MOST_REMEDIES = 3
# Rank that LoRA is proposed with: PEFT's default.
_RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The settings that may be turned to make a job fit."""

    nodes: int
    workers_per_node: int
    micro_batch_size: int
    global_batch_size: int
    max_sequence_length: int

    def divides(self) -> bool:
        """Whether every rank gets whole micro-batches."""
        return self.global_batch_size % (self.micro_batch_size * self.nodes * self.workers_per_node) == 0


def fit_problem(load: Load, batch: Batch, needed: Memory, capacity_of: str) -> Problem | None:
    """The refusal, when the peak is above the capacity; None when it fits or nothing is known to compare with."""
    capacity = needed.capacity_bytes
    if capacity is None or needed.total_bytes <= capacity:
        return None
    parts = sorted(needed.terms, key=lambda term: -term.bytes)
    largest = ", ".join(f"{term.name} {gib(term.bytes)}" for term in parts[:4])
    message = f"a worker needs {gib(needed.total_bytes)} GiB ({largest}, ...), and {capacity_of} has {gib(capacity)} GiB"
    remedies = list(dict.fromkeys(_remedies(load, batch, capacity)))[:_MOST_REMEDIES] + _adapters(load, batch, capacity)
    return Problem("spec.workers", message, "use " + " or ".join(remedies) if remedies else _largest_model(load, capacity))


def gib(size: int) -> str:
    """Bytes as GiB with one decimal, two below one.

    >>> gib(3 * 2**30), gib(2**28)
    ('3.0', '0.25')
    """
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2f}"


def _remedies(load: Load, batch: Batch, capacity: int) -> Iterator[str]:
    """Changes that make it fit, the mildest first: one setting, then two, then another card."""
    if load.stage == 2 and load.method != "qlora" and (total := _fits(replace(load, stage=3), capacity)):
        yield f"training.sharding: zero3 ({total} GiB)"
    options = [load] if load.checkpointing else [load, replace(load, checkpointing=True)]
    for option in options:
        setting = "" if option is load else "training.activationCheckpointing: true"
        if setting and (total := _fits(option, capacity)):
            yield f"{setting} ({total} GiB)"
        for changed in (
            _smaller_micro_batch(option, batch, capacity),
            _more_gpus(option, batch, capacity),
            _more_nodes(option, batch, capacity),
        ):
            if changed:
                yield f"{setting} with {changed}" if setting else changed
    if load.device == "gpu" and (card := _larger_card(options[-1])):
        yield card
    offloaded = replace(options[-1], offloads_optimizer=True)
    if load.device == "gpu" and not load.offloads_optimizer and (total := _fits(offloaded, capacity)):
        setting = "" if options[-1] is load else " with training.activationCheckpointing: true"
        yield f"training.deepspeed.offload_optimizer.device: cpu{setting} ({total} GiB)"


def _adapters(load: Load, batch: Batch, capacity: int) -> list[str]:
    """Training adapters alone, which learns less, and beside a base in 4 bits: told after what changes nothing of that."""
    adapters = load.adapters or adapter_parameters(load.shape, _RANK)
    lora = replace(load, method="lora", adapters=adapters)
    options = [(lora, ["training.method: lora"])] if load.method == "full" else []
    if load.method != "qlora" and not load.offloads_parameters:
        divided = load.stage == 3 and not load.is_plain
        sharding = ["training.sharding: zero2"] if divided else []
        options.append((replace(lora, method="qlora", stage=2), ["training.method: qlora", *sharding]))
    for option, settings in options:
        for recomputes in (False, True) if not load.checkpointing else (True,):
            changed = replace(option, checkpointing=recomputes)
            told = [*settings, "training.activationCheckpointing: true"] if recomputes and not load.checkpointing else settings
            if total := _fits(changed, capacity):
                return [f"{' with '.join(told)} ({total} GiB)"]
            if smaller := _smaller_micro_batch(changed, batch, capacity):
                return [" with ".join([*told, smaller])]
    return []


def _fits(load: Load, capacity: int) -> str | None:
    """The peak in GiB, when it fits."""
    total = memory(load, capacity).total_bytes
    return gib(total) if total <= capacity else None


def _smaller_micro_batch(load: Load, batch: Batch, capacity: int) -> str | None:
    for size in range(min(batch.micro_batch_size - 1, MOST_ROWS), 0, -1):
        smaller = replace(batch, micro_batch_size=size)
        total = _fits(replace(load, tokens=size * batch.max_sequence_length), capacity) if smaller.divides() else None
        if total:
            return f"training.microBatchSize: {size} ({total} GiB)"
    return None


def _more_gpus(load: Load, batch: Batch, capacity: int) -> str | None:
    """More GPUs of each node; where all that a node has are too few, of several nodes."""
    counts = [gpus for gpus in (2, 4, _MOST_GPUS) if gpus > batch.workers_per_node]
    found = _first_that_fits(load, batch, capacity, (("workers.gpusPerNode", gpus, batch.nodes, gpus) for gpus in counts))
    if found or not counts:
        return found
    nodes = _more_nodes(load, replace(batch, workers_per_node=_MOST_GPUS), capacity)
    return f"workers.gpusPerNode: {_MOST_GPUS} with {nodes}" if nodes else None


def _more_nodes(load: Load, batch: Batch, capacity: int) -> str | None:
    """More nodes, with as many GPUs as each has."""
    counts = range(batch.nodes + 1, _MOST_NODES + 1)
    return _first_that_fits(load, batch, capacity, (("workers.nodes", nodes, nodes, batch.workers_per_node) for nodes in counts))


def _first_that_fits(load: Load, batch: Batch, capacity: int, sizes: Iterator[tuple[str, int, int, int]]) -> str | None:
    """Of (field, its value, nodes, workers of each) the first that fits; with the micro-batch as it is or, where that doesn't, with 1.

    CPU workers share their machine: more of them need more.
    """
    for field, value, nodes, workers in sizes if load.device == "gpu" else ():
        for size in dict.fromkeys((batch.micro_batch_size, 1)):
            larger = replace(batch, nodes=nodes, workers_per_node=workers, micro_batch_size=size)
            changed = replace(load, world_size=nodes * workers, tokens=size * batch.max_sequence_length)
            total = _fits(changed, capacity) if larger.divides() else None
            if total:
                micro = "" if size == batch.micro_batch_size else f" with training.microBatchSize: {size}"
                return f"{field}: {value}{micro} ({total} GiB)"
    return None


def _larger_card(load: Load) -> str | None:
    total = memory(load, None).total_bytes
    fitting = [card for card in ACCELERATORS if card.memory_bytes >= total and (card.bf16_flops or load.precision != "bf16")]
    best = min(fitting, key=lambda card: card.memory_bytes, default=None)
    return f"workers.accelerator: {best.name} ({gib(total)} of {gib(best.memory_bytes)} GiB)" if best else None


def _largest_model(load: Load, capacity: int) -> str:
    """Nothing that we may turn is enough: say how much the smallest setting would need."""
    least = memory(replace(load, checkpointing=True, tokens=min(load.tokens, 512)), None).total_bytes
    return f"use a smaller model, or give each worker at least {gib(least)} GiB instead of {gib(capacity)}"
