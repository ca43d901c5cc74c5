"""What test_adapters.py runs on each rank: LoRA under ZeRO, in one process group for all cases."""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from tests.trainer.architectures import VOCABULARY
from tests.trainer.engine_runs import CURVE, STEPS, restore, steps, whole_state

from finetune_api.engines import EngineName
from finetune_api.finetunejob import Lora, Optimizer, Training, ZeroOptimization
from finetune_trainer.model.adapters import add_adapters
from finetune_trainer.model.build import build_model, fresh_rows
from finetune_trainer.model.method import Method
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.assembling import begins_without_weights
from finetune_trainer.training.engine import DTYPES, Engine
from finetune_trainer.training.engines import make_engine
from finetune_trainer.training.plain_engine import PlainEngine

NEW_TOKENS = (3, VOCABULARY)  # a row that the base model has, and one that it lacks
LORA: dict[str, Lora] = {
    "lora": Lora(r=4, lora_alpha=16),
    "dora": Lora(r=4, lora_alpha=16, use_dora=True),
    "rslora": Lora(r=4, lora_alpha=16, use_rslora=True),
    "qlora": Lora(r=4, lora_alpha=16),
    "qdora": Lora(r=4, lora_alpha=16, use_dora=True),
}


def method_of(kind: str) -> Literal["lora", "qlora"]:
    """How adapters of a kind are trained."""
    return "qlora" if kind.startswith("q") else "lora"


def training(lora: Lora, name: EngineName, method: Literal["lora", "qlora"], seed: int = 1) -> Training:
    """Settings under which ZeRO-3 partitions whatever has more than 60 elements."""
    return Training(
        method=method,
        lora=lora,
        sharding="zero2" if name == "zero2" else "zero3",
        micro_batch_size=1,
        seed=seed,
        deepspeed=ZeroOptimization(stage3_param_persistence_threshold=60),
        optimizer=Optimizer(weight_decay=0.0, gradient_clipping=0.5, epsilon=1e-6),
    )


def engine(
    folder: Path,
    lora: Lora,
    *,
    name: EngineName = "plain",
    method: Literal["lora", "qlora"] = "lora",
    rank: int = 0,
    precision: Precision = "fp32",
    seed: int = 1,
    by_range: bool = True,
) -> Engine:
    """An engine of a model with adapters and rows of new tokens. `by_range`: as a job's ranks read it, where they may."""
    reads = name == "plain" or rank == 0 or method == "qlora"
    model = build_model(
        folder,
        initialization="pretrained",
        seed=seed,
        dropout=0.0,
        vocabulary_size=VOCABULARY + 1,
        new_token_ids=NEW_TOKENS,
        dtype=DTYPES[precision],
        reads=reads,
        by_range=by_range and name == "zero3" and begins_without_weights(lora),
        four_bits_on=torch.device("cpu") if method == "qlora" else None,
    )
    fresh = fresh_rows(VOCABULARY, VOCABULARY + 1, NEW_TOKENS)
    add_adapters(model, lora, fresh_rows=fresh, seed=seed, reads=reads)
    settings = training(lora, name, method, seed)
    return PlainEngine(model, settings) if name == "plain" else make_engine(name, model, settings, precision=precision, method=Method())


def two_ranks(cases: list[tuple[str, Path, str, EngineName]]) -> dict[str, Any]:
    """For each model and kind of adapter: a curve, and the same again from what was saved in it, in an engine that began elsewhere.

    The first engine's ranks read their ranges, of the second one's rank 0 reads all: the frozen weights are the same to the last bit.
    """
    rank, found = dist.get_rank(), {}
    for model, folder, kind, name in cases:
        first = engine(folder, LORA[kind], name=name, method=method_of(kind), rank=rank)
        early = steps(first, STEPS)
        saved = whole_state(first)
        late = steps(first, CURVE - STEPS)
        second = engine(folder, LORA[kind], name=name, method=method_of(kind), rank=rank, seed=5, by_range=False)
        restore(second, saved, STEPS)
        found[f"{model} {kind} {name}"] = {
            "curve": [*early, *late],
            "again": [*early, *steps(second, CURVE - STEPS)],
            "constants": len(first.constants),
        }
    return found
