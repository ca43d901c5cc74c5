"""A data set in another trainer's file -> a source of a job, and what of it no source has.

In: an item of axolotl's `datasets` or of TRL's mixture, or the keys of a file with one data set. Out: the fields of a DataSource. Files
that stand behind a loader's name (`path: json` with `data_files`) are a source each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from finetune_api.fields import keys as keys_of
from finetune_api.finetunejob import DataSource, MessageProperties, RoleMapping
from finetune_api.foreign_names import Foreign, foreign, plain
from finetune_assistant.drafting.acceptance import SOURCE, problem_with, taken_together
from finetune_assistant.drafting.conversions import SAME, Untranslatable, converted
from finetune_assistant.drafting.fields_below import nested, put, removed

# Names with which `load_dataset` reads files.
_LOADERS: Final = frozenset(("json", "csv", "parquet", "arrow", "text"))
_UNKNOWN: Final = "no key that we know of a data set there; nothing was made of it"
_OBJECTS: Final[dict[str, type[BaseModel]]] = {"messagePropertyMappings": MessageProperties, "roles": RoleMapping}
# Fields of `format: messages` that are called so by themselves.
_OF_MESSAGES: Final = ("columns.messages", "messagePropertyMappings.role", "messagePropertyMappings.content")
# axolotl's words where the table's mean something else elsewhere.
_CONFIGURATION: Final = Foreign("dataset.sources[].config")
_SHARE: Final = Foreign("dataset.sources[].weight")

Other = tuple[str, Any, Foreign]


@dataclass(slots=True)
class SourceFields:
    """Fields of one source, keys that say what a source has anyway, and keys that nothing was made of."""

    fields: dict[str, Any] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # by field: the key that it came from

    def source(self) -> DataSource:
        """The source itself, without what its format has anyway, and without what it can't have beside its other fields."""
        fields, refused = taken_together(self.fields, of_source=True)
        self.left |= {self.keys.pop(path, path): reason for path, reason in refused.items()}
        if fields.get("format") == "messages":
            for path in _OF_MESSAGES:
                if nested(fields, path) == path.rpartition(".")[2]:
                    removed(fields, path)
        return DataSource.model_validate(fields)

    def read(self, key: str, value: Any, path: str, meaning: Foreign) -> None:
        """One key, of which our field is `path` below the source."""
        try:
            ours = converted(f"{SOURCE}{path}", key.rpartition(".")[2], value, {})
        except Untranslatable as error:
            self.left[key] = str(error) or meaning.remedy(value).removesuffix("; remove it")
            return
        if path in _OBJECTS and isinstance(ours, dict):
            ours = self._known_only(key, path, ours)
        if ours is SAME:
            self.same.append(key)
        elif problem := problem_with(f"{SOURCE}{path}", ours):
            self.left[key] = problem
        else:
            put(self.fields, path, ours)
            self.keys[path] = key

    def _known_only(self, key: str, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """The names that our object has; the others are told."""
        known = {plain(name): name for name in keys_of(_OBJECTS[path])}
        for name in value:
            if plain(str(name)) not in known:
                self.left[f"{key}.{name}"] = f"here it has {', '.join(known.values())}"
        return {known[plain(str(name))]: each for name, each in value.items() if plain(str(name)) in known}


def source_fields(at: str, item: Any) -> tuple[list[SourceFields], list[Other]]:
    """The sources of an item, which stands `at` in the file; and its keys that mean a field of the job, such as its template."""
    if isinstance(item, str):
        item = {"path": item}
    if not isinstance(item, Mapping):
        return [SourceFields(left={at: "is no data set: neither a name nor a mapping"})], []
    found, others = SourceFields(), []
    files = item.get("data_files") if item.get("path") in _LOADERS else None
    found.keys |= {"path": f"{at}.data_files"} if files is not None else {}
    for key, value, meaning in _meanings(item):
        name = f"{at}.{key}"
        if value is None or value in ("", [], {}):
            found.left[name] = "no value"
        elif files is not None and key in ("path", "data_files"):
            continue
        elif plain(key) == "type" and isinstance(value, Mapping):
            _read_prompt(found, name, value)
        elif plain(key) == "shards" and type(value) is int and value > 0:
            found.read(name, 1 / value, "weight", _SHARE)
        elif meaning is None or meaning.ours is None:
            found.left[name] = meaning.how if meaning else _UNKNOWN
        elif meaning.ours.startswith(SOURCE):
            found.read(name, value, meaning.ours.removeprefix(SOURCE), meaning)
        else:
            others.append((name, value, meaning))
    if "path" not in found.fields and files is None:
        return [SourceFields(left={at: "names no path", **found.left})], others
    return list(_each_file(found, files)), others


def _meanings(item: Mapping[str, Any]) -> Iterator[tuple[str, Any, Foreign | None]]:
    own = {plain(name): Foreign(f"{SOURCE}{name}") for name in keys_of(DataSource)}
    for key, value in item.items():
        name = str(key)
        if plain(name) == "name" and "path" in item:
            yield name, value, _CONFIGURATION
        else:
            yield name, value, foreign(name, "sources") or own.get(plain(name)) or foreign(name)


def _read_prompt(found: SourceFields, at: str, prompt: Mapping[str, Any]) -> None:
    """A prompt of the file's own: which columns it reads is carried over, how it writes them is not."""
    put(found.fields, "format", "prompt-completion")
    for key, value in prompt.items():
        meaning = foreign(str(key))
        if str(key).startswith("field_") and meaning is not None and meaning.ours is not None and value:
            found.read(f"{at}.{key}", value, meaning.ours.removeprefix(SOURCE), meaning)
        else:
            found.left[f"{at}.{key}"] = "the template writes prompts, the same for all rows"


def _each_file(found: SourceFields, files: Any) -> Iterator[SourceFields]:
    if files is None:
        yield found
        return
    for index, file in enumerate(files if isinstance(files, list) else [files]):
        told = (found.same, found.left, found.keys) if index == 0 else ([], {}, {})
        yield SourceFields(found.fields | {"path": str(file)}, *told)
