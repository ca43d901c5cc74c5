"""A job file and `--set` overrides -> a FineTuneJob, or everything that is wrong with them at once.

The only room of the contract that reads a file. Here a value has to be of the right kind and in its range; whether a
well-formed job can run is asked in `plan`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from finetune_api.beyond import problems_beyond
from finetune_api.checks import holds_userinfo, is_path
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.fields import Kind, field_kind, kind, without_nulls
from finetune_api.finetunejob import DataSource, FineTuneJob, FineTuneJobSpec
from finetune_api.spec_problems import by_field, problem
from finetune_api.unknown_keys import unknown_key
from finetune_api.yaml_text import written_scalars, yaml_value


def load_job(path: Path, overrides: Sequence[str] = ()) -> FineTuneJob:
    """The job in a YAML file, with `key=value` overrides applied. Raises InvalidSpec with every problem.

    A key is a path below spec (`training.epochs`, `dataset.sources.0.limit`); the value is read as its field's type
    and may contain `=`. Relative paths in the file are left as they are (relative to the file); those in an override are
    made absolute, because who types them means the folder that they are in.
    """
    return _loaded(path, overrides)[1]


def job_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The same file as it is sent to an API server: the fields that it has, with the overrides, without defaults. Raises InvalidSpec."""
    return _loaded(path, overrides)[0]


def _loaded(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], FineTuneJob]:
    text = _text(path)
    data = _mapping(yaml_value(text, str(path)), str(path))
    problems = [found for override in overrides if (found := _override(data, override))]
    try:
        job = parse_job(data, text)
    except InvalidSpec as error:
        raise InvalidSpec([*problems, *error.problems]) from None
    if problems:
        raise InvalidSpec([*problems, *problems_beyond(data, [], problems)])
    return data, job


def parse_job(data: object, text: str = "") -> FineTuneJob:
    """The job in a mapping from YAML or the API server (whose `status` is left aside). Raises InvalidSpec with every problem.

    A key without a value is as good as absent, as the API server has it: its default counts. `text`: the YAML that the mapping came from,
    so that a value can be told as it is written there.
    """
    mapping = without_nulls({name: value for name, value in _mapping(data, "the job").items() if name != "status"}, FineTuneJob)
    try:
        return FineTuneJob.model_validate(mapping, by_alias=True, by_name=False)
    except ValidationError as error:
        errors = [one for found in error.errors(include_url=False) for one in by_field(found)]
        written = written_scalars(text) if text else {}
        problems = [problem(found, FineTuneJob, written.get(found["loc"])) for found in errors]
        raise InvalidSpec([*problems, *problems_beyond(mapping, errors, problems)]) from None


def data_source(path: str, overrides: Sequence[str] = ()) -> DataSource:
    """A source by itself, with `key=value` overrides: `columns.messages=turns`. Raises InvalidSpec with every problem."""
    data: dict[str, Any] = {
        "metadata": {"name": "source"},
        "spec": {"model": {"name": "./model"}, "dataset": {"sources": [{"path": path}]}},
    }
    problems = [found for override in overrides if (found := _override(data, f"dataset.sources.0.{override}"))]
    if problems:
        raise InvalidSpec(problems)
    return parse_job(data).spec.dataset.sources[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidSpec([Problem(str(path), "no such file", "name a FineTuneJob file; examples/tiny.yaml is one")]) from None
    except UnicodeDecodeError as error:
        raise InvalidSpec([Problem(str(path), f"is not UTF-8 text: byte {error.start + 1} can't be read", "save it as UTF-8")]) from None
    except OSError as error:
        raise InvalidSpec([Problem(str(path), f"can't be read: {error.strerror}", "name a readable file")]) from None


def _mapping(data: object, where: str) -> dict[str, Any]:
    """The data, when it looks like a Kubernetes object."""
    example = "begin it with `apiVersion: finetune.dev/v1alpha1` and `kind: FineTuneJob`"
    if data is None:
        raise InvalidSpec([Problem(where, "is empty", example)])
    if not isinstance(data, dict):
        raise InvalidSpec([Problem(where, f"holds {_called(data)}, not a mapping", example)])
    return data


def _called(data: object) -> str:
    return {list: "a list", str: "plain text", bool: "true or false"}.get(type(data), "a number")


def _override(data: dict[str, Any], override: str) -> Problem | None:
    """Put one `path=value` into the data; what is wrong with it, if anything."""
    path, separator, text = override.partition("=")
    path = path.strip().removeprefix("spec.")
    if not separator or not path:
        return Problem(f"--set {override}", "has no `=`", "write it as path=value, for example training.epochs=1")
    spec = data.get("spec")
    if not isinstance(spec, dict):
        if spec is not None:
            return None  # parse_job says what is wrong with it
        spec = data["spec"] = {}
    try:
        _put(spec, FineTuneJobSpec, path.split("."), text, "spec")
    except InvalidSpec as error:
        return error.problems[0]
    return None


def _put(target: dict[str, Any], model: type[BaseModel], names: list[str], text: str, at: str) -> None:
    """Set the field that `names` lead to, below an object of `model`."""
    name, rest = names[0], names[1:]
    name, index = (name[:-1].split("[", 1)) if name.endswith("]") and "[" in name else (name, None)
    rest = rest if index is None else [index, *rest]
    found = field_kind(model, name)
    if found is None:
        message, remedy = unknown_key(name, at.rsplit(".", 1)[-1].partition("[")[0], text, model, at=f"{at}.")
        raise InvalidSpec([Problem(f"{at}.{name}", message, remedy.replace("spec.", "").replace("[]", ".0"))])
    _put_value(target, name, found, rest, text, f"{at}.{name}")


def _put_value(container: Any, name: str | int, found: Kind, rest: list[str], text: str, at: str) -> None:
    """Set `container[name]`, or a part of it, from the text."""
    if not rest:
        container[name] = _value(found, text, at)
        return
    if not (found.is_list or found.is_mapping or found.model):
        remedy = f"use --set {at.removeprefix('spec.')}=VALUE"
        raise InvalidSpec([Problem(f"{at}.{'.'.join(rest)}", f"{at} is a plain value and has no fields", remedy)])
    inner = container.get(name) if isinstance(container, dict) else container[name]
    if inner is None:
        inner = container[name] = [] if found.is_list else {}
    if found.model is not None and isinstance(inner, dict):
        _put(inner, found.model, rest, text, at)
    elif found.is_list and isinstance(inner, list):
        item = kind(found.item)
        _put_value(inner, _index(inner, rest[0], item, at), item, rest[1:], text, f"{at}[{rest[0]}]")
    elif found.is_mapping and isinstance(inner, dict):  # its keys may contain dots: app.kubernetes.io/name
        inner[".".join(rest)] = _value(kind(found.item), text, at)
    else:
        raise InvalidSpec([Problem(at, "is of the wrong kind in the file, so that no part of it can be set", "correct the file")])


def _index(items: list[Any], text: str, item: Kind, at: str) -> int:
    """The index in the text; one past the end appends an empty item."""
    if not text.isdecimal() or int(text) > len(items):
        known = f"use 0 to {len(items)}" if items else "use 0"
        raise InvalidSpec([Problem(f"{at}.{text}", f"`{text}` is no index into a list of {len(items)}", f"{known}; {len(items)} appends")])
    if int(text) == len(items):
        items.append({} if item.model else None)
    return int(text)


def _value(found: Kind, text: str, at: str) -> object:
    """The text as the field's type: a string stays as it is, anything else is a YAML value; `null` unsets what may be absent."""
    if found.optional and text in ("null", "~"):
        return None
    if re.sub(r"\[\d+\]", "[]", at) in _PATHS and _is_relative(text, always=at in _FOLDERS):
        return os.path.abspath(text)
    return text if found.is_text else yaml_value(text, f"--set {at.removeprefix('spec.')}")


# Fields that may hold a path; those that hold a folder whatever it begins with.
_FOLDERS: Final = ("spec.checkpoints.storage", "spec.publish.directory.path")
_PATHS: Final = ("spec.model.name", "spec.dataset.sources[].path", *_FOLDERS)


def _is_relative(text: str, *, always: bool) -> bool:
    """Whether the text is a relative path; models and sources are paths only when they begin with a dot."""
    if not text or "://" in text or text.startswith("~") or holds_userinfo(text) or os.path.isabs(text):
        return False
    return always or is_path(text)
