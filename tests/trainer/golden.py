"""A loss curve that never changes: fifty fp32 steps of a small model on our own dialogues, from the text to the update.

Weights come from NumPy's generator, whose numbers are the same in every version; rows come from template, labels, packing and batches as
in a run.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tests.trainer.architectures import llama
from tests.trainer.chat_data import encoder

from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import Example
from finetune_trainer.preparation.packing import pack
from finetune_trainer.training.batches import BatchPlan
from finetune_trainer.training.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
DIALOGUES = ROOT / "tests/data/tiny_dialogues.jsonl"
CAPACITY = 128
GLOBAL_BATCH_SIZE = 6
LEARNING_RATE = 3e-3
_SCALE = 0.15  # of weights, so that the first steps already change the loss
# fmt: off
LOSSES = [
    7.123918, 7.093078, 7.015809, 6.877559, 6.650782, 6.438888, 6.297815, 6.258125, 6.23666, 6.118259,
    5.911394, 5.776465, 5.734359, 5.706246, 5.772281, 5.488862, 5.329249, 5.43314, 5.309723, 5.141405,
    5.041406, 5.045243, 4.987846, 4.878088, 4.866365, 4.736012, 4.588227, 4.679907, 4.552063, 4.434746,
    4.269001, 4.324496, 4.378265, 4.162994, 4.169663, 4.035912, 4.059945, 3.70664, 3.914798, 3.863273,
    3.632805, 3.518831, 3.653345, 3.615984, 3.618476, 3.418263, 3.249609, 3.338516, 3.327621, 2.993213,
]
# fmt: on


def save_model(folder: Path) -> Path:
    """The model that the curve begins with."""
    config = llama()
    config.vocab_size = len(encoder(name="no_system").tokenizer.get_vocab())
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.copy_(torch.from_numpy(generator.standard_normal(tuple(parameter.shape)) * _SCALE))
    model.save_pretrained(folder)
    return folder


def batches() -> BatchPlan:
    """Every dialogue, encoded and packed."""
    rows = [json.loads(line)["messages"] for line in DIALOGUES.read_text(encoding="utf-8").splitlines()]
    dialogues = [
        Dialogue(source="golden", row=number, tree=str(number), messages=tuple(Message(**message) for message in messages))
        for number, messages in enumerate(rows, start=1)
    ]
    made = encoder(name="no_system").encode(dialogues, max_length=CAPACITY)
    examples = _Examples([example for each in made for example in each.examples])
    return BatchPlan(
        examples=examples,
        packing=pack(examples.lengths, CAPACITY),
        supervised_counts=examples.supervised_counts,
        global_batch_size=GLOBAL_BATCH_SIZE,
        seed=42,
    )


def curve(engine: Engine, rank: int, world_size: int, micro_batch_size: int = 1) -> list[float]:
    """The loss of each step."""
    plan = batches()
    return [
        engine.train_step(
            plan.micro_batches(step, rank, world_size, micro_batch_size),
            num_supervised=plan.supervised_of_step(step),
            learning_rate=LEARNING_RATE,
        ).loss
        for step in range(len(LOSSES))
    ]


@dataclass
class _Examples:
    """Examples in memory."""

    examples: list[Example]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(example.input_ids) for example in self.examples])

    @property
    def supervised_counts(self) -> np.ndarray:
        return np.array([example.num_supervised for example in self.examples])

    def ids(self, index: int) -> np.ndarray:
        return np.array(self.examples[index].input_ids)

    def labels(self, index: int) -> np.ndarray:
        return np.array(self.examples[index].labels)

    def origin(self, index: int) -> tuple[str, int]:
        return "golden", index
