"""Export: a checkpoint's master weights become a folder that plain transformers loads.

In: a frozen run, the weights of one step (read in ranges), the base model's folder. Out: safetensors in the arithmetic that the
run was trained in, so that the exported model gives the engine's logits: bfloat16 for `bf16`, float16 for `fp16`, float32 for `fp32`;
beside them config, tokenizer with control tokens and chat template, generation config with the right stop ids, dialogue_template.json.
The folder appears whole or not at all. The card and the job file come afterwards, by `describe`: they must not cost the weights.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune_api.errors import InvalidModel, InvalidPublication, StorageFailed, TrainingFailed
from finetune_api.finetunejob import Generation
from finetune_api.training_run import TrainingRun
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.publishing.model_folder import (
    RECORD_NAME,
    ExportRecord,
    digest_of_file,
    folder_files,
    folder_put_in_place,
    read_exported,
)
from finetune_trainer.publishing.rope import older_rope_fields
from finetune_trainer.publishing.safetensors_files import SHARD_BYTES, DType, Shapes, ranges, write_weights
from finetune_trainer.publishing.tensor_names import Piece, published_tensors
from finetune_trainer.templates.registry import add_control_tokens, template_from_spec
from finetune_trainer.templates.tokenizer import TokenizerFiles, read_tokenizer
from finetune_trainer.templates.turns import Template

if TYPE_CHECKING:
    from finetune_trainer.checkpoints.store import Reader

WRITTEN_DTYPES: dict[str, DType] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_WHOLE: dict[str, DType] = {"torch.int64": "int64", "torch.int32": "int32", "torch.uint8": "uint8", "torch.bool": "bool"}
# Fields of the base's tokenizer_config.json that would make transformers build another tokenizer than tokenizer.json says.
_FOREIGN_SETTINGS = ("added_tokens_decoder", "auto_map", "backend", "chat_template", "tokenizer_class", "tokenizer_file", "name_or_path")
# Fields that Transformers 5 writes under another name than any older reader looks for: family -> new name, older name.
_RENAMED = {"qwen3_moe": ("num_local_experts", "num_experts")}
Answer = TypeVar("Answer")
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


class Apart(Protocol):
    """Gives what a call gives, which another process may make: importing torch for it is most of a small export."""

    def __call__(self, call: Callable[[], Answer], /) -> Answer: ...


class Weights(Protocol):
    """What one verified checkpoint holds of a model: the master weights, and what is saved and not trained."""

    @property
    def shapes(self) -> Shapes:
        """Name and shape of every tensor, tied ones once, in the model's order."""

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """What will be read, in this order: name, start and stop."""

    def read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """A range of the flat tensor."""


class CheckpointWeights:
    """The masters and constants of an open checkpoint."""

    def __init__(self, reader: "Reader") -> None:
        self._reader = reader
        self._kinds = {name: kind for kind, name in reader.manifest.tensors if kind in ("master", "constant")}

    @property
    def shapes(self) -> Shapes:
        """Of the master weights and constants."""
        return {name: tuple(self._reader.manifest.tensors[kind, name].shape) for name, kind in self._kinds.items()}

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """Each byte is then read once."""
        self._reader.expect((self._kinds.get(name, "master"), name, start, stop) for name, start, stop in ranges)

    def read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Verified against the checkpoint's digests; raises DamagedCheckpoint."""
        return self._reader.read(self._kinds.get(name, "master"), name, start, stop)


def export(
    run: TrainingRun,
    weights: Weights,
    *,
    step: int,
    base: Path,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    apart: Apart = lambda call: call(),
) -> ExportRecord:
    """Write the exported model to `folder`, replacing an earlier export there. `progress` gets (parameters written, of how many).

    `apart` makes what needs the model's class.

    Memory: 16 MiB at a time. Raises StorageFailed when the disk is full (an earlier export stays), TrainingFailed when a weight is
    not finite, InvalidModel when the weights don't fit the base model's architecture, RunConflict for a folder of something else.
    """
    check_target(folder, run)
    files = read_tokenizer(base)
    template = add_control_tokens(files.tokenizer, template_from_spec(run.job.spec.template, files))
    stops = stop_ids(template, files, base)
    config = _config(run, base, stops, apart(partial(_understood, base)))
    try:
        with folder_put_in_place(folder) as new:
            for name, text in _small_files(run, base, files, template, config, stops).items():
                (new / name).write_text(text, encoding="utf-8")
            pieces, constants = apart(partial(_published, new, weights.shapes))
            shapes = {name: piece.shape for name, piece in pieces.items()}
            types = {name: constants[piece.source] for name, piece in pieces.items() if piece.source in constants}
            dtype, read = WRITTEN_DTYPES[run.plan.precision], _checked(weights, pieces, progress)
            places = ((pieces[name], start, stop) for name, start, stop in ranges(shapes))
            weights.expect((one.source, one.offset + start, one.offset + stop) for one, start, stop in places)
            written = write_weights(new, shapes, read, dtype, constants=types, shard_bytes=shard_bytes)
            digests = {name: written.get(name) or digest_of_file(new / name) for name in folder_files(new)}
            record = ExportRecord(
                job=run.job.metadata.name, identity=run.identity, step=step, dtype=WRITTEN_DTYPES[run.plan.precision], files=digests
            )
            (new / RECORD_NAME).write_text(record.to_json())
    except OSError as error:
        raise StorageFailed(
            f"the model can't be exported to {folder}: {error.strerror or error}; "
            "make room, or choose another folder, and run `finetune export`"
        ) from error
    return record


def generation_text(folder: Path, generation: Generation) -> str:
    """generation_config.json of an exported folder with these settings: the job may change them without another export."""
    ids = {name: value for name, value in _json(folder / "generation_config.json").items() if name.endswith("_token_id")}
    return _pretty(generation_config(generation, ids))


def describe(folder: Path, texts: Mapping[str, str], *, checkpoint: str | None = None) -> None:
    """Add the card and other texts to an exported folder, each whole or not at all, and to its record.

    `checkpoint`: the digest of what was exported there; None leaves what the record says. A text that somebody has edited since it was
    written is left as it is.
    """
    record = read_exported(folder)
    texts = {name: text for name, text in texts.items() if not _is_edited(folder / name, record)}
    try:
        for name, text in texts.items():
            write_atomically(folder / name, text)
        files = {**record.files, **{name: digest_of_file(folder / name) for name in texts}}
        whole = replace(record, files=files, checkpoint=checkpoint or record.checkpoint)
        write_atomically(folder / RECORD_NAME, whole.to_json())
    except OSError as error:
        raise StorageFailed(
            f"{folder} can't be written: {error.strerror or error}; the weights there are whole, make room and export again"
        ) from error


def _is_edited(path: Path, record: ExportRecord) -> bool:
    return path.name in record.files and path.exists() and digest_of_file(path) != record.files[path.name]


def check_target(folder: Path, run: TrainingRun) -> None:
    """Only an export of the same job, or nothing, is replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    record = read_exported(folder) if (folder / RECORD_NAME).is_file() else None
    if record is None or record.job != run.job.metadata.name:
        holds = "something that is no exported model" if record is None else f"the model of job {record.job}"
        raise InvalidPublication(f"{folder} holds {holds}; choose another folder with --output")


def _checked(
    weights: Weights, pieces: Mapping[str, Piece], progress: Callable[[int, int], None]
) -> Callable[[str, int, int], NDArray[np.float32]]:
    """Reads published tensors from where they are in the checkpoint, counts, and refuses numbers that no model can hold."""
    total, done = sum(map(math.prod, weights.shapes.values())), 0

    def read(name: str, start: int, stop: int) -> NDArray[np.float32]:
        nonlocal done
        piece = pieces[name]
        values = weights.read(piece.source, piece.offset + start, piece.offset + stop)
        if not np.isfinite(values).all():
            raise TrainingFailed(f"{name} holds values that are not finite; export an earlier step, and train with a lower learning rate")
        done += stop - start
        progress(done, total)
        return values

    return read


def stop_ids(template: Template, files: TokenizerFiles, base: Path) -> list[int]:
    """Ids at which generation ends, the template's end token first: then the base's own end and tokens that only others may write."""
    tokenizer = files.tokenizer
    named = (tokenizer.token_to_id(token) for token in (*template.stop_tokens[:1], files.end_of_text or "", *template.stop_tokens[1:]))
    ids = [token_id for token_id in named if token_id is not None]
    for file in ("generation_config.json", "config.json"):
        own = _json(base / file).get("eos_token_id")
        ids += own if isinstance(own, list) else [] if own is None else [own]
    return list(dict.fromkeys(ids))


def _small_files(
    run: TrainingRun, base: Path, files: TokenizerFiles, template: Template, config: dict[str, Any], stops: list[int]
) -> dict[str, str]:
    """Everything but the weights, as text by file name."""
    pad = files.pad_token
    pad_id = files.tokenizer.token_to_id(pad) if pad else None
    ids = {"bos_token_id": config.get("bos_token_id"), "eos_token_id": stops or None, "pad_token_id": pad_id}
    return {
        "config.json": _pretty(config),
        "generation_config.json": _pretty(generation_config(run.job.spec.generation, ids)),
        **shared_files(base, files, template),
    }


def shared_files(base: Path, files: TokenizerFiles, template: Template) -> dict[str, str]:
    """What a whole model and an adapter alone both come with: tokenizer, template, the base's licence."""
    licences = {name: (base / name).read_text(encoding="utf-8", errors="replace") for name in _LICENCE_FILES if (base / name).is_file()}
    return {
        "tokenizer.json": str(files.tokenizer.to_str(pretty=True)),
        "tokenizer_config.json": _pretty(_tokenizer_config(base, files, template)),
        "dialogue_template.json": template.to_json(),
        **licences,
    }


def _config(run: TrainingRun, base: Path, stops: list[int], understood: Mapping[str, Any]) -> dict[str, Any]:
    """The base's config.json with the new vocabulary, the end token, the type of the weights, and what older readers look for.

    `understood`: what transformers makes of the base's.
    """
    config = _json(base / "config.json")
    config = _in_older_words_too(config, understood)
    config.pop("torch_dtype", None)
    # A base model with more rows than its tokenizer has tokens keeps them.
    rows = max(run.vocabulary.size, run.model_shape.vocabulary_size)
    changed: dict[str, Any] = {"vocab_size": rows, "dtype": WRITTEN_DTYPES[run.plan.precision]}
    if rows > run.model_shape.vocabulary_size and "vocab_size_per_layer_input" in config:
        changed["vocab_size_per_layer_input"] = rows
    return config | changed | ({"eos_token_id": stops[0]} if stops else {})


def _understood(base: Path) -> dict[str, Any]:
    """What transformers makes of the base's config.json: the run's own arithmetic."""
    from transformers import AutoConfig

    understood: dict[str, Any] = AutoConfig.from_pretrained(base, local_files_only=True).to_dict()
    return understood


def _in_older_words_too(config: dict[str, Any], understood: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions and renamed fields as older readers look for them, unless the base has them so already."""
    rope = understood.get("rope_parameters")
    if rope and ("rope_parameters" in config or "rope_theta" not in config):
        config = config | older_rope_fields(understood["model_type"], rope)
    new, older = _RENAMED.get(str(understood.get("model_type")), ("", ""))
    if new in config:
        config = config | {older: config[new]}
    if isinstance(config.get("text_config"), dict) and isinstance(understood.get("text_config"), Mapping):
        config = config | {"text_config": _in_older_words_too(config["text_config"], understood["text_config"])}
    return config


def _tokenizer_config(base: Path, files: TokenizerFiles, template: Template) -> dict[str, Any]:
    """Makes AutoTokenizer take tokenizer.json as it is, with the chat template and the end token of an answer."""
    settings = {name: value for name, value in _json(base / "tokenizer_config.json").items() if name not in _FOREIGN_SETTINGS}
    end = template.stop_tokens[0] if template.stop_tokens else files.end_of_text
    if template.name in ("model", "jinja") and "eos_token" in template.chat_template():
        end = files.end_of_text  # the template writes it: another one would change its texts
    known = {"eos_token": end if end and files.tokenizer.token_to_id(end) is not None else files.end_of_text, "pad_token": files.pad_token}
    given = {name: token for name, token in known.items() if token is not None}
    return settings | given | {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template.chat_template()}


def generation_config(generation: Generation, ids: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json. Temperature 0 is greedy: what only sampling uses is left out then.

    The longest answer is not in it: vLLM takes it as a bound that no request can raise. It is in finetunejob.yaml and in the card.
    """
    sampling = {"temperature": generation.temperature, "top_k": generation.top_k, "top_p": generation.top_p}
    return {
        **{name: value for name, value in ids.items() if value is not None},
        "do_sample": generation.temperature > 0,
        **(sampling if generation.temperature > 0 else {}),
        "repetition_penalty": generation.repetition_penalty,
        "min_new_tokens": generation.min_new_tokens,
    }


def check_loadable(folder: Path, shapes: Shapes) -> tuple[Any, dict[str, DType]]:
    """Compare the tensors with what transformers will look for, before hours of writing. Raises InvalidModel.

    Returns the model, without memory, and the types of what is not trained: whole numbers as they are, all else in float32, which no
    reader loses anything of.
    """
    model = _skeleton(folder)
    tensors = {**dict(model.named_parameters()), **_saved_buffers(model)}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
    if wrong:
        name = wrong[0]
        raise InvalidModel(
            f"the checkpoint does not fit the base model: {name} is {shapes.get(name, 'absent')} in the one and "
            f"{wanted.get(name, 'absent')} in the other ({len(wrong)} differ); give the model that the run was trained from"
        )
    untrained = {name: tensor for name, tensor in tensors.items() if not tensor.requires_grad}
    return model, {name: "float32" if one.is_floating_point() else _WHOLE[str(one.dtype)] for name, one in untrained.items()}


def _published(folder: Path, shapes: Shapes) -> tuple[dict[str, Piece], dict[str, DType]]:
    """What the tensors are in a published folder, by name, and the types of those that are not trained. Raises InvalidModel."""
    model, constants = check_loadable(folder, shapes)
    return published_tensors(model, shapes), constants


def _saved_buffers(model: Any) -> dict[str, Any]:
    """Buffers that belong to the weights, such as the correction of a router in DeepSeek-V3."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _skeleton(folder: Path) -> Any:
    """The model of `folder`'s config.json, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file. Raises InvalidModel."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidModel(f"{file}: not JSON ({error}); save the base model again") from None
    return value if isinstance(value, dict) else {}


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
