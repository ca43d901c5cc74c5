"""A model object from a model folder, ready for the engine to partition. One process reads; the others hold shapes only.

In: a folder with config.json and safetensors (or a seed). Out: a Transformers model with "finetune_packed" attention, every
dropout set, room for the control tokens, and their rows set to the mean of the rows the base model knows. Reading, renaming and
tying are Transformers' own `from_pretrained`, so the weights are what anyone else loads. This room knows nothing of DeepSpeed.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from finetune_api.errors import InvalidModel
from finetune_trainer.model.attention import ATTENTION, check_isolation, register
from finetune_trainer.model.loss import check_loss

# What Transformers reports of weights that don't fit, and what it means.
_REPORT = {"missing_keys": "lacks", "mismatched_keys": "has the wrong shape for", "unexpected_keys": "has weights that the model lacks:"}

# Sizes of the copy that the checks run on, under every name that configs have for them.
_MINIATURE = {
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "vocab_size": 16,
}  # fmt: skip


def build_model(
    folder: Path,
    *,
    initialization: Literal["pretrained", "random"],
    seed: int,
    dropout: float,
    vocabulary_size: int,
    dtype: torch.dtype,
    new_token_ids: Sequence[int] = (),
    reads: bool = True,
) -> Any:
    """The model of `folder` on the CPU, in training mode, with at least `vocabulary_size` embedding rows (never fewer than it has).

    `new_token_ids`: control tokens the base model has never seen; their rows, and rows that are added, become the mean of all
    others (in fp32), also where they fall into rows that the base model holds as padding. `reads=False` gives the same model
    with parameters on the meta device: every rank but the one that reads (32 GB of a 15.5 B model in bf16) builds it so.
    Random weights depend on the seed alone. Raises InvalidModel for missing, surplus or misshapen weights.
    """
    register()
    config = _config(folder, dropout)
    old_size = config.vocab_size
    assert old_size > 0, "models.py refuses a config without a vocabulary"
    size = max(old_size, vocabulary_size)
    if not reads or initialization == "random":
        config.vocab_size = size
        return _seeded(config, dtype, seed).train() if reads else _shapes_only(config, dtype).train()
    model = _read(folder, config, dtype)
    if size > old_size:
        _resize(model, size)
    if fresh := {*new_token_ids, *range(old_size, size)}:
        _mean_rows(model, fresh)
    return model.train()


def check_architecture(folder: Path) -> None:
    """Refuse an architecture on which packing or our loss would be wrong, by trying both on a small random copy. InvalidModel."""
    register()
    check_config(_config(folder, dropout=0.0))


def check_config(config: Any) -> None:
    """`check_architecture` for a Transformers config."""
    try:
        check_isolation(miniature(config))
        check_loss(miniature(config))
    except InvalidModel:
        raise
    except Exception as error:  # whatever an architecture does with arguments it was not made for: it can't be used
        name, cause = (config.architectures or [type(config).__name__])[0], f"{type(error).__name__}: {error}"
        raise InvalidModel(f"{name} does not run with packed attention ({cause}); use another architecture") from error


def miniature(config: Any) -> Any:
    """A random model of this architecture with two layers and sixteen tokens, fp32, in evaluation mode."""
    small = copy.deepcopy(config)
    for field, value in _MINIATURE.items():
        if hasattr(small, field):
            setattr(small, field, value)
    for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, field, None)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: small.num_hidden_layers]
    return _seeded(small, torch.float32, seed=0).eval()


def count_parameters(config: dict[str, Any], source: str) -> int:
    """Parameters of the model that a config.json describes, tied ones once. No memory is taken. Raises InvalidModel."""
    register()
    try:
        model = _shapes_only(AutoConfig.for_model(**config), torch.float32)
    except Exception as error:  # a config can be wrong in as many ways as there are architectures
        raise InvalidModel(f"{source}: no model can be made from it ({type(error).__name__}: {error}); check the file") from error
    return sum(parameter.numel() for parameter in model.parameters())


def with_dropout(config: Any, dropout: float) -> Any:
    """A copy of a Transformers config with every dropout field set, whatever the architecture calls it."""
    changed = copy.deepcopy(config)
    for field, value in vars(config).items():
        if isinstance(value, float | int) and not isinstance(value, bool) and ("dropout" in field or field.endswith(("_pdrop", "_drop"))):
            setattr(changed, field, dropout)
    return changed


def _config(folder: Path, dropout: float) -> Any:
    config = with_dropout(AutoConfig.from_pretrained(folder, local_files_only=True), dropout)
    config.use_cache = False
    return config


def _shapes_only(config: Any, dtype: torch.dtype) -> Any:
    with meta_parameters():
        return _from_config(config, dtype)


def _from_config(config: Any, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)


def _seeded(config: Any, dtype: torch.dtype, seed: int) -> Any:
    """Random weights as the architecture draws them, from the seed alone; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _from_config(config, torch.float32)
    for parameter in model.parameters():  # not `model.to`: rotary frequencies, a buffer, must stay fp32
        parameter.data = parameter.data.to(dtype)
    return model


def _read(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    with _quietly():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for kind, what in _REPORT.items():
        if names := sorted(str(name if isinstance(name, str) else name[0]) for name in report[kind]):
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise InvalidModel(f"{folder} {what} {shown}; its safetensors don't belong to its config.json, download the model again")
    return model


@contextmanager
def _quietly() -> Iterator[None]:
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


@torch.no_grad()
def _mean_rows(model: Any, fresh: set[int]) -> None:
    """Rows `fresh` of input and output embeddings (and of the head's bias) become the mean of the others, taken in fp32."""
    head = model.get_output_embeddings()
    tables = {id(t): t for t in (model.get_input_embeddings().weight, head.weight, head.bias) if t is not None}
    for table in tables.values():
        known = torch.ones(table.shape[0], dtype=torch.bool)
        known[sorted(fresh)] = False
        table[sorted(fresh)] = cast(torch.Tensor, table)[known].float().mean(dim=0).to(table.dtype)
