"""LoRA: PEFT's adapters in a model, in place, with everything else frozen.

In: a model from `build.build_model`, the job's settings, and the tokens whose rows it made up. Out: the same object, in which what is
trained requires a gradient. Adapters are PEFT's own layers, so what is trained is what PEFT would train. Rows of new tokens alone are
computed otherwise, to the same numbers: PEFT copies the whole table of tokens in each forward, and takes its gradient whole.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from finetune_trainer.model.four_bits import is_quantised, num_elements  # before PEFT, which imports bitsandbytes

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import ALL_LINEAR, Lora
from finetune_api.training_run import TrainingRun, Vocabulary
from finetune_trainer.model.adapted_linear import NAME, AdaptedLinear
from finetune_trainer.model.build import fresh_rows, meta_parameters, read_config, set_vocabulary, without_memory
from finetune_trainer.model.stored import stand_ins, stored_values


def try_adapters(folder: Path, lora: Lora, vocabulary: Vocabulary) -> None:
    """Raise InvalidModel for settings that don't fit the architecture of a model folder. Neither weights nor memory are needed."""
    config = read_config(folder)
    known = config.vocab_size
    set_vocabulary(config, max(known, vocabulary.size))
    fresh = fresh_rows(known, config.vocab_size, vocabulary.new_token_ids)
    add_adapters(without_memory(config), lora, fresh_rows=fresh, seed=0, reads=False)


def adapt(model: Any, run: TrainingRun, *, reads: bool = True) -> PeftModel:
    """Put the adapters of a run into its model, as `add_adapters` does."""
    training, known = run.job.spec.training, run.model_shape.vocabulary_size
    assert training.adapter is not None, "the run trains adapters"
    fresh = fresh_rows(known, max(known, run.vocabulary.size), run.vocabulary.new_token_ids)
    return add_adapters(model, training.adapter, fresh_rows=fresh, seed=training.seed, reads=reads)


def add_adapters(model: Any, lora: Lora, *, fresh_rows: Sequence[int], seed: int, reads: bool = True) -> PeftModel:
    """Put adapters into `model` and freeze all else; PEFT's view of it, for those who write its files.

    `fresh_rows`: ids of tokens that the base model has never seen, whose rows are trained. `reads=False`: adapters on the meta device, as
    the model's own parameters. Adapters begin as PEFT draws them, from the seed alone, in the type of the model. Raises InvalidModel for
    settings that don't fit the architecture.
    """
    _check(model, lora, fresh_rows)
    dtype = next(model.parameters()).dtype
    with stand_ins(model) if reads else meta_parameters(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # PEFT 0.21 on Transformers 5.23
        torch.manual_seed(seed)
        try:
            adapted = cast(PeftModel, get_peft_model(model, lora_config(model, lora, fresh_rows), autocast_adapter_dtype=False))
        except ValueError as error:  # no module of that name, or of a kind that takes an adapter
            raise InvalidModel(f"spec.training.lora does not fit {type(model).__name__}: {error}") from None
    if reads:
        _fill_rows(model)
    in_one_go = not (lora.use_dora or lora.lora_dropout)
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer):
            module.__class__ = _Rows if isinstance(module.base_layer, nn.Embedding) else _HeadRows
            module.trainable_tokens_original.clear()  # kept to be put back, which nobody does
        elif in_one_go and type(module) is PeftLinear and type(module.base_layer) is nn.Linear:
            module.__class__ = AdaptedLinear
        elif in_one_go and isinstance(module, LoraLayer) and is_quantised(module.get_base_layer().weight):
            from finetune_trainer.model.four_bit_layers import add_in_one_go

            add_in_one_go(module)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return adapted


@torch.no_grad()
def _fill_rows(model: nn.Module) -> None:
    """Trained rows of tables that are left in files: PEFT would copy them from the tables, and each is the mean of the others."""
    filled = set[int]()
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and (values := stored_values(module.get_base_layer().weight)) is not None:
            rows_ND = module.trainable_tokens_delta[NAME]
            if id(rows_ND) not in filled:  # those of tied tables are one
                rows_ND.copy_(values.mean())
                filled.add(id(rows_ND))


def share_trained(model: nn.Module) -> str:
    """How much of a model with adapters is trained, as a sentence."""
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    every = sum(num_elements(one) for one in model.parameters())
    quantised = sum(num_elements(one) for one in model.parameters() if is_quantised(one))
    kept = f", {quantised:,} of which are kept in 4 bits" if quantised else ""
    return f"LoRA trains {trained:,} beside {every - trained:,} parameters ({trained / every:.2%} of all){kept}"


def lora_config(model: Any, lora: Lora, fresh_rows: Sequence[int]) -> LoraConfig:
    """PEFT's settings for a model."""
    tables = _trained_tables(model, lora) if fresh_rows else []
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else lora.target_modules,
        modules_to_save=lora.modules_to_save or None,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        trainable_token_indices={name: sorted(fresh_rows) for name in tables} or None,
    )


def borrowed_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Modules whose forward uses parameters of other modules, and those: ZeRO-3 gathers a parameter only for whom it knows to need it."""
    for module in model.modules():
        if isinstance(module, _Rows | _HeadRows):
            yield module, module.trainable_tokens_delta[NAME]
        elif isinstance(module, AdaptedLinear):
            for borrowed in (module.base_layer.weight, module.base_layer.bias, module.lora_A[NAME].weight, module.lora_B[NAME].weight):
                if borrowed is not None:
                    yield module, borrowed
        elif isinstance(module, LoraLayer) and NAME in module.lora_magnitude_vector:
            direction = cast(DoraLinearLayer, module.lora_magnitude_vector[NAME])
            for borrowed in (module.get_base_layer().weight, module.lora_A[NAME].weight):
                yield direction, borrowed


class _Rows(TrainableTokensLayer):  # type: ignore[misc]
    """An embedding of which some rows are trained."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., D) of token ids (...)."""
        rows_ND = self.trainable_tokens_delta[NAME]
        known = self.base_layer(x)
        scale = self._get_embed_scale()
        ids_N = torch.tensor(self.token_indices[NAME], device=x.device)
        is_one = x[..., None] == ids_N  # (..., N)
        own = embedding(is_one.int().argmax(dim=-1), rows_ND)
        return torch.where(is_one.any(dim=-1, keepdim=True), own if scale is None else own * scale.to(own.dtype), known)


class _HeadRows(TrainableTokensLayer):  # type: ignore[misc]
    """A head of which some rows are trained: with labels it returns the loss, if its base is a LossHead."""

    def forward(self, x: Tensor, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Logits (..., V), or the loss."""
        rows_ND = self.trainable_tokens_delta[NAME]
        ids_N = torch.tensor(self.token_indices[NAME], device=x.device)
        if labels is not None:
            return cast(Tensor, self.base_layer(x, labels=labels, other_rows=(ids_N, rows_ND)))
        return cast(Tensor, self.base_layer(x)).index_copy(-1, ids_N, linear(x, rows_ND))


def _trained_tables(model: Any, lora: Lora) -> list[str]:
    """Paths of the modules whose rows of new tokens are trained: not those that are trained in full. PEFT itself follows what is tied."""
    tables = list(_tables(model))
    return [name for name in (tables[:1] if _is_tied(model) else tables) if not _is_named(name, lora.modules_to_save)]


def _tables(model: Any) -> dict[str, Any]:
    """Embedding and head by their paths: what has a row for each token."""
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(end)]: end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}


def _is_tied(model: Any) -> bool:
    tables = _tables(model).values()
    return len({id(table.weight) for table in tables}) < len(tables)


def _check(model: Any, lora: Lora, fresh_rows: Sequence[int]) -> None:
    """Raise InvalidModel for what PEFT would do otherwise than the engine, or not at all."""
    what, tables = type(model).__name__, _tables(model)
    if any(_is_named(name, lora.target_modules) for name in tables):
        told = f"{' and '.join(tables)} of {what} have a row for each token and take no adapter"
        raise InvalidModel(f"spec.training.lora.target_modules: {told}; name them in modules_to_save, or leave them out")
    if _is_tied(model) and any(_is_named(name, lora.modules_to_save) for name in tables):
        told = f"{' and '.join(tables)} of {what} are one table, of which PEFT would train a copy"
        raise InvalidModel(f"spec.training.lora.modules_to_save: {told}; remove it: rows of new control tokens are trained anyway")
    if fresh_rows and any(getattr(table, "bias", None) is not None for table in tables.values()):
        raise InvalidModel(f"the head of {what} has a bias, and PEFT can't train rows of one; use a template whose tokens it has")
    names = [name for name, _ in model.named_modules()]
    if lora.modules_to_save and not any(_is_named(name, lora.modules_to_save) for name in names):
        raise InvalidModel(f"spec.training.lora.modules_to_save: {what} has no module {', '.join(lora.modules_to_save)}")


def _is_named(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)
