"""How long an optimizer step takes, term by term: what is computed, moved and sent, over what the machine can do.

In: a worker's load, how the step is divided, speeds of the machine and the shares of them that a stack reaches. Out: terms, each with its
formula in numbers. Computing is a roofline in two parts, matrix products at a share of the peak and everything else as traffic of the
GPU's own memory, so that small models use less of the peak than large ones. What ZeRO sends is hidden behind computing in part.

Both shares are fitted on two published runs, and foretell others: benchmarks/published.py, docs/benchmarks.md.
"""

from dataclasses import dataclass
from typing import Final

from finetune_api.accelerators import Accelerator
from finetune_api.load import BYTES_IN_FOUR_BITS, Load, layer_weights, moment_bytes
from finetune_api.training_run import TimeTerm


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a training stack makes of a machine. `slowdown` multiplies all of a step's time."""

    products: float
    """Share of the peak that matrix products reach."""
    moved_bytes: float
    """Traffic of the GPU's memory per token, layer and element of the width, forward and backward, in 2-byte arithmetic."""
    hidden: float
    """Share of communication that goes on behind computing."""
    link: float
    """Share of the bandwidth inside a node that collectives reach."""
    network: float
    """Share of the bandwidth between nodes that they reach."""
    slowdown: float = 1.0


# `products` and `moved_bytes`: MPT-7B and MPT-1B on 8 x A100-80GB, rows of 2,048 tokens, by llm-foundry (its published table). Of the
# other 29 published runs on A100s with such rows, half are foretold within 6 %, 27 within 15 %. `link`: 8 x A100 reach 230 to 250 of
# 300 GB/s in nccl-tests. `hidden` and `network` are assumed: half, and four fifths.
AT_BEST: Final = Stack(products=0.759, moved_bytes=514.0, hidden=0.5, link=0.77, network=0.8)
# The recipe's published run (DeepSpeed ZeRO-3 on 8 x A100-80GB) took about 45 minutes, so many times what AT_BEST comes to.
RECIPE_SLOWDOWN: Final = 1.47

# What a card is taken for of which the peak alone is known: operations per byte of memory traffic, as an A100's.
_OPERATIONS_PER_BYTE: Final = 153.0
# A CPU worker: bytes a second of memory, and between the processes of a machine: loopback, copies in fresh pages and the sums, on the
# cores that compute, so that nothing is hidden. Of a small model on two cores: micro-batches of 1 and 4 rows, and one worker.
_CPU_MEMORY: Final = 10e9
_CPU_LINK: Final = 0.32e9
# Gloo has no reduce-scatter: a copy of the whole tensor is all-reduced, which sends twice as much and adds.
_GLOO_REDUCTION: Final = 3.0
# Where the optimizer's state is offloaded to: memory of a node's host, shared by its workers, and PCIe 4 to it.
_HOST_MEMORY: Final = 200e9
_HOST_LINK: Final = 25e9
# Bytes that AdamW reads and writes per parameter, beside its moments: gradient and master, weights.
_UPDATE_BYTES: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What one worker's machine can do a second: operations, and bytes. `network` is of a node."""

    flops: float
    memory: float
    link: float
    network: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A worker's part of a step. `length`: tokens that one is in the same segment with, on average over tokens and layers."""

    load: Load
    nodes: int
    micro_steps: int
    length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step, and what they consist of. `computing`: those behind which collectives are hidden, before a stack's slowdown,
    which is of both.
    """

    terms: tuple[TimeTerm, ...]
    computing: float

    @property
    def seconds(self) -> float:
        return sum(term.seconds for term in self.terms)


def speeds(card: Accelerator | None, peak: float, network: float | None, *, slowest: bool) -> Speeds:
    """Of a card with that peak. `network`: bytes a second of a node where they are known, else the least or the most that is offered."""
    if card is None:
        return Speeds(flops=peak, memory=peak / _OPERATIONS_PER_BYTE, link=_HOST_LINK, network=network or _CPU_LINK)
    offered = card.network_bandwidth[0 if slowest else 1]
    return Speeds(flops=peak, memory=card.memory_bandwidth, link=card.link_bandwidth, network=network or offered)


def cpu_speeds(peak: float, network: float | None) -> Speeds:
    """Of a CPU worker with that peak."""
    return Speeds(flops=peak, memory=_CPU_MEMORY, link=_CPU_LINK, network=network or _CPU_LINK)


def step_time(work: Work, machine: Speeds, stack: Stack) -> StepTime:
    """The step. Micro-steps follow one another; the update comes once."""
    computing = [_products(work, machine, stack), _attention(work, machine, stack), _head(work, machine, stack)]
    computing += [_recomputed(work, computing[:2])] if work.load.checkpointing else []
    computing.append(_moved(work, machine, stack))
    computing += [_made_of_four_bits(work, machine)] if work.load.quantised else []
    computed = sum(term.seconds for term in computing)
    terms = [*computing, *_sent(work, machine, stack, computed), *_fetched(work, stack), _update(work, machine)]
    return StepTime(terms=tuple(_slowed(term, stack.slowdown) for term in terms), computing=computed)


def sent_to_a_node(work: Work) -> tuple[float, str]:
    """Bytes of a step's collectives that go into each node, which lacks what the others' workers own, and their formula.

    ZeRO-3 gathers all weights twice a micro-step, frozen ones too, and reduces the gradients of those that are trained; ZeRO-2 has whole
    weights, reduces gradients, and gathers what was updated once a step. What is offloaded goes to its owner's host.
    """
    volume, formula = _volume(work)
    return volume * (work.nodes - 1) / work.nodes, formula


def _slowed(term: TimeTerm, factor: float) -> TimeTerm:
    if factor == 1.0:
        return term
    return term.model_copy(update={"seconds": term.seconds * factor, "formula": f"{term.formula}, x {factor:.3g}"})


def _tokens(work: Work) -> int:
    """Of one worker and step."""
    return work.micro_steps * work.load.tokens


def _passes(load: Load) -> int:
    """Forward, gradients of inputs, and those of weights where these are trained."""
    return 3 if load.method == "full" else 2


def _products(work: Work, machine: Speeds, stack: Stack) -> TimeTerm:
    load = work.load
    weights, tokens, passes = layer_weights(load.shape), _tokens(work), _passes(load)
    added = 0 if load.method == "full" else 6.0 * load.adapters
    operations = tokens * (2.0 * passes * load.shape.layers * weights + added)
    return TimeTerm(
        name="matrix products",
        seconds=operations / (machine.flops * stack.products),
        formula=f"{2 * passes} x L {load.shape.layers} x {weights:,} x T {tokens:,} / ({stack.products:.0%} of {_tera(machine.flops)})",
        basis="estimated",
    )


def _attention(work: Work, machine: Speeds, stack: Stack) -> TimeTerm:
    """Scores and what they weigh: 2 products of half of a length, forward, and twice that backward."""
    shape, tokens = work.load.shape, _tokens(work)
    width = shape.attention_heads * shape.head_size
    return TimeTerm(
        name="attention",
        seconds=6.0 * shape.layers * width * work.length * tokens / (machine.flops * stack.products),
        formula=f"6 x L {shape.layers} x {width:,} x {work.length:,.0f} tokens on average x T {tokens:,} / the same",
        basis="estimated",
    )


def _head(work: Work, machine: Speeds, stack: Stack) -> TimeTerm:
    """Only supervised rows meet the head."""
    shape, passes = work.load.shape, _passes(work.load)
    rows = work.load.supervised * _tokens(work)
    return TimeTerm(
        name="head and loss",
        seconds=2.0 * passes * shape.vocabulary_size * shape.hidden_size * rows / (machine.flops * stack.products),
        formula=f"{2 * passes} x V {shape.vocabulary_size:,} x H {shape.hidden_size:,} x {rows:,.0f} supervised tokens / the same",
        basis="estimated",
    )


def _recomputed(work: Work, parts: list[TimeTerm]) -> TimeTerm:
    """Layers go forward once more: one part of as many passes as there are."""
    products, attention = parts
    return TimeTerm(
        name="recomputation",
        seconds=(products.seconds / _passes(work.load) + attention.seconds / 3) * work.load.recomputed_share,
        formula=f"1/{_passes(work.load)} of the matrix products, 1/3 of attention, in {work.load.recomputed} of L {work.load.shape.layers}",
        basis="estimated",
    )


def _moved(work: Work, machine: Speeds, stack: Stack) -> TimeTerm:
    """Norms, activation functions, residuals: what reads and writes more than it computes. A third of it is forward."""
    shape, tokens = work.load.shape, _tokens(work)
    each = stack.moved_bytes * work.load.width / 2 * (1 + work.load.recomputed_share / 3)
    return TimeTerm(
        name="activations moved",
        seconds=each * shape.layers * shape.hidden_size * tokens / machine.memory,
        formula=f"{each:,.0f} bytes x L {shape.layers} x H {shape.hidden_size:,} x T {tokens:,} / {machine.memory / 1e9:,.0f} GB/s",
        basis="estimated",
    )


def _made_of_four_bits(work: Work, machine: Speeds) -> TimeTerm:
    """Each pass of a micro-step reads a layer's weights in 4 bits and writes them out, which the products then read."""
    load, passes = work.load, 2 + work.load.recomputed_share
    each = BYTES_IN_FOUR_BITS + load.width
    return TimeTerm(
        name="weights made of 4 bits",
        seconds=work.micro_steps * passes * each * load.quantised / machine.memory,
        formula=f"{work.micro_steps} x {passes:.3g} passes x {each:.3g} bytes x {load.quantised:,} / {machine.memory / 1e9:,.0f} GB/s",
        basis="estimated",
    )


def _sent(work: Work, machine: Speeds, stack: Stack, computing: float) -> list[TimeTerm]:
    """What a step's collectives take, inside nodes and between them at once, less what is hidden behind computing."""
    n = work.load.world_size
    if n == 1:
        return []
    volume, formula = _volume(work)
    per_node = n // work.nodes
    inside = volume * (per_node - 1) / per_node / (machine.link * stack.link)
    between = sent_to_a_node(work)[0] / (machine.network * stack.network)
    seconds, hidden = max(inside, between), stack.hidden if work.load.device == "gpu" else 0.0
    place = (
        f"between nodes, {machine.network * 8 / 1e9:,.0f} Gb/s each" if between > inside else f"in a node, {machine.link / 1e9:,.0f} GB/s"
    )
    return [
        TimeTerm(
            name="communication, not hidden",
            seconds=seconds - hidden * min(seconds, computing),
            formula=f"{formula} = {volume / 1e9:,.1f} GB at {stack.network if between > inside else stack.link:.0%} of what goes {place}; "
            f"{hidden:.0%} behind computing",
            basis="estimated" if between <= inside else "assumed",
        )
    ]


def _fetched(work: Work, stack: Stack) -> list[TimeTerm]:
    """Weights that are offloaded come from the host for each pass of a micro-step."""
    load = work.load
    if not load.offloads_parameters or load.device == "cpu":
        return []
    each = load.width * load.shape.parameters / load.world_size
    return [
        TimeTerm(
            name="weights from the host, not hidden",
            seconds=2.0 * work.micro_steps * each / _HOST_LINK * (1 - stack.hidden),
            formula=f"{work.micro_steps} x 2 x {each / 1e9:,.1f} GB over PCIe, {stack.hidden:.0%} behind computing",
            basis="assumed",
        )
    ]


def _volume(work: Work) -> tuple[float, str]:
    """Bytes that pass a worker in a step's collectives, before (n-1)/n."""
    load, k = work.load, work.micro_steps
    times, by = (_GLOO_REDUCTION, f" (x {_GLOO_REDUCTION:g} by gloo)") if load.device == "cpu" else (1.0, "")
    base = load.shape.parameters if load.method == "full" else load.frozen
    if load.stage == 2:
        # Gradients to their owners each micro-step, the updated weights back once.
        return load.width * load.trained * (times * k + 1.0), f"{load.width} bytes x {load.trained:,} x ({k} reductions{by} + 1 gathering)"
    gathered = 2.0 * k * load.width * base
    reduced = times * k * load.width * load.trained
    return gathered + reduced, f"{k} x {load.width} bytes x (2 gatherings of {base:,} + 1 reduction{by} of {load.trained:,})"


def _update(work: Work, machine: Speeds) -> TimeTerm:
    load = work.load
    each = _UPDATE_BYTES + 2 * moment_bytes(load)
    if load.offloads_optimizer and load.device == "gpu":
        per_node = load.world_size // work.nodes
        seconds = load.partition * (each * per_node / _HOST_MEMORY + (4 + load.width) / _HOST_LINK)
        where = f"a host's {_HOST_MEMORY / 1e9:,.0f} GB/s among {per_node} workers, and PCIe"
    else:
        seconds, where = load.partition * each / machine.memory, f"{machine.memory / 1e9:,.0f} GB/s"
    return TimeTerm(
        name="optimizer's update",
        seconds=seconds,
        formula=f"{each:.3g} bytes x {load.partition:,} parameters of a worker / {where}",
        basis="estimated",
    )


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.4g} TFLOP/s"
