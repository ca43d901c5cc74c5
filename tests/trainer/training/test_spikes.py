"""training/spikes.py: real jumps are told once, and what losses do otherwise isn't told."""

import math
import random

import pytest

from finetune_trainer.training.spikes import LEAST, WINDOW, Spikes


def falling(steps: int, noise: float, seed: int) -> list[float]:
    """A loss as fine-tuning has it: steeply down at first, then slowly, with steps of different data."""
    draw = random.Random(seed)
    return [(2.5 * math.exp(-step / 30) + 1.2) * math.exp(draw.gauss(0.0, noise)) for step in range(steps)]


def told(losses: list[float]) -> list[int]:
    spikes = Spikes()
    return [step for step, loss in enumerate(losses, start=1) if spikes.see(step, loss) is not None]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05, 0.15])
def test_steps_of_different_data_are_no_spikes(noise: float) -> None:
    assert [found for seed in range(20) if (found := told(falling(1000, noise, seed)))] == []


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_spike_is_told_once_with_its_step(noise: float) -> None:
    losses = falling(300, noise, seed=1)
    for step, factor in ((100, 3.0), (101, 2.5), (102, 2.0), (200, 2.0)):
        losses[step - 1] *= factor
    assert told(losses) == [100, 200]


def test_a_jump_that_stays_is_told_once_and_is_usual_then() -> None:
    losses = falling(400, 0.02, seed=2)
    losses[200:] = [3.0 * loss for loss in losses[200:]]
    losses[350] *= 2.0
    assert told(losses) == [201, 351]


def test_the_words_have_step_loss_and_what_was_usual() -> None:
    spikes = Spikes()
    assert [spikes.see(step, 1.5) for step in range(1, WINDOW + 1)] == [None] * WINDOW
    words = spikes.see(65, 4.0)
    assert words is not None
    assert words.startswith("the loss jumped to 4 at step 65, from 1.5 in the median of the 64 steps before; if it doesn't come back")


def test_nothing_is_told_before_enough_is_known() -> None:
    assert told([1.0] * (LEAST - 1) + [9.0]) == []
    assert told([1.0] * LEAST + [9.0]) == [LEAST + 1]
