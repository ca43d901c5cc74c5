"""A model object from a model folder, ready for the engine to partition. One process reads it, or each will read its ranges.

In: a folder with config.json and safetensors (or a seed). Out: a Transformers model with "finetune_packed" attention, every
dropout set, room for the control tokens, and their rows set to the mean of the rows the base model knows. Reading, renaming and
tying are Transformers' own `from_pretrained`, so the weights are what anyone else loads. This room knows nothing of DeepSpeed.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging

from finetune_api.errors import InvalidModel
from finetune_trainer.model.attention import ATTENTION, register
from finetune_trainer.model.four_bits import is_quantised, quantisation
from finetune_trainer.model.frequencies import separate_frequencies
from finetune_trainer.model.stored import leave_in_files, left_to_checkpoint, mean_row

# What Transformers reports of weights that don't fit, and what it means.
_REPORT = {"missing_keys": "lacks", "mismatched_keys": "has the wrong shape for", "unexpected_keys": "has weights that the model lacks:"}


def build_model(
    folder: Path,
    *,
    initialization: Literal["pretrained", "random"],
    seed: int,
    dropout: float,
    attention_dropout: float = 0.0,
    vocabulary_size: int,
    dtype: torch.dtype,
    new_token_ids: Sequence[int] = (),
    reads: bool = True,
    by_range: bool = False,
    restored: bool = False,
    four_bits_on: torch.device | None = None,
    attention: str = ATTENTION,
) -> Any:
    """The model of `folder` on the CPU, in training mode, with at least `vocabulary_size` embedding rows (never fewer than it has).

    `new_token_ids`: control tokens the base model has never seen; their rows, and rows that are added, become the mean of all
    others (in fp64), also where they fall into rows that the base model holds as padding. `reads=False` gives the same model
    with parameters on the meta device: every rank but the one that reads (32 GB of a 15.5 B model in bf16) builds it so. `by_range`:
    where that can be, nobody reads, and the parameters say where their values are (`stored.stored_values`). `restored`: a checkpoint will
    give all values, so the folder needs no weights and nobody reads any. `four_bits_on`: the device that keeps the model, its layers in
    4 bits (`four_bits`).
    Random weights depend on the seed alone. What the architecture keeps frozen is frozen. `attention`: its name in Transformers.
    Raises InvalidModel for missing, surplus or misshapen weights.
    """
    config = read_config(folder, dropout, attention_dropout)
    old_size = config.vocab_size
    assert old_size > 0, "models.py refuses a config without a vocabulary"
    size = max(old_size, vocabulary_size)
    if restored:
        set_vocabulary(config, size)
        model = _without_parameters(config, dtype, attention)
        if initialization == "pretrained" and not by_range:
            _keep_wide(model, dtype)
        return left_to_checkpoint(model).train()
    if by_range and initialization == "pretrained" and (unread := _unread(folder, config, dtype, attention, size, new_token_ids)):
        return unread.train()
    if not reads or initialization == "random":
        set_vocabulary(config, size)
        if reads:
            return _seeded(config, dtype, seed, attention).train()
        model = _without_parameters(config, dtype, attention)
        if initialization == "pretrained":
            _keep_wide(model, dtype)
        return model.train()
    model = _read(folder, config, dtype, attention, four_bits_on)
    if size > old_size:
        _resize(model, size)
        set_vocabulary(config, size)
        _check_resized(model, config, attention)
    if fresh := fresh_rows(old_size, size, new_token_ids):
        _mean_rows(model, fresh)
    return model.train()


def fresh_rows(old_size: int, size: int, new_token_ids: Sequence[int]) -> list[int]:
    """Rows that a base model of `old_size` has never seen: of new tokens, and those that are added.

    >>> fresh_rows(10, 12, [3, 10])
    [3, 10, 11]
    """
    return sorted({*new_token_ids, *range(old_size, size)})


def with_dropout(config: Any, dropout: float, attention: float = 0.0) -> Any:
    """A copy of a Transformers config with every dropout field set, whatever the architecture calls it; those of attention apart."""
    changed = copy.deepcopy(config)
    for field, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            setattr(changed, field, with_dropout(value, dropout, attention))
        elif _is_number(value) and ("dropout" in field or field.endswith(("_pdrop", "_drop"))):
            rate = attention if field.startswith(("attn", "attention")) else dropout
            setattr(changed, field, type(value)(rate) if rate == 0.0 else rate)  # some fields take whole numbers only
    return changed


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def read_config(folder: Path, dropout: float = 0.0, attention_dropout: float = 0.0) -> Any:
    """The Transformers config of a folder, with every dropout set."""
    config = with_dropout(AutoConfig.from_pretrained(folder, local_files_only=True), dropout, attention_dropout)
    config.use_cache = False
    return config


def without_memory(config: Any, attention: str = ATTENTION) -> Any:
    """A model of which nothing but names, shapes and settings is there."""
    with torch.device("meta"):
        return from_config(config, torch.float32, attention)


def _without_parameters(config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A model whose parameters have shapes and no memory; its buffers are there."""
    with meta_parameters():
        return from_config(config, dtype, attention)


def from_config(config: Any, dtype: torch.dtype, attention: str = ATTENTION) -> Any:
    """A model of a config, with this attention, in which a dialogue's length alone decides its frequencies."""
    register()
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    separate_frequencies(model)
    return model


def _seeded(config: Any, dtype: torch.dtype, seed: int, attention: str) -> Any:
    """Random weights as the architecture draws them, from the seed alone; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = from_config(config, torch.float32, attention)
    for parameter in model.parameters():  # not `model.to`: rotary frequencies, a buffer, must stay fp32
        parameter.data = parameter.data.to(dtype)
    return model


def _read(folder: Path, config: Any, dtype: torch.dtype, attention: str, four_bits_on: torch.device | None) -> Any:
    register()
    kept = {} if four_bits_on is None else {"quantization_config": quantisation(dtype), "device_map": {"": four_bits_on}}
    with quietly():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kept,
        )
    for kind, what in _REPORT.items():
        if names := sorted(str(name if isinstance(name, str) else name[0]) for name in report[kind]):
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise InvalidModel(f"{folder} {what} {shown}; its safetensors don't belong to its config.json, download the model again")
    separate_frequencies(model)
    # `from_pretrained` unfreezes what the class keeps frozen (ERNIE 4.5's correction of its router).
    for name, parameter in without_memory(config, attention).named_parameters():
        if not is_quantised(own := model.get_parameter(name)):
            own.requires_grad_(parameter.requires_grad)
    if four_bits_on is not None:
        from finetune_trainer.model.four_bit_layers import use_training_arithmetic

        use_training_arithmetic(model)
    return model


def _keep_wide(model: Any, dtype: torch.dtype) -> None:
    """Give parameters fp32 that a family keeps so where `from_pretrained` reads it in 16 bits."""
    patterns = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            parameter.data = parameter.data.to(torch.float32)


@contextmanager
def quietly() -> Iterator[None]:
    """Transformers without its progress bar and its table of weights that don't fit: both are the caller's business."""
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Modules made inside hold their parameters on the meta device (shape, no memory), and their buffers for real.

    Buffers such as rotary frequencies are computed, never loaded: on the meta device they would be lost.
    """

    def to_meta(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # unchanged
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(cast(Any, to_meta))  # its annotation forgets what it may return
    try:
        yield
    finally:
        handle.remove()


def _resize(model: Any, vocabulary_size: int) -> None:
    model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape[0] == vocabulary_size == model.config.vocab_size


def set_vocabulary(config: Any, size: int) -> None:
    """Change a config, for a model with more tokens; where each layer has embeddings of its own, they have as many (Gemma 3n, 4)."""
    if size != config.vocab_size:
        config.vocab_size = size
        if hasattr(config, "vocab_size_per_layer_input"):
            config.vocab_size_per_layer_input = size


def _check_resized(model: Any, config: Any, attention: str) -> None:
    """Refuse an architecture that has tables of tokens beside its embeddings, which nobody resizes (DeepSeek-V4's table of experts)."""
    wanted = {name: one.shape for name, one in without_memory(config, attention).state_dict().items()}
    in_bytes = tuple(name for name, one in model.named_parameters() if is_quantised(one))
    for name, tensor in model.state_dict().items():
        if not name.startswith(in_bytes) and tensor.shape != wanted.get(name):
            what = f"{name} has {tensor.shape[0]} rows for its {config.vocab_size} tokens"
            raise InvalidModel(f"{type(model).__name__} can't get new tokens: {what}; use a template whose tokens it has")


def _tables(model: Any) -> list[nn.Parameter]:
    """What has a row, or an element, for each token."""
    head = model.get_output_embeddings()
    of_layers = [parameter for name, parameter in model.named_parameters() if name.endswith("embed_tokens_per_layer.weight")]
    tables = (model.get_input_embeddings().weight, head.weight, head.bias, *of_layers)
    return list({id(table): table for table in tables if table is not None}.values())


def _unread(folder: Path, config: Any, dtype: torch.dtype, attention: str, size: int, new_token_ids: Sequence[int]) -> Any:
    """The model whose parameters say where their values are; None where that can't be said."""
    as_stored = without_memory(config, attention)
    changed = copy.deepcopy(config)
    set_vocabulary(changed, size)
    model = _without_parameters(changed, dtype, attention)
    tables = {id(table) for table in _tables(model)}
    rows = fresh_rows(config.vocab_size, size, new_token_ids)
    fresh = {name: rows for name, parameter in model.named_parameters() if id(parameter) in tables}
    return model if leave_in_files(model, folder, as_stored, fresh) else None


@torch.no_grad()
def _mean_rows(model: Any, fresh: list[int]) -> None:
    """Rows `fresh` of all tables of tokens (and of the head's bias) become the mean of the others, summed in fp64."""
    for table in _tables(model):
        rows = table.view(table.shape[0], -1)
        mean = mean_row(lambda first, last, rows=rows: rows[first:last], rows.shape[0], rows.shape[1], fresh)  # type: ignore[misc]
        rows[fresh] = mean.to(table.dtype)
