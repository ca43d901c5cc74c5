"""The engine of a job, made: the only place that knows them all. What it does not make, it does not import."""

from typing import Any

from finetune_api.engines import EngineName
from finetune_api.finetunejob import Training
from finetune_trainer.model.method import Method
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.collectives import rank_device
from finetune_trainer.training.engine import Engine


def make_engine(
    name: EngineName, model: Any, training: Training, *, precision: Precision, method: Method, recompute_every: int | None = None
) -> Engine:
    """The engine called `name` around a model from `build.build_model`. Collective; torch.distributed is already initialised."""
    if name == "plain":
        from finetune_trainer.training.plain_engine import PlainEngine

        return PlainEngine(model, training, method=method, device=rank_device(), recompute_every=recompute_every)
    from finetune_trainer.training.zero_engine import ZeroEngine

    return ZeroEngine(model, training, precision=precision, method=method, recompute_every=recompute_every)
