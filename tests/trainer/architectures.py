"""Small random models of the architectures that training is tried on, with sizes that don't divide evenly over ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

VOCABULARY = 61


def gpt_bigcode(**changes: Any) -> transformers.PreTrainedConfig:
    """Multi-query, learned positions, tied embeddings, dropout 0.1: StarCoder's family."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": 33, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_inner": 50}
    return transformers.GPTBigCodeConfig(**sizes, bos_token_id=0, eos_token_id=0, architectures=["GPTBigCodeForCausalLM"], **changes)


def llama(**changes: Any) -> transformers.PreTrainedConfig:
    """Grouped queries, rotary positions, an untied head."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 40, "intermediate_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return transformers.LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0, architectures=["LlamaForCausalLM"], **changes)


def save_random(config: transformers.PreTrainedConfig, folder: Path, seed: int = 0, scale: float = 8.0) -> Path:
    """A model folder with random weights, larger than at initialisation so that no effect hides in small numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(scale)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def packed(*dialogues: list[int], supervised: tuple[bool, ...] | None = None) -> MicroBatch:
    """A row of dialogues; `supervised` says which of them count in the loss, by default all."""
    counts = supervised or (True,) * len(dialogues)
    shifted = [[*dialogue[1:], IGNORE_INDEX] for dialogue in dialogues]
    labels = [np.array(s if counted else [IGNORE_INDEX] * len(s)) for s, counted in zip(shifted, counts, strict=True)]
    return MicroBatch(
        input_ids=np.concatenate(dialogues).astype(np.int64),
        labels=np.concatenate(labels).astype(np.int64),
        position_ids=np.concatenate([np.arange(len(d)) for d in dialogues]),
        cu_seq_lens=np.cumsum([0, *map(len, dialogues)]).astype(np.int32),
        max_length=max(map(len, dialogues)),
        num_supervised=int(sum((label != IGNORE_INDEX).sum() for label in labels)),
    )


def random_rows(count: int, seed: int, vocabulary: int = VOCABULARY) -> list[MicroBatch]:
    """Rows of one to five dialogues of 2 to 20 tokens; some are not supervised."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        dialogues = [generator.integers(0, vocabulary, size).tolist() for size in generator.integers(2, 20, generator.integers(1, 6))]
        rows.append(packed(*dialogues, supervised=tuple(bool(b) for b in generator.random(len(dialogues)) < 0.8)))
    return rows


EMPTY = packed([0])
