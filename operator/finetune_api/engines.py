"""Which engine trains a job: pure, for the plan, the trainer and the card alike."""

from typing import Literal

from finetune_api.finetunejob import Training

EngineName = Literal["plain", "zero2", "zero3"]


def engine_name(training: Training, world_size: int) -> EngineName:
    """`plain`, torch alone, for one worker: it has nothing to divide. DeepSpeed as spec.training.sharding says for more, and for one that
    keeps state in the host's memory.

    >>> engine_name(Training(), 1), engine_name(Training(), 2)
    ('plain', 'zero3')
    """
    return "plain" if world_size == 1 and not training.deepspeed.offloads else training.sharding


def engine_text(name: EngineName) -> str:
    """What a reader is told.

    >>> engine_text("plain"), engine_text("zero3")
    ('torch alone, one worker', 'DeepSpeed ZeRO-3')
    """
    return "torch alone, one worker" if name == "plain" else f"DeepSpeed {name.replace('zero', 'ZeRO-')}"
