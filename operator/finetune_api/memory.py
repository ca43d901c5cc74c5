"""Peak memory of one worker, term by term.

In: the model's shape and the settings that memory depends on. Out: terms, each with its formula in numbers. States and
buffers are counted; activations are estimated (a constant times tokens times width); a fixed allowance is assumed for the
runtime. What to do when it doesn't fit is `plan`'s business.

P parameters, A those of adapters, n workers, L layers, H width, I feed-forward width, V vocabulary, T tokens per worker and micro-step.
"""

from collections.abc import Iterable
from typing import Final

from finetune_api.finetunejob import ModelShape
from finetune_api.load import (
    BYTES_IN_FOUR_BITS,
    Load,
    gradient_bytes_per_token,
    has_own_head,
    layer_bytes_per_token,
    linear_layers,
    moment_bytes,
)
from finetune_api.training_run import Memory, MemoryTerm

GIB: Final = 2**30

# CUDA context, NCCL's channels and library workspaces.
_GPU_RUNTIME_BYTES: Final = 2 * GIB
# Memory between the allocator's blocks, as a share of what they hold.
_GAPS: Final = 0.08
# Interpreter, torch, deepspeed and Ray in one CPU worker process.
_CPU_RUNTIME_BYTES: Final = 1 * GIB
# Logits in flight in the loss: the trainer takes 2^24 elements at a time (`model/cross_entropy.py`).
_LOGITS_IN_FLIGHT: Final = 2**24


def memory(load: Load, capacity_bytes: int | None, *, beside_bytes: int | None = None, footprint_bytes: int | None = None) -> Memory:
    """The peak: what is always held, and the larger of a pass and the optimizer's update, which follow one another.

    `beside_bytes`: what earlier runs held that no term here explains. `footprint_bytes`: what a process of theirs held before the model.
    Without them an allowance is assumed; on GPUs that for the allocator's gaps stays, since what runs tell of is what tensors take.
    """
    terms = (*_states(load), *_pass(load), *_update(load))
    if beside_bytes is not None:
        terms += (_beside(beside_bytes),)
    used = sum(sizes(terms))
    gaps = [_gaps(used)] if beside_bytes is None or load.device == "gpu" else []
    terms += (*gaps, _runtime(load, footprint_bytes))
    assumed = sum(term.bytes for term in terms if term.basis == "assumed")
    return Memory(terms=terms, total_bytes=used + assumed, capacity_bytes=capacity_bytes)


def sizes(terms: Iterable[MemoryTerm]) -> tuple[int, int]:
    """Bytes that are held always, and those of the larger phase."""
    size = {"always": 0, "pass": 0, "update": 0}
    for term in terms:
        size[term.phase] += term.bytes
    return size["always"], max(size["pass"], size["update"])


def _beside(size: int) -> MemoryTerm:
    return MemoryTerm(
        name="beside these", bytes=size, formula="what earlier runs held and no term explains", phase="always", basis="estimated"
    )


def _states(load: Load) -> list[MemoryTerm]:
    """18 bytes a trained parameter in bf16, 16 in fp32, shared out: micro-steps are added up in fp32 (see `training/zero_config.py`),
    and in fp32 the master copy is the weights' own partition. ZeRO-2 keeps weights whole, and a master copy besides.

    What is frozen is held in the arithmetic's type, without gradients, masters and moments.
    """
    own_master = load.precision != "fp32" or (load.stage == 2 and not load.is_plain)
    parts = {"gradients": 4, "master weights": 4 if own_master else 0, "Adam moments": moment_bytes(load)}
    if load.offloads_optimizer and load.device == "gpu":
        parts = {}
    name, symbol = ("P", load.shape.parameters) if load.method == "full" else ("A", load.adapters)
    shared = [
        MemoryTerm(
            name=f"{part}, partitioned" if load.world_size > 1 else part,
            bytes=int(each * load.partition),
            formula=f"{each:.3g} bytes x {name} {symbol:,} / n {load.world_size}",
            phase="always",
            basis="counted",
        )
        for part, each in parts.items()
        if each
    ]
    return [*_weights(load), *shared]


def _weights(load: Load) -> list[MemoryTerm]:
    """The model's own weights, and beside those of a frozen base the adapters."""
    if load.method == "full":
        return [_held(load, "weights", load.shape.parameters, load.width, "P")]
    quantised = load.quantised
    rest = load.shape.parameters - quantised
    terms = [_held(load, "frozen weights", rest, load.width, "P")] if rest > 0 else []
    terms += [_held(load, "frozen weights in 4 bits", quantised, BYTES_IN_FOUR_BITS, "layers' P")] if quantised else []
    return [*terms, _held(load, "adapters", load.adapters, load.width, "A")]


def _held(load: Load, name: str, count: int, each: float, symbol: str) -> MemoryTerm:
    """So many weights, as the engine holds them: a part under ZeRO-3, whole under ZeRO-2."""
    offloaded = load.offloads_parameters and load.device == "gpu"
    divided = load.stage == 3 and load.world_size > 1
    part = -(-count // load.world_size) if divided else count
    return MemoryTerm(
        name=f"{name}, {'partitioned' if divided else 'whole'}" if load.world_size > 1 else name,
        bytes=0 if offloaded else int(each * part),
        formula=f"{each:.3g} bytes x {symbol} {count:,}"
        + (f" / n {load.world_size}" if divided else "")
        + (", on the host" if offloaded else ""),
        phase="always",
        basis="counted",
    )


def _pass(load: Load) -> list[MemoryTerm]:
    """What forward and backward add."""
    sent = [_live(load), _largest_module(load)] if not load.is_plain and load.stage == 3 else []
    sent += [] if load.is_plain else [_buckets(load)]
    sent += [_written_out(load)] if load.quantised else []
    # The loss is done when layers go backward.
    in_loss, backward = [_logits(load)], [_working_set(load)]
    if load.method == "full":
        in_loss.append(_head(load, 4 if load.precision == "fp32" else 6))
        backward += [] if has_own_head(load.shape) else [_head(load, load.width)]
    at_work = max(in_loss, backward, key=lambda terms: sum(term.bytes for term in terms))
    return [*sent, _activations(load), *at_work]


def _hidden(load: Load) -> int:
    return load.shape.hidden_size


def _layer_parameters(shape: ModelShape) -> int:
    """Parameters of a layer; positions or an untied head make it slightly too large, never too small."""
    return max(0, shape.parameters - shape.vocabulary_size * shape.hidden_size) // shape.layers


def _live(load: Load) -> MemoryTerm:
    """Layers gathered at once: the one at work and the one prefetched, and those to which the backward pass comes back within DeepSpeed's
    distance of reuse, which is all of a small model; a matrix at least, whatever may be alive.
    """
    prefetch = load.zero.stage3_prefetch_bucket_size
    prefetch = int(0.9 * _hidden(load) ** 2) if prefetch is None else prefetch
    layer, reused = _layer_parameters(load.shape), load.zero.stage3_max_reuse_distance // 2
    most = max(load.zero.stage3_max_live_parameters, max(inner * outer for inner, outer in linear_layers(load.shape)))
    besides = load.shape.parameters - load.shape.vocabulary_size * _hidden(load)  # the largest module is counted by itself
    live = max(0, min(most, max(2 * layer + prefetch, reused), besides))
    return MemoryTerm(
        name="gathered layers",
        bytes=load.width * live,
        formula=f"{load.width} bytes x min(max(2 layers x {layer:,} + prefetch {prefetch:,}, reused {reused:,}), {most:,} alive at most, "
        f"P - V x H {besides:,})",
        phase="pass",
        basis="estimated",
    )


def _largest_module(load: Load) -> MemoryTerm:
    """The head's or embedding's matrix, gathered whole."""
    return MemoryTerm(
        name="gathered embedding and head",
        bytes=load.width * load.shape.vocabulary_size * _hidden(load),
        formula=f"{load.width} bytes x V {load.shape.vocabulary_size:,} x H {_hidden(load):,}",
        phase="pass",
        basis="counted",
    )


def _written_out(load: Load) -> MemoryTerm:
    """A matrix in 4 bits, and the scales of its blocks in fp32, for as long as it computes."""
    largest = max(inner * outer for inner, outer in linear_layers(load.shape))
    return MemoryTerm(
        name="a matrix made of 4 bits",
        bytes=load.width * largest + 4 * largest // 64,
        formula=f"{load.width} bytes x {largest:,} + 4 bytes x 1/64 of that",
        phase="pass",
        basis="counted",
    )


def _buckets(load: Load) -> MemoryTerm:
    """Gradients on their way to their owners; overlapping keeps two buckets. ZeRO-3 copies each to one buffer first, the largest alone;
    on CPUs gloo, which reduces whole tensors, copies it once more.
    """
    size = min(load.zero.reduce_bucket_size or _hidden(load) ** 2, load.trained)
    buckets = 2 if load.zero.overlap_comm else 1
    copies = 0 if load.stage == 2 or load.method != "full" else 2 if load.device == "cpu" else 1
    largest = copies * load.shape.vocabulary_size * _hidden(load)
    copied = f" + {copies} x V {load.shape.vocabulary_size:,} x H {_hidden(load):,}" if copies else ""
    return MemoryTerm(
        name="communication buckets",
        bytes=load.width * (buckets * size + largest),
        formula=f"{load.width} bytes x ({buckets} x {size:,}{copied})",
        phase="pass",
        basis="counted",
    )


def _activations(load: Load) -> MemoryTerm:
    """What the backward pass needs of the forward one: each layer's input, or everything."""
    recomputed, tokens = load.recomputed, load.tokens
    kept, each = load.shape.layers - recomputed, layer_bytes_per_token(load)
    size = load.width * recomputed * tokens * _hidden(load) + kept * tokens * each
    parts = [f"{load.width} bytes x L {recomputed} x T {tokens:,} x H {_hidden(load):,}"] if recomputed else []
    parts += [f"L {kept} x T {tokens:,} x {each:,} bytes a token and layer"] if kept else []
    formula = " + ".join(parts)
    return MemoryTerm(name="activations", bytes=size, formula=formula, phase="pass", basis="estimated")


def _working_set(load: Load) -> MemoryTerm:
    """One layer that goes backward: gradients of its wide tensors and, where it recomputes, all that it keeps besides its input. What it
    kept anyway, and its input, are among the activations.
    """
    kept = layer_bytes_per_token(load) - load.width * _hidden(load) if load.recomputed else 0
    gradients = gradient_bytes_per_token(load)
    return MemoryTerm(
        name="a layer's working set",
        bytes=load.tokens * (kept + gradients),
        formula=f"T {load.tokens:,} x ({f'{kept:,} + ' if kept else ''}gradients {gradients:,}) bytes a token",
        phase="pass",
        basis="estimated",
    )


def _head(load: Load, each: int) -> MemoryTerm:
    """The head's gradient is made in the forward pass, in fp32, in bf16 with a chunk's product beside it. Then it goes as the others do:
    where head and embedding are one table, with the embedding's, which comes last.
    """
    elements = load.shape.vocabulary_size * _hidden(load)
    return MemoryTerm(
        name="head's gradient",
        bytes=each * elements,
        formula=f"{each} bytes x V {load.shape.vocabulary_size:,} x H {_hidden(load):,}",
        phase="pass",
        basis="counted",
    )


def _logits(load: Load) -> MemoryTerm:
    """Only supervised rows meet the head, a chunk at a time, in fp32; in 16 bits they lie beside that as they were made."""
    vocabulary, rows = load.shape.vocabulary_size, max(1, round(load.supervised * load.tokens))
    elements = min(max(_LOGITS_IN_FLIGHT, vocabulary), rows * vocabulary)
    each = 4 if load.precision == "fp32" else 6
    return MemoryTerm(
        name="logits, a chunk",
        bytes=elements * each,
        formula=f"{each} bytes x min(2^24, {rows:,} supervised tokens x V {vocabulary:,})",
        phase="pass",
        basis="counted",
    )


def _update(load: Load) -> list[MemoryTerm]:
    """The update of a sub-group holds its gradient in fp32 and Adam's denominator. One worker alone updates in place."""
    if load.is_plain or (load.offloads_optimizer and load.device == "gpu"):
        return []
    size = min(load.zero.sub_group_size, load.partition)
    return [
        MemoryTerm(
            name="optimizer's update",
            bytes=8 * size,
            formula=f"(4 gradient + 4 denominator) bytes x min(sub_group_size {load.zero.sub_group_size:,}, P/n {load.partition:,})",
            phase="update",
            basis="estimated",
        )
    ]


def _gaps(used: int) -> MemoryTerm:
    return MemoryTerm(
        name="allocator's gaps",
        bytes=int(used * _GAPS),
        formula=f"{_GAPS:.0%} of what is above at the peak",
        phase="always",
        basis="assumed",
    )


def _runtime(load: Load, footprint_bytes: int | None) -> MemoryTerm:
    size, formula = _GPU_RUNTIME_BYTES, "allowance for CUDA context, NCCL and workspaces"
    if load.device == "cpu":
        size, formula = _CPU_RUNTIME_BYTES, "allowance for the process and its libraries"
    if load.device == "cpu" and footprint_bytes is not None:
        size, formula = footprint_bytes, "of the process before the model, as in earlier runs"
    return MemoryTerm(name="runtime", bytes=size, formula=formula, phase="always", basis="assumed")
