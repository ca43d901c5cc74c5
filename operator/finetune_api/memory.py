"""Peak memory of one worker, term by term.

In: the model's shape and the settings that memory depends on. Out: terms, each with its formula in numbers. States and
buffers are counted; activations are estimated (a constant times tokens times width); a fixed allowance is assumed for the
runtime. What to do when it doesn't fit is `plan`'s business.

P parameters, n workers, L layers, H width, I feed-forward width, V vocabulary, T tokens per worker and micro-step.
"""

from dataclasses import dataclass
from typing import Final, Literal

from finetune_api.finetunejob import ModelShape, ZeroOptimization
from finetune_api.model_shape import PLAIN_FEED_FORWARD
from finetune_api.training_run import Memory, MemoryTerm

GIB: Final = 2**30

# CUDA context, NCCL's channels and library workspaces.
_GPU_RUNTIME_BYTES: Final = 2 * GIB
# Memory between the allocator's blocks, as a share of what they hold.
_GAPS: Final = 0.08
# Interpreter, torch, deepspeed and Ray in one CPU worker process.
_CPU_RUNTIME_BYTES: Final = 1 * GIB
# Logits in flight in the loss: the trainer takes 2^24 elements at a time, and holds them in fp32 and once more in the model's type.
_LOGITS_IN_FLIGHT: Final = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one worker has to carry. `tokens` is those of a micro-step."""

    shape: ModelShape
    zero: ZeroOptimization
    device: Literal["cpu", "gpu"]
    precision: Literal["bf16", "fp32"]
    world_size: int
    tokens: int
    checkpointing: bool

    @property
    def width(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return 2 if self.precision == "bf16" else 4

    @property
    def partition(self) -> int:
        """Parameters that one worker owns."""
        return -(-self.shape.parameters // self.world_size)


def memory(load: Load, capacity_bytes: int | None) -> Memory:
    """The peak: what is always held, and the larger of a pass and the optimizer's update, which follow one another."""
    terms = (*_states(load), *_pass(load), _update(load))
    size = {phase: sum(term.bytes for term in terms if term.phase == phase) for phase in ("always", "pass", "update")}
    used = size["always"] + max(size["pass"], size["update"])
    terms += (_gaps(used), _runtime(load))
    return Memory(terms=terms, total_bytes=used + terms[-2].bytes + terms[-1].bytes, capacity_bytes=capacity_bytes)


def _states(load: Load) -> list[MemoryTerm]:
    """18 bytes a parameter in bf16, 16 in fp32, shared out: micro-steps are added up in fp32 (see `training/zero_config.py`),
    and in fp32 DeepSpeed's master copy is the weights' own partition.
    """
    parts = {"weights": load.width, "gradients": 4, "master weights": 4 if load.precision == "bf16" else 0, "Adam moments": 8}
    return [
        MemoryTerm(
            name=f"{name}, partitioned",
            bytes=each * load.partition,
            formula=f"{each} bytes x P {load.shape.parameters:,} / n {load.world_size}",
            phase="always",
            basis="counted",
        )
        for name, each in parts.items()
        if each
    ]


def _pass(load: Load) -> list[MemoryTerm]:
    """What forward and backward add."""
    return [_live(load), _largest_module(load), _buckets(load), _activations(load), _working_set(load), _head(load), _logits(load)]


def _hidden(load: Load) -> int:
    return load.shape.hidden_size


def _layer_parameters(shape: ModelShape) -> int:
    """Parameters of a layer; positions or an untied head make it slightly too large, never too small."""
    return max(0, shape.parameters - shape.vocabulary_size * shape.hidden_size) // shape.layers


def _live(load: Load) -> MemoryTerm:
    """Layers gathered at once: the one at work and the one prefetched."""
    prefetch = load.zero.stage3_prefetch_bucket_size
    prefetch = int(0.9 * _hidden(load) ** 2) if prefetch is None else prefetch
    layer = _layer_parameters(load.shape)
    wanted = 2 * layer + prefetch
    live = min(load.zero.stage3_max_live_parameters, wanted, load.shape.parameters)
    return MemoryTerm(
        name="gathered layers",
        bytes=load.width * live,
        formula=f"{load.width} bytes x min(2 layers x {layer:,} + prefetch {prefetch:,}, "
        f"stage3_max_live_parameters {load.zero.stage3_max_live_parameters:,}, P)",
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


def _buckets(load: Load) -> MemoryTerm:
    """Gradients on their way to their owners; overlapping keeps two buckets."""
    size = load.zero.reduce_bucket_size or _hidden(load) ** 2
    buckets = 2 if load.zero.overlap_comm else 1
    return MemoryTerm(
        name="communication buckets",
        bytes=load.width * buckets * size,
        formula=f"{load.width} bytes x {buckets} x {size:,}",
        phase="pass",
        basis="counted",
    )


def _layer_bytes_per_token(load: Load) -> int:
    """Activations of one layer: (18 H + 4 I) per token in bf16, which is 34 H where I = 4 H (Korthikanti et al. 2022, without
    the attention matrix, which is never stored); a gated feed-forward has twice as many wide tensors.
    """
    wide = 4 if load.shape.architecture in PLAIN_FEED_FORWARD else 8
    return (18 * _hidden(load) + wide * load.shape.intermediate_size) * load.width // 2


def _activations(load: Load) -> MemoryTerm:
    """What the backward pass needs of the forward one: each layer's input, or everything."""
    layers, tokens = load.shape.layers, load.tokens
    if load.checkpointing:
        size, formula = (
            load.width * layers * tokens * _hidden(load),
            f"{load.width} bytes x L {layers} x T {tokens:,} x H {_hidden(load):,}",
        )
    else:
        each = _layer_bytes_per_token(load)
        size, formula = layers * tokens * each, f"L {layers} x T {tokens:,} x {each:,} bytes a token and layer"
    return MemoryTerm(name="activations", bytes=size, formula=formula, phase="pass", basis="estimated")


def _working_set(load: Load) -> MemoryTerm:
    """One layer at work, recomputed or not."""
    each = _layer_bytes_per_token(load)
    return MemoryTerm(
        name="a layer's working set",
        bytes=load.tokens * each,
        formula=f"T {load.tokens:,} x {each:,} bytes a token",
        phase="pass",
        basis="estimated",
    )


def _head(load: Load) -> MemoryTerm:
    """The head's gradient is made in the forward pass, in fp32, and held until the backward; in bf16 a chunk's product lies beside it."""
    elements = load.shape.vocabulary_size * _hidden(load)
    each = 6 if load.precision == "bf16" else 4
    return MemoryTerm(
        name="head's gradient",
        bytes=each * elements,
        formula=f"{each} bytes x V {load.shape.vocabulary_size:,} x H {_hidden(load):,}",
        phase="pass",
        basis="counted",
    )


def _logits(load: Load) -> MemoryTerm:
    """Only supervised rows meet the head, a chunk at a time."""
    elements = min(max(_LOGITS_IN_FLIGHT, load.shape.vocabulary_size), load.tokens * load.shape.vocabulary_size)
    return MemoryTerm(
        name="logits, a chunk",
        bytes=elements * (4 + load.width),
        formula=f"{4 + load.width} bytes x min(2^24, T {load.tokens:,} x V {load.shape.vocabulary_size:,})",
        phase="pass",
        basis="counted",
    )


def _update(load: Load) -> MemoryTerm:
    """The update of a sub-group holds its gradient in fp32 and Adam's denominator."""
    size = min(load.zero.sub_group_size, load.partition)
    return MemoryTerm(
        name="optimizer's update",
        bytes=8 * size,
        formula=f"(4 gradient + 4 denominator) bytes x min(sub_group_size {load.zero.sub_group_size:,}, P/n {load.partition:,})",
        phase="update",
        basis="estimated",
    )


def _gaps(used: int) -> MemoryTerm:
    return MemoryTerm(
        name="allocator's gaps",
        bytes=int(used * _GAPS),
        formula=f"{_GAPS:.0%} of what is above at the peak",
        phase="always",
        basis="assumed",
    )


def _runtime(load: Load) -> MemoryTerm:
    on_gpu = load.device == "gpu"
    return MemoryTerm(
        name="runtime",
        bytes=_GPU_RUNTIME_BYTES if on_gpu else _CPU_RUNTIME_BYTES,
        formula="allowance for CUDA context, NCCL and workspaces" if on_gpu else "allowance for the process and its libraries",
        phase="always",
        basis="assumed",
    )
