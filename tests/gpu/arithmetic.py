"""fp16 with scaled losses, and AdamW with moments in 8 bits, on a GPU against fp32 on the CPU."""

import math
from collections.abc import Iterator

import torch
from tests.gpu import speed
from tests.gpu.measure import BF16, CPU, Measure, apart, differing, is_installed, losses, state
from tests.gpu.training import Sizes, random_row

# Of a loss: no gradient of the small model is finite in fp16 when it is multiplied by this.
_TOO_MUCH = 2.0**40


def halves(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Steps in fp16, and one whose loss is scaled by far too much: it is made again until it fits, as if nothing had been."""
    rows = [random_row(sizes, seed) for seed in range(4)]
    trained, reference = (speed.engine(sizes, where, dtype, seed=0) for where, dtype in ((device, torch.float16), (CPU, torch.float32)))
    done, right = losses(trained, rows[:3]), losses(reference, rows)
    yield Measure(name="fp16: first loss", error=apart(done[0], right[0]), tolerance=2e-3)
    yield Measure(name="fp16: loss of step 3", error=apart(done[2], right[2]), tolerance=2e-2)
    trained._scaler.update(_TOO_MUCH)
    (again,) = losses(trained, rows[3:])
    yield Measure(name="fp16, an overflow: loss of the step that is made again", error=apart(again, right[3]), tolerance=2e-2)
    scale = trained._scaler.get_scale() / _TOO_MUCH
    yield Measure(name="fp16, an overflow: scale afterwards, of that before", error=scale, tolerance=0.5)
    odd = math.log2(scale) % 1.0
    yield Measure(name="fp16, an overflow: how far that is from a power of two", error=odd, tolerance=0.0)


def eight_bit(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """AdamW8bit of bitsandbytes, where that is installed: steps, and how they go on from what was saved, codes and scales."""
    if not is_installed("bitsandbytes"):
        return
    rows = [random_row(sizes, seed) for seed in range(4)]
    trained, reference, other = (
        speed.engine(sizes, where, dtype, seed=seed, optimizer="adamw8bit")
        for where, dtype, seed in ((device, BF16, 0), (CPU, torch.float32, 0), (device, BF16, 9))
    )
    done, right = losses(trained, rows[:3]), losses(reference, rows[:3])
    yield Measure(name="adamw8bit, bf16: first loss", error=apart(done[0], right[0]), tolerance=2e-3)
    yield Measure(name="adamw8bit, bf16: loss of step 3", error=apart(done[2], right[2]), tolerance=2e-2)
    saved = state(trained)
    assert any(kind == "exp_avg_codes" for kind, _ in saved), "a table of tokens is large enough for moments in 8 bits"
    other.load_local_state(lambda kind, name, start, stop: saved[kind, name].float().numpy()[start:stop], step=3)
    differ = differing(saved, state(other))
    yield Measure(name="adamw8bit, restored: elements of masters and moments that differ", error=differ, tolerance=0)
    (went,), (goes,) = (losses(one, rows[3:]) for one in (trained, other))
    yield Measure(name="adamw8bit, restored: loss of the next step", error=apart(goes, went), tolerance=1e-3)
