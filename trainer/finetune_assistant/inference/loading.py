"""From a name to a model that can be asked: an exported folder, a run folder, any folder of transformers, or a model on the Hub.

In: a name and how to load it. Out: a LoadedModel, with the prompter that fits: the recorded template of a model of ours, a tokenizer's chat
template, or dialogue prompting for a base model. Shared by chat, generate and whatever else talks to models. Dialogues are unknown here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from finetune_api.errors import InvalidModel
from finetune_api.json_text import json_value
from finetune_assistant.inference.dialogue_prompting import OURS, DialoguePrompter, FewShotPrompt, read_prompt
from finetune_assistant.inference.prompting import ForeignPrompter, Prompter, TrainedPrompter
from finetune_assistant.inference.sampling import LONGEST_ANSWER

Dtype = Literal["auto", "bf16", "fp32", "fp16"]
LoadIn = Literal["8bit", "4bit"]
TEMPLATE_FILE: Final = "dialogue_template.json"
JOB_FILE: Final = "finetunejob.yaml"
DEFAULT_PROMPT: Final = OURS[0]
# Where `finetune run` keeps runs: a name below it isn't looked for on the Hub, which takes half a minute without a network.
_RUNS: Final = "runs"
# Enough for prompting, beside config.json; weights and the rest of the tokenizer are transformers' business.
_PROMPT_FILES: Final = (TEMPLATE_FILE, JOB_FILE, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with what is needed to ask it. `notes`: what a user should know of how it is asked, as sentences."""

    name: str
    folder: Path
    model: Any  # a transformers causal language model, on its device, in evaluation mode
    prompter: Prompter
    longest_answer: int = LONGEST_ANSWER
    notes: tuple[str, ...] = ()


def load(
    name: str,
    *,
    revision: str | None = None,
    prompt: str | None = None,
    base_prompt: str = DEFAULT_PROMPT,
    dtype: Dtype = "auto",
    load_in: LoadIn | None = None,
) -> LoadedModel:
    """Load a model. `prompt`: dialogue prompting by `general`, `coding` or a file; None: by `base_prompt`, and only without any template.

    `dtype` auto is the one that the weights are stored in. Raises InvalidModel, or InvalidData for a prompt file.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    place = model_place(name, revision)
    few_shot = None if prompt is None else read_prompt(prompt)
    precision = _precision(dtype, load_in)
    logging.disable_progress_bar()
    try:
        if (folder := Path(place)).is_dir():
            check_weights(folder)
        else:
            folder = _fetched(place, revision)
        prompter, notes = _prompter(name, place, folder, revision, few_shot, base_prompt)
        model = AutoModelForCausalLM.from_pretrained(place, revision=revision, **precision)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InvalidModel(f"{name} can't be loaded: {reason}; give an exported folder, a run folder, or a model on the Hub") from error
    if load_in is None:
        import torch

        model.to("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(name=name, folder=folder, model=model.eval(), prompter=prompter, longest_answer=_longest_answer(folder), notes=notes)


def _prompter(
    name: str, place: str, folder: Path, revision: str | None, few_shot: FewShotPrompt | None, base_prompt: str
) -> tuple[Prompter, tuple[str, ...]]:
    """How the model is asked, and what to tell of it."""
    from transformers import AutoTokenizer

    if few_shot is None and (folder / TEMPLATE_FILE).is_file():
        return TrainedPrompter(folder), ()
    tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    if few_shot is None and tokenizer.chat_template:
        return ForeignPrompter(tokenizer, name), ()
    notes: tuple[str, ...] = ()
    if few_shot is None:
        others = " or ".join(f"--prompt {other}" for other in (*OURS, "FILE") if other != base_prompt)
        notes = (f"{name} has no chat template, so it is asked as a base model, by dialogue prompting (--prompt {base_prompt}; {others})",)
    return DialoguePrompter(tokenizer, few_shot or read_prompt(base_prompt), name), notes


def _precision(dtype: Dtype, load_in: LoadIn | None) -> dict[str, Any]:
    """Arguments of from_pretrained. Raises InvalidModel where this machine can't."""
    import torch

    types = {"auto": "auto", "bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
    if load_in is None:
        return {"dtype": types[dtype]}
    from importlib.util import find_spec

    lacking = [] if find_spec("bitsandbytes") else ["the package bitsandbytes (pip install bitsandbytes)"]
    lacking += [] if torch.cuda.is_available() else ["a GPU that PyTorch sees"]
    if lacking:
        raise InvalidModel(
            f"--load-in {load_in} needs {' and '.join(lacking)}, which this machine lacks; leave it out, or try --dtype bf16"
        )
    from transformers import BitsAndBytesConfig

    return {"dtype": types[dtype], "quantization_config": BitsAndBytesConfig(**{f"load_in_{load_in}": True}), "device_map": {"": 0}}


def check_weights(folder: Path) -> None:
    """Names the file of safetensors that is missing or cut off, which transformers reports without a name. Raises InvalidModel."""

    from finetune_trainer.model.headers import INDEX, SINGLE, stored_tensors, weights_in_folder

    index = None
    if (folder / INDEX).is_file():
        try:
            index = json_value((folder / INDEX).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidModel(f"{folder / INDEX} is damaged ({error}); download it again") from None
    if index is not None or (folder / SINGLE).is_file():
        stored_tensors(weights_in_folder(folder), index)


def _longest_answer(folder: Path) -> int:
    """As the job says that lies beside the weights; it is not in generation_config.json, where engines would take it for a bound."""
    import yaml

    try:
        job = yaml.safe_load((folder / JOB_FILE).read_text(encoding="utf-8"))
        return max(1, int(job["spec"]["generation"]["maxNewTokens"]))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return LONGEST_ANSWER


def release_memory() -> None:
    """Give back what a model held that nobody refers to any more, on a GPU too."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def model_place(name: str, revision: str | None = None) -> str:
    """The folder of `name`, or `name` itself when it is a Hub id. Raises InvalidModel for a folder without a model, or with a revision."""
    path = Path(name)
    if revision is not None and path.is_dir():
        raise InvalidModel(f"--revision {revision}: {name} is a folder, which is as it is; leave it out, or name a model on the Hub")
    if (path / "run.json").is_file():
        path = path / "model"
        if not path.is_dir():
            raise InvalidModel(f"{name} is a run without an exported model yet; export a checkpoint with `finetune export {name} --step N`")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidModel(f"{path} holds no model: it has no config.json; give an exported folder or a run folder")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InvalidModel(f"{name} is no folder, and no name of a model on the Hub (org/name); check the path")
    if path.parent.name == _RUNS or any(path.parent.glob("*/run.json")):
        there = sorted(file.parent.name for file in path.parent.glob("*/run.json"))
        raise InvalidModel(f"{name}: there is no such run in {path.parent} ({', '.join(there[:8]) or 'no run at all'}); check the path")
    return name


def _fetched(name: str, revision: str | None) -> Path:
    """The folder in the Hub's cache with the files that prompting needs; those that the model lacks are left out.

    Raises OSError when there is no such model or revision, or no network.
    """
    from transformers.utils import cached_file

    config = cached_file(name, "config.json", revision=revision)
    for file in _PROMPT_FILES:
        cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(config).parent
