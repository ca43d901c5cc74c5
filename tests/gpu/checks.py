"""What a GPU computes against the same on the CPU: attention, loss, steps of a small GPTBigCode, and its checkpoint.

Needs torch, Transformers and NumPy only, of about our versions: neither Ray nor DeepSpeed, nor anything else that the trainer installs.
Each check gives measures: an error, and the most that it may be. Sixteen bits keep 8 binary digits, so an error of some thousandths
is rounding; a wrong scale, window, boundary or label is an error of a tenth or more.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tests.gpu import adapters, arithmetic, pace, saved, speed, startup
from tests.gpu.measure import BF16, CPU, Check, Measure, is_installed, losses, relative, state
from tests.gpu.training import Sizes, Trainer, logits, random_row
from torch import Tensor

from finetune_trainer.model import varlen
from finetune_trainer.model.attention import packed_attention
from finetune_trainer.model.cross_entropy import cross_entropy_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of attention: query heads, key and value heads, width of a head, sliding window."""

    name: str
    heads: int
    groups: int
    width: int
    window: int | None = None
    scaling: float | None = None


SHAPES = (
    Shape(name="multi-query, 128 wide (StarCoder)", heads=8, groups=1, width=128),
    Shape(name="grouped, 64 wide, its own scale", heads=8, groups=2, width=64, scaling=0.2),
    Shape(name="grouped, 128 wide, window of 100", heads=8, groups=2, width=128, window=100),
    Shape(name="36 wide, padded to 40", heads=4, groups=4, width=36),
    Shape(name="256 wide", heads=2, groups=1, width=256),
)


def attention(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Forward and backward of packed rows, in bf16 and in fp32, against fp64 on the CPU from the same (rounded) states."""
    for shape in SHAPES:
        yield from _attention(device, shape, BF16, forward=1e-2, backward=2e-2, lengths=sizes.lengths)
    yield from _attention(device, SHAPES[1], torch.float32, forward=1e-4, backward=1e-4, lengths=sizes.lengths)
    yield _isolation(device, sizes)


def _attention(
    device: torch.device, shape: Shape, dtype: torch.dtype, *, forward: float, backward: float, lengths: tuple[int, ...]
) -> Iterator[Measure]:
    states, upstream = _states(shape, lengths, dtype), torch.randn(1, sum(lengths), shape.heads, shape.width).to(dtype)
    mine, expected = _leaves(states, device, dtype), _leaves(states, CPU, torch.float64)
    name, path = f"attention, {shape.name}, {_word(dtype)}", _path(mine[0])
    output, reference = (_attend(which, shape, lengths) for which in (mine, expected))
    yield Measure(name=f"{name}: output", error=relative(output, reference), tolerance=forward, path=path)
    gradients = torch.autograd.grad(output, mine, upstream.to(device))
    wanted = torch.autograd.grad(reference, expected, upstream.double())
    worst = max(relative(one, other) for one, other in zip(gradients, wanted, strict=True))
    yield Measure(name=f"{name}: worst gradient of query, key, value", error=worst, tolerance=backward, path=path)


def _isolation(device: torch.device, sizes: Sizes) -> Measure:
    """One dialogue of the row is changed: the others' output must stay the same to the last bit."""
    shape, first = SHAPES[0], sizes.lengths[0]
    before = [t.to(device) for t in _states(shape, sizes.lengths, BF16)]
    after = [torch.cat([-t[:, :, :first], t[:, :, first:]], dim=2) for t in before]
    moved = (_attend(before, shape, sizes.lengths) - _attend(after, shape, sizes.lengths)).abs()
    assert float(moved[:, :first].max()) > 0, "the changed dialogue's own output moves"
    name = "attention, another dialogue of the row changed: largest change of the others' output"
    return Measure(name=name, error=float(moved[:, first:].max()), tolerance=0.0, path=_path(before[0]))


def _states(shape: Shape, lengths: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value as views of one projection, heads before tokens, as architectures make them."""
    whole = torch.randn(1, sum(lengths), shape.heads + 2 * shape.groups, shape.width, generator=torch.Generator().manual_seed(0)).to(dtype)
    return list(whole.transpose(1, 2).split([shape.heads, shape.groups, shape.groups], dim=1))


def _attend(states: list[Tensor], shape: Shape, lengths: tuple[int, ...]) -> Tensor:
    offsets = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=states[0].device)
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    boundaries = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, **longest, "segment_lengths": lengths}
    query, key, value = states
    named = {"scaling": shape.scaling, "sliding_window": shape.window}
    return packed_attention(torch.nn.Identity(), query, key, value, None, **named, **boundaries)[0]


def loss(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """The head's loss and gradients in chunks, in bf16, against torch's own cross entropy in fp64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(sizes.supervised, 256, generator=generator).to(BF16)
    weight = (torch.randn(sizes.vocabulary, 256, generator=generator) * 0.05).to(BF16)
    labels = torch.randint(sizes.vocabulary, (sizes.supervised,), generator=generator)
    mine, expected = _leaves([hidden, weight], device, BF16), _leaves([hidden, weight], CPU, torch.float64)
    total = cross_entropy_sum(mine[0], mine[1], None, labels.to(device))
    reference = torch.nn.functional.cross_entropy(expected[0] @ expected[1].t(), labels, reduction="sum")
    yield Measure(name="loss, bf16: sum of cross entropies", error=relative(total, reference), tolerance=1e-3)
    (total / len(labels)).backward()
    (reference / len(labels)).backward()
    for name, one, other in zip(("hidden states", "head"), mine, expected, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        yield Measure(name=f"loss, bf16: gradient of the {name}", error=relative(one.grad, other.grad), tolerance=1e-2)


def steps(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Optimizer steps of a small GPTBigCode with fp32 masters, against the same steps in fp64 on the CPU."""
    rows = [random_row(sizes, seed) for seed in range(sizes.steps)]
    reference = Trainer(sizes, CPU, torch.float64, seed=0)
    start, right = reference.masters(), [reference.step(row) for row in rows]
    for dtype, on_loss, on_gradient in ((torch.float32, 1e-5, 1e-4), (BF16, 1e-3, 5e-2)):
        trainer = Trainer(sizes, device, dtype, seed=0)
        done = [trainer.step(row) for row in rows]
        path = _path(torch.empty(1, 1, 1, sizes.width // sizes.heads, device=device, dtype=dtype))
        measure, name = partial(Measure, path=path), f"step of GPTBigCode, {_word(dtype)}"
        yield measure(name=f"{name}: first loss", error=abs(done[0].loss / right[0].loss - 1), tolerance=on_loss)
        yield measure(name=f"{name}: first gradient", error=relative(done[0].gradient, right[0].gradient), tolerance=on_gradient)
        yield measure(name=f"{name}: loss of step {len(rows)}", error=abs(done[-1].loss / right[-1].loss - 1), tolerance=on_loss)
        # AdamW takes a whole step also where a gradient is nearly zero: in bf16 the way of the weights would tell of rounding only.
        if dtype == torch.float32:
            way = relative(trainer.masters() - start, reference.masters() - start)
            yield measure(name=f"{name}: way of the weights in {len(rows)} steps", error=way, tolerance=1e-2)


def checkpoint(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Saved in the middle, read back into a model of another seed, and by the CPU; then both go on."""
    rows = [random_row(sizes, seed) for seed in range(4)]
    trainer = Trainer(sizes, device, BF16, seed=0)
    for row in rows[:2]:
        trainer.step(row)
    with trainer.saved() as saved:
        restored, on_cpu = (Trainer(sizes, where, dtype, seed=9) for where, dtype in ((device, BF16), (CPU, torch.float32)))
        restored.load(saved)
        on_cpu.load(saved)
    differing = sum(int((one != other).sum()) for one, other in zip(trainer.state(), restored.state(), strict=True))
    yield Measure(name="checkpoint: elements of masters and moments that differ when read back", error=differing, tolerance=0)
    before, after = logits(trainer, rows[2]), logits(restored, rows[2])
    yield Measure(name="checkpoint: largest change of a logit before the next step", error=float((before - after).abs().max()), tolerance=0)
    went, goes, elsewhere = ([one.step(row).loss for row in rows[2:]] for one in (trainer, restored, on_cpu))
    yield Measure(name="checkpoint: loss two steps later", error=abs(goes[1] / went[1] - 1), tolerance=1e-3)
    yield Measure(
        name="checkpoint: loss two steps later, gone on in fp32 on the CPU", error=abs(elsewhere[1] / went[1] - 1), tolerance=2e-2
    )


def engine(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """The engine of one GPU in bf16, recomputing activations: against itself in fp32 on the CPU, and against what it saved."""
    rows = [random_row(sizes, seed) for seed in range(4)]
    trained, reference = speed.engine(sizes, device, BF16, seed=0), speed.engine(sizes, CPU, torch.float32, seed=0)
    done, right = [losses(one, rows[:2]) for one in (trained, reference)]
    yield Measure(name="engine, bf16: first loss", error=abs(done[0] / right[0] - 1), tolerance=2e-3)
    yield Measure(name="engine, bf16: loss of step 2", error=abs(done[1] / right[1] - 1), tolerance=2e-2)
    kept = state(trained)
    other = speed.engine(sizes, device, BF16, seed=9)
    other.load_local_state(lambda kind, name, start, stop: kept[kind, name].numpy()[start:stop], step=2)
    change = (trained.logits(rows[2]) - other.logits(rows[2])).abs().max()
    yield Measure(name="engine, restored: largest change of a logit before the next step", error=float(change), tolerance=0)
    went, goes = (losses(one, rows[2:]) for one in (trained, other))
    yield Measure(name="engine, restored: loss two steps later", error=abs(goes[1] / went[1] - 1), tolerance=1e-3)


def zero(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """ZeRO-3 over NCCL with one rank, where DeepSpeed is installed, against the engine that has none: in bf16 both."""
    if not is_installed("deepspeed", "pydantic"):
        return
    import torch.distributed as dist

    from finetune_api.finetunejob import Optimizer, Training
    from finetune_trainer.training.zero_engine import ZeroEngine

    rows = [random_row(sizes, seed) for seed in range(3)]
    right = losses(speed.engine(sizes, device, BF16, seed=0), rows)
    with TemporaryDirectory() as folder:
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            optimizer = Optimizer(weight_decay=0.1, gradient_clipping=1.0)
            training = Training(micro_batch_size=1, activation_checkpointing=True, tf32=False, optimizer=optimizer)
            model = speed.random_model(sizes, seed=0).to(BF16)
            done = losses(ZeroEngine(model, training, precision="bf16", method=speed.METHOD), rows)
        finally:
            dist.destroy_process_group()
    for step, (one, other) in enumerate(zip(done, right, strict=True), 1):
        yield Measure(name=f"ZeRO-3 over {backend}: loss of step {step}", error=abs(one / other - 1), tolerance=2e-3)


CHECKS: tuple[Check, ...] = (
    attention,
    loss,
    steps,
    checkpoint,
    engine,
    pace.recomputed,
    pace.host_syncs,
    pace.profile,
    pace.own_time,
    arithmetic.halves,
    arithmetic.eight_bit,
    adapters.lora,
    adapters.qlora,
    saved.overlapped,
    startup.products,
    startup.pairs,
)
# What takes DeepSpeed, and its compiled operators: on a machine with a GPU only.
MORE_CHECKS: tuple[Check, ...] = (zero,)


def _leaves(states: list[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(device=device, dtype=dtype, copy=True).requires_grad_() for t in states]


def _path(query: Tensor) -> str:
    return "varlen" if varlen.runs_on(query) else "per segment"


def _word(dtype: torch.dtype) -> str:
    return {BF16: "bf16", torch.float32: "fp32"}[dtype]
