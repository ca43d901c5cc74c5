"""A LoRA run's checkpoint as the weights of a whole model: the base's, with what the adapters add to them.

In: a frozen run, the adapters of one step, the base model's folder with its weights. Out: `Weights` that `export` writes as any others.
The base is in memory once, in the arithmetic of the run; each layer is added to in fp32 and rounded once. Where the base was in 4 bits,
adapters are added to the weights that it had then, so that the model that comes out is the one that was trained and measured.
"""

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from finetune_api.errors import InvalidModel
from finetune_api.training_run import TrainingRun
from finetune_trainer.model.precision import DTYPE_NAMES
from finetune_trainer.publishing.safetensors_files import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from finetune_trainer.publishing.export import Weights


def merged_weights(run: TrainingRun, adapters: "Weights", base: Path) -> "ModelWeights":
    """The whole model's. Raises InvalidModel when the adapters aren't of this base model."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    adapted = adapted_model(run, base)
    load(dict(adapted.get_base_model().named_parameters()), adapters)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")  # what is left are modules in place of others
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer) and not isinstance(layer, AuxiliaryTrainingWrapper):
                dtype = layer.get_base_layer().weight.dtype
                layer.float()
                layer.merge()
                layer.to(dtype)
        model = adapted.merge_and_unload()
    return ModelWeights(model)


def adapted_model(run: TrainingRun, base: Path, *, reads: bool = True) -> Any:
    """PEFT's view of the run's model with adapters as at the beginning; `reads=False`: names and shapes alone."""
    import torch

    from finetune_trainer.model.adapters import adapt
    from finetune_trainer.model.build import build_model
    from finetune_trainer.model.four_bits import round_as

    training = run.job.spec.training
    built = partial(
        build_model,
        base,
        initialization="pretrained",
        seed=training.seed,
        dropout=0.0,
        vocabulary_size=run.vocabulary.size,
        new_token_ids=run.vocabulary.new_token_ids,
        dtype=getattr(torch, DTYPE_NAMES[run.plan.precision]),
    )
    model = built(reads=reads)
    if training.method == "qlora" and reads:
        round_as(built(four_bits_on=torch.device("cpu")), model)
    return adapt(model.eval(), run, reads=reads)


def load(parameters: Mapping[str, "Tensor"], adapters: "Weights") -> None:
    """Give parameters that require a gradient the values of a checkpoint."""
    import torch

    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    check_same_shapes({name: tuple(one.shape) for name, one in trained.items()}, adapters.shapes)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(adapters.read(name, 0, parameter.numel())).view(parameter.shape))


def check_same_shapes(wanted: Shapes, stored: Shapes) -> None:
    """Raise InvalidModel unless a checkpoint holds what the base model with adapters has."""
    if wrong := sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name)):
        name = wrong[0]
        raise InvalidModel(
            f"the checkpoint does not fit the base model with adapters: {name} is {stored.get(name, 'absent')} in the one and "
            f"{wanted.get(name, 'absent')} in the other ({len(wrong)} differ); give the model that the run was trained from"
        )


class ModelWeights:
    """The weights of a model in memory."""

    def __init__(self, model: Any) -> None:
        saved = model.state_dict().keys()
        tensors = {**dict(model.named_parameters()), **{name: one for name, one in model.named_buffers() if name in saved}}
        self._tensors: dict[str, Tensor] = {name: one.detach().reshape(-1) for name, one in tensors.items()}
        self.shapes: Shapes = {name: tuple(one.shape) for name, one in tensors.items()}

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """All of it is in memory."""

    def read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """A range of the flat tensor, in fp32."""
        return cast(NDArray[np.float32], self._tensors[name][start:stop].float().numpy())
