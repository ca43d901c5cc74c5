"""A run of benchmarks/checkpoints.py: steps, and one side's checkpoint beside them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.checkpoints_places import make_engine, used
from benchmarks.checkpoints_sides import SIDES

LEARNING_RATE = 1e-4
WARM_UP = 2


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Steps, and a checkpoint after the first; until all steps are done and the checkpoint is in storage."""
    from finetune_trainer.training.collectives import Ranks

    ranks, engine = Ranks(), make_engine(settings)
    step = stepper(engine, settings)
    for _ in range(WARM_UP):
        step()
    side = SIDES[settings["side"]](engine, ranks, settings)
    ranks.gathered(None)
    began, spent_before = time.monotonic(), used()
    blocked, steps = 0.0, list[float]()
    for number in range(settings["steps"]):
        before = time.monotonic()
        step()
        words = ranks.gathered(side.word)
        steps.append(time.monotonic() - before)
        asked = time.monotonic()
        if number == 0:
            side.begin(engine.step)
        else:
            side.look(words)
        blocked += time.monotonic() - asked
    trained = time.monotonic() - began
    side.finish()
    seconds, processor = time.monotonic() - began, used() - spent_before
    return {
        "seconds": seconds,
        "trained_seconds": trained,
        "blocked_seconds": blocked,
        "processor_seconds": sum(ranks.gathered(processor)),
        "step_seconds": sorted(steps)[len(steps) // 2],
        **side.details,
    }


def stepper(engine: Any, settings: dict[str, Any]) -> Callable[[], None]:
    """A step on random tokens, the same of a rank at every time."""
    import numpy as np
    import torch.distributed as dist

    from finetune_trainer.model.micro_batch import joined

    vocabulary = json.loads(Path(settings["model"], "config.json").read_text(encoding="utf-8"))["vocab_size"]

    def step() -> None:
        random = np.random.default_rng((engine.step, dist.get_rank()))
        row = joined([random.integers(0, vocabulary, settings["tokens"]).tolist()])
        engine.train_step([row], num_supervised=row.num_supervised * dist.get_world_size(), learning_rate=LEARNING_RATE)

    return step
