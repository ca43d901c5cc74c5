"""What a value of another trainer is in a job: by our field, since `finetune_api.foreign_names` knows which field a key means.

In: the path of our field, the key and its value there, and the whole file. Out: our value, SAME where the file says what a job does anyway,
or Untranslatable with the reason. Values that need no conversion pass; whether the field takes them is asked elsewhere.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from finetune_api.finetunejob import ALL_LINEAR, Format, TemplateSpec
from finetune_api.foreign_names import VALUES, plain

File = Mapping[str, Any]
Convert = Callable[[str, Any, File], Any]

# The file says what a job does where the field is absent.
SAME: Final = object()
OUR_FORMATS: Final = frozenset(get_args(Format))
_OUR_TEMPLATES: Final = frozenset(get_args(TemplateSpec.model_fields["name"].annotation))
# What axolotl's `type` calls the rows that a format of ours has; others are prompts of its own.
_TYPES: Final = {"chat_template": "messages", "completion": "text", "sharegpt": "sharegpt", "alpaca": "alpaca", "oasst": "auto"}
_NONE: Final = ("no", "none", "off", "disable")


class Untranslatable(Exception):
    """There is no such value in a job. An empty reason: what is said of the key is all there is."""


def converted(path: str, key: str, value: Any, file: File) -> Any:
    """The value of our field at `path`. Raises Untranslatable."""
    return _BY_FIELD.get(path, _as_it_is)(key, value, file)


def _as_it_is(key: str, value: Any, file: File) -> Any:
    return value


def _only_told(key: str, value: Any, file: File) -> Any:
    raise Untranslatable


# ---- data


def row_format(key: str, value: Any, file: File) -> Any:
    """The format that a source's rows have.

    >>> row_format("type", "chat_template", {}), row_format("type", "alpaca:chatml", {}), row_format("type", "messages", {})
    ('messages', 'alpaca', 'messages')
    """
    name = str(value).partition(":")[0]
    if name in _TYPES:
        return _TYPES[name]
    if name in OUR_FORMATS:
        return name
    raise Untranslatable(f"{value} is no format of ours; auto looks at the rows, and columns names other columns")


def _split(key: str, value: Any, file: File) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[\w.-]+", value):
        raise Untranslatable(f"{value} is a part of a split; give the split, and limit for its first rows")
    return value


def _fraction(key: str, value: Any, file: File) -> Any:
    if value == 0:
        return SAME
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
        raise Untranslatable(f"{value} is a number of rows, and here it is a share, such as 0.05")
    return value


def _roles(key: str, value: Any, file: File) -> Any:
    if not isinstance(value, dict):
        raise Untranslatable
    return {role: names if isinstance(names, list) else [names] for role, names in value.items()}


# ---- template


def _template_name(key: str, value: Any, file: File) -> Any:
    name = str(value)
    if name == "tokenizer_default":
        return "model"
    if name.startswith("tokenizer_default_fallback"):
        return SAME  # auto: the tokenizer's own where it has one
    if name in _OUR_TEMPLATES - {"default", "custom"}:
        return name
    raise Untranslatable(f"{name} is no template of ours; auto takes the model's own where its tokenizer has one, and jinja takes any text")


def _masking(key: str, value: Any, file: File) -> Any:
    """`train_on_inputs` and what means the opposite, or the roles that are learnt."""
    everything = {
        "trainoninputs": True,
        "trainonprompt": True,
        "completiononlyloss": False,
        "assistantonlyloss": False,
        "maskinputs": False,
    }
    if isinstance(value, bool):
        learns_all = everything.get(plain(key), False) is value
        return "all" if learns_all else SAME
    roles = {str(role) for role in value} if isinstance(value, list) else {str(value)}
    if roles and roles <= {"assistant", "gpt", "model", "bot"}:
        return SAME
    raise Untranslatable("answers are learnt, or with masking: all every token, and no other choice of roles")


def _last_answer(key: str, value: Any, file: File) -> Any:
    return "last_assistant" if value is True else SAME


# ---- training


def _method(key: str, value: Any, file: File) -> Any:
    """
    >>> _method("adapter", "lora", {}), _method("use_peft", True, {})
    ('lora', 'lora')
    >>> _method("adapter", "lora", {"load_in_4bit": True}), _method("load_in_4bit", True, {})
    ('qlora', 'qlora')
    """
    name = plain(str(value))
    if value is False or name in (*_NONE, "full"):
        return SAME
    if name == "qlora" or (file.get("load_in_4bit") is True and name in ("true", "lora")) or plain(key) == "loadin4bit":
        return "qlora"
    if value is True or name == "lora":
        return "lora"
    raise Untranslatable(VALUES["method"].get(name, f"{value} is not available; lora and qlora are"))


def _target_modules(key: str, value: Any, file: File) -> Any:
    if value == ALL_LINEAR or (plain(key) == "loratargetlinear" and value is True):
        return SAME
    if not isinstance(value, list):
        raise Untranslatable(f"{value}: layers are a list of names here")
    return value


def _epochs(key: str, value: Any, file: File) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float):
        raise Untranslatable(f"{value}: epochs are whole; for a part of one give training.maxSteps")
    return value


def _max_steps(key: str, value: Any, file: File) -> Any:
    return SAME if isinstance(value, int) and value <= 0 else value


def _schedule(key: str, value: Any, file: File) -> Any:
    name = plain(str(value))
    if name == "constantwithwarmup":
        return "constant"
    if name in ("cosine", "linear", "constant", "wsd"):
        return name
    if name == "warmupstabledecay":
        return "wsd"
    raise Untranslatable(VALUES["schedule"].get(name, f"{value} is not available; cosine, linear, constant and wsd are"))


def _optimizer(key: str, value: Any, file: File) -> Any:
    """
    >>> _optimizer("optim", "adamw_bnb_8bit", {}), _optimizer("optimizer", "adamw_8bit", {})
    ('adamw8bit', 'adamw8bit')
    """
    name = plain(str(value))
    if name in ("adamwbnb8bit", "adamw8bit"):
        return "adamw8bit"
    if "bit" in name or "paged" in name:
        raise Untranslatable(f"{value}: AdamW is what a job has, with moments of 32 or 8 bits in the worker's memory")
    if name.startswith("adamw"):
        return SAME
    raise Untranslatable(f"{value} is not available; AdamW is what a job has")


def _precision(key: str, value: Any, file: File) -> Any:
    name = plain(str(value))
    if plain(key) in ("fp16", "float16"):
        if value is False or name in _NONE:
            return SAME
        raise Untranslatable
    if value is False or name in _NONE:
        return SAME if file.get("fp16") else "fp32"
    if name in ("auto",):
        return SAME
    if value is True or name in ("bf16", "bfloat16", "full"):
        return "bf16"
    return "fp32" if name in ("float32", "fp32") else _refuse(VALUES["precision"].get(name, f"{value} is not available; auto is best"))


def _tf32(key: str, value: Any, file: File) -> Any:
    return SAME if value == "auto" else value


def _checkpointing(key: str, value: Any, file: File) -> Any:
    if isinstance(value, dict):
        raise Untranslatable
    return value if isinstance(value, bool) else SAME  # "unsloth", "offload": also recomputed


def _sharding(key: str, value: Any, file: File) -> Any:
    return SAME if value in (3, "3", "zero3") else _only_told(key, value, file)


def _refuse(reason: str) -> Any:
    raise Untranslatable(reason)


# ---- checkpoints, evaluation, publication


def _steps_between(key: str, value: Any, file: File) -> Any:
    if isinstance(value, float):
        raise Untranslatable(f"{value} is a share of the run; the interval is automatic, or a number of steps")
    return value


def _strategy(file: File) -> Any:
    """When the file evaluates: Transformers' `epoch`, `steps` or `no`; None where it doesn't say."""
    return file.get("eval_strategy", file.get("evaluation_strategy"))


def _every_epochs(key: str, value: Any, file: File) -> Any:
    name = plain(key)
    if name.endswith("strategy") and (value == "epoch" or (value == "steps" and "eval_steps" in file)):
        return SAME  # with steps, their number says it
    return SAME if name == "evalsperepoch" and value == 1 else _refuse("")


def _every_steps(key: str, value: Any, file: File) -> Any:
    if (strategy := _strategy(file)) is not None and strategy != "steps":
        raise Untranslatable(f"acts with eval_strategy: steps, and the file has {strategy}")
    return _steps_between(key, value, file)


def _patience(key: str, value: Any, file: File) -> Any:
    return SAME if value is False else value


def _min_delta(key: str, value: Any, file: File) -> Any:
    if not file.get("early_stopping_patience"):
        raise Untranslatable("acts with early_stopping_patience, which the file doesn't have")
    return value


def _best(key: str, value: Any, file: File) -> Any:
    if value is True:
        return "best"
    return SAME if value in (False, "loss", "eval_loss") else _refuse("")


def _greedy(key: str, value: Any, file: File) -> Any:
    return 0 if plain(key) == "dosample" and value is False else _refuse("")


def _push(key: str, value: Any, file: File) -> Any:
    is_said = value is False or any(file.get(name) for name in ("hub_model_id", "hub_repo_id", "repo_id"))
    return SAME if plain(key) == "pushtohub" and is_said else _refuse("")


def _report_to(key: str, value: Any, file: File) -> Any:
    if plain(key) not in ("reportto", "loggingintegrations"):
        raise Untranslatable
    names = value if isinstance(value, list) else [value]
    return [] if names in (["none"], ["None"]) else names


_BY_FIELD: Final[dict[str, Convert]] = {
    "dataset.sources[].format": row_format,
    "dataset.sources[].split": _split,
    "dataset.sources[].roles": _roles,
    "dataset.evaluation.fraction": _fraction,
    "template.name": _template_name,
    "template.masking": lambda key, value, file: (_last_answer if "last" in key or "history" in key else _masking)(key, value, file),
    "template.tokens": _only_told,
    "training.method": _method,
    "training.lora": _only_told,
    "training.lora.target_modules": _target_modules,
    "training.epochs": _epochs,
    "training.maxSteps": _max_steps,
    "training.optimizer.schedule": _schedule,
    "training.optimizer.name": _optimizer,
    "training.precision": _precision,
    "training.tf32": _tf32,
    "training.activationCheckpointing": _checkpointing,
    "training.sharding": _sharding,
    "training.deepspeed": _only_told,
    "checkpoints.every": _only_told,
    "checkpoints.every.steps": _steps_between,
    "evaluation.everyEpochs": _every_epochs,
    "evaluation.everySteps": _every_steps,
    "evaluation.earlyStopping.patience": _patience,
    "evaluation.earlyStopping.minDelta": _min_delta,
    "publish.checkpoint": _best,
    "publish.hub": _push,
    "publish.hub.tokenSecret": _only_told,
    "model.tokenSecret": _only_told,
    "generation.temperature": _greedy,
    "reportTo": _report_to,
    "cpuPods.env": _only_told,
    "workers.nodes": _only_told,
    "workers.gpusPerNode": _only_told,
    "workers.resources": _only_told,
    "workers.accelerator": _only_told,
}
