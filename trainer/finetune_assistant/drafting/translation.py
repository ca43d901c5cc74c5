"""Another trainer's settings (axolotl's YAML, TRL's and Transformers' arguments) -> the equal fields of a job, and the rest by key.

In: the mapping of the file, and how many workers it meant. Out: a Translation. What a key means is `finetune_api.foreign_names`' business,
what its value is that of `conversions`; whether a field takes it, the contract's own. Pure: paths are kept as they are written.
"""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from finetune_api.fields import paths
from finetune_api.finetunejob import BaseModelSpec, DataSource, FineTuneJobSpec
from finetune_api.finetunejob.places import is_path
from finetune_api.foreign_names import Foreign, foreign, plain
from finetune_assistant.drafting.acceptance import SOURCE, default_of, problem_with, taken_together
from finetune_assistant.drafting.conversions import SAME, Untranslatable, converted
from finetune_assistant.drafting.fields_below import nested, put, removed
from finetune_assistant.drafting.foreign_sources import SourceFields, source_fields

NO_VALUE: Final = "no value"
UNKNOWN: Final = "no key that we know of axolotl, TRL, Transformers or DeepSpeed; nothing was made of it"
_NO_ADAPTER: Final = "the file trains no adapter by LoRA"
# Its learning rate is ten times what all parameters bear.
_OF_AN_ADAPTER: Final = "was chosen for an adapter, and all parameters are trained here, which bear a tenth of it"
# What the file says of these is written even where it is the default: a draft would choose them by what it finds, and without a patience
# nothing ends early.
_WRITTEN: Final = (
    "training.optimizer.learningRate",
    "training.maxSequenceLength",
    "training.microBatchSize",
    "evaluation.earlyStopping.patience",
)
FOLDER: Final = "publish.directory.path"
_FRACTION: Final = "dataset.evaluation.fraction"
_MODEL: Final = "model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """`spec`: fields below spec, without model and sources. `origin`: the keys that each of them came from, by our path.

    `same`: keys that say what a job does anyway. `left`: keys that nothing was made of, with the reason. `said`: what a comment says of a
    field instead of its keys.
    """

    model: BaseModelSpec | None = None
    sources: tuple[DataSource, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, tuple[str, ...]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    same: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    holds_nothing_out: bool = False  # as the file says
    of_model: tuple[str, ...] = ()  # the keys that the model came from
    of_sources: tuple[str, ...] = ()

    def carried(self) -> list[str]:
        """The keys that are in the job."""
        return list(dict.fromkeys([*self.of_model, *self.of_sources, *self.keys_of()]))

    def keys_of(self, path: str = "") -> list[str]:
        """The keys of a field and of all that are below it."""
        return [key for known, keys in self.origin.items() if not path or known == path or known.startswith(f"{path}.") for key in keys]

    def overruled(self, *, model: bool, data: bool) -> "Translation":
        """The same where the user names another model, or other data."""
        left = dict.fromkeys(self.of_model if model else (), "--model names another")
        left |= dict.fromkeys(self.of_sources if data else (), "--data names others")
        return replace(self, left=self.left | left, of_model=() if model else self.of_model, of_sources=() if data else self.of_sources)

    def comments(self) -> dict[str, str]:
        """What is said of each field: where it is from."""
        return {path: self.said.get(path) or ", ".join(keys) for path, keys in self.origin.items()}

    def at_places(self, placed: Callable[[str], str]) -> "Translation":
        """The same with other words for each place: of the model, of the sources, and of the folder that the model is published to."""
        spec = deepcopy(self.spec)
        if isinstance(folder := nested(spec, FOLDER), str):
            put(spec, FOLDER, placed(folder if is_path(folder) or os.path.isabs(folder) else f"./{folder}"))
        model = self.model and self.model.model_copy(update={"name": placed(self.model.name)})
        sources = tuple(source.model_copy(update={"path": placed(source.path)}) for source in self.sources)
        return replace(self, spec=spec, model=model, sources=sources)

    def path_of(self, problem: str) -> str | None:
        """Which of our fields a problem of the job is about: its own, one that it is in, or one beside it."""
        path = problem.removeprefix("spec.")
        while path:
            inner = next((known for known in self.origin if known == path or known.startswith(f"{path}.")), None)
            if inner is not None and nested(self.spec, inner) is not None:
                return inner
            path = path.rpartition(".")[0]
        return None

    def without(self, path: str) -> "Translation":
        """The same without one field, or without all that are below it."""
        spec = deepcopy(self.spec)
        removed(spec, path)
        origin = {known: keys for known, keys in self.origin.items() if known != path and not known.startswith(f"{path}.")}
        return replace(self, spec=spec, origin=origin)


NOTHING_GIVEN: Final = Translation()


def translation(file: Mapping[str, Any], *, workers: int, told_of: str, placed: Callable[[str], str] = lambda place: place) -> Translation:
    """What the file is in a job. `workers`: the number that its batch was meant for; `told_of` says where that is from.

    `placed`: a place of the file, such as a path, as a job is to name it.
    """
    found = _Translator(file)
    for key, value in file.items():
        found.read(str(key), value)
    found.settle(workers, told_of)
    return found.result(placed)


def meaning_of(key: str) -> Foreign | None:
    """What a key means: as other trainers have it, or as the same word of a job."""
    return foreign(key) or _own().get(plain(key))


@cache
def _own() -> dict[str, Foreign]:
    """The fields of training and data that a file may call as we do, such as `micro_batch_size` or `max_steps`."""
    found: dict[str, Foreign] = {}
    for path in paths(FineTuneJobSpec):
        section, _, name = path.removeprefix("spec.").rpartition(".")
        if section in ("training", "training.optimizer", "dataset"):
            found.setdefault(plain(name), Foreign(f"{section}.{name}"))
    return found


class _Translator:
    """One file, key by key."""

    def __init__(self, file: Mapping[str, Any]) -> None:
        self._file = file
        self._spec: dict[str, Any] = {}
        self._origin: dict[str, tuple[str, ...]] = {}
        self._said: dict[str, str] = {}
        self._same: list[str] = []
        self._left: dict[str, str] = {}
        self._sources: list[SourceFields] = []
        self._of_one = SourceFields()  # keys of the file that describe its one source, as TRL has them

    def read(self, key: str, value: Any) -> None:
        """One key of the file."""
        if value is None or value in ("", [], {}):
            self._left[key] = NO_VALUE
            return
        meaning = meaning_of(key)
        if meaning is None or meaning.ours is None:
            self._left[key] = meaning.how if meaning else UNKNOWN
        elif meaning.ours == "dataset.sources":
            self._read_sources(key, value)
        elif meaning.ours.startswith(SOURCE):
            self._of_one.read(key, value, meaning.ours.removeprefix(SOURCE), meaning)
        elif plain(key) == "testdatasets":
            self._read_test_datasets(key, value)
        elif plain(key) == "gradientaccumulationsteps":
            pass  # with the micro-batch, at the end
        else:
            self._read_field(key, value, meaning.ours, meaning)

    def _read_field(self, key: str, value: Any, path: str, meaning: Foreign) -> None:
        try:
            ours = converted(path, key, value, self._file)
        except Untranslatable as error:
            self._left[key] = str(error) or reason_of(meaning, value)
            return
        earlier = nested(self._spec, path)
        if ours is SAME:
            self._same.append(key)
        elif earlier is not None and earlier != ours:
            self._left[key] = f"spec.{path} comes from {', '.join(self._origin[path])}"
        elif problem := problem_with(path, ours):
            self._left[key] = problem
        elif path not in _WRITTEN and ours == default_of(path):
            self._same.append(key)
        else:
            put(self._spec, path, ours)
            self._origin[path] = (*self._origin.get(path, ()), key)

    def _read_sources(self, key: str, value: Any) -> None:
        """A list of sources; TRL's `dataset_mixture` has it below `datasets`, with settings beside it."""
        if isinstance(value, dict) and isinstance(value.get("datasets"), list):
            for name, setting in value.items():
                if name != "datasets":
                    self.read(str(name), setting)
            key, value = f"{key}.datasets", value["datasets"]
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            found, others = source_fields(f"{key}[{index}]", item)
            self._sources += found
            for name, setting, meaning in others:
                assert meaning.ours is not None
                self._read_field(name, setting, meaning.ours, meaning)

    def _read_test_datasets(self, key: str, value: Any) -> None:
        """Another split of the same data; other data can't be held out."""
        items = value if isinstance(value, list) else [value]
        splits = {item.get("split") for item in items if isinstance(item, dict)}
        listed = self._file.get("datasets")
        known = {item.get("path") for item in listed if isinstance(item, dict)} if isinstance(listed, list) else set()
        if len(splits) == 1 and all(isinstance(item, dict) and item.get("path") in known for item in items) and splits != {None}:
            self._read_field(key, splits.pop(), "dataset.evaluation.split", Foreign("dataset.evaluation.split"))
        elif isinstance(value, str):
            self._read_field(key, value, "dataset.evaluation.split", Foreign("dataset.evaluation.split"))
        else:
            self._left[key] = "held-out data is a split of the sources, or a share of them; give dataset.evaluation.split or fraction"

    # ---- what several keys say together

    def settle(self, workers: int, told_of: str) -> None:
        """Choose between fields of which a job has one, as the other trainers do."""
        self._settle_batch(workers, told_of)
        if nested(self._spec, "training.method") is None:
            self._drop("training.lora", _NO_ADAPTER)
            if any(self._file.get(key) for key in ("adapter", "peft", "use_peft")):
                self._drop("training.optimizer.learningRate", _OF_AN_ADAPTER)
        if nested(self._spec, "training.method") == "qlora" and workers > 1:  # ZeRO-3 can't cut what is in 4 bits
            put(self._spec, "training.sharding", "zero2")
            self._origin["training.sharding"] = self._origin["training.method"]
        for path, by in (
            ("training.epochs", "training.maxSteps"),
            ("training.optimizer.warmupRatio", "training.optimizer.warmupSteps"),
            (_FRACTION, "dataset.evaluation.split"),
            ("publish.directory", "publish.hub.repository"),
        ):
            if nested(self._spec, path) is not None and nested(self._spec, by) is not None:
                self._drop(path, f"{', '.join(self._origin[by])} decides, and a job has one of both")
        if nested(self._spec, "template.jinja") is not None:
            put(self._spec, "template.name", "jinja")

    def _settle_batch(self, workers: int, told_of: str) -> None:
        """Rows of a step: those of a micro-step, times accumulation steps, times workers."""
        key = next((key for key in self._file if plain(str(key)) == "gradientaccumulationsteps"), None)
        steps = self._file[key] if key is not None else None
        micro_keys = [name for name in self._file if (found := meaning_of(str(name))) and found.ours == "training.microBatchSize"]
        micro = self._file[micro_keys[0]] if micro_keys else None
        if steps is None and micro is None:
            return
        numbers = [each for each in (steps, micro) if each is not None]
        if not all(type(each) is int and each > 0 for each in numbers):
            if key is not None and steps is not None:
                self._left[key] = f"{steps}: not a number that rows can be counted from"
            return
        path = "training.globalBatchSize"
        names = tuple(filter(None, (micro_keys[0] if micro_keys else None, key if steps is not None else None)))
        if nested(self._spec, path) is not None:
            self._left |= dict.fromkeys(names[1:] or (), f"spec.{path} comes from {', '.join(self._origin[path])}")
            return
        put(self._spec, path, (micro or 1) * (steps or 1) * workers)
        self._origin[path] = names
        parts = [f"{micro_keys[0]} {micro}"] if micro else []
        parts += [f"{key} {steps}"] if steps else []
        self._said[path] = f"{' x '.join([*parts, f'{workers} workers' if workers > 1 else '1 worker'])} ({told_of})"

    def _drop(self, path: str, reason: str) -> None:
        for known in [each for each in self._origin if each == path or each.startswith(f"{path}.")]:
            self._left |= dict.fromkeys(self._origin.pop(known), reason)
        removed(self._spec, path)

    def result(self, placed: Callable[[str], str]) -> Translation:
        """All that was found; `placed`: a place as a job is to name it."""
        parts = [*self._sources, self._of_one]
        named = [found for found in parts if "path" in found.fields]
        if not named:
            self._left |= dict.fromkeys(self._of_one.keys.values(), "describes a source, and the file names none")
        for found in named:  # the file's own settings are for all of them
            found.fields = self._of_one.fields | found.fields | {"path": placed(found.fields["path"])}
        sources = tuple(found.source() for found in named)
        model, of_model = self._model(placed)
        same = (*self._same, *(key for found in parts for key in found.same))
        return Translation(
            model=model,
            sources=sources,
            spec=self._spec,
            origin={path: keys for path, keys in self._origin.items() if not path.startswith(_MODEL)},
            said=self._said,
            same=same,
            left={key: reason for left in (self._left, *(found.left for found in parts)) for key, reason in left.items()},
            holds_nothing_out=any((meant := meaning_of(key)) is not None and meant.ours == _FRACTION for key in same),
            of_model=tuple(of_model),
            of_sources=tuple(key for found in parts if sources for key in found.keys.values()),
        )

    def _model(self, placed: Callable[[str], str]) -> tuple[BaseModelSpec | None, list[str]]:
        """The model, and the keys that it came from."""
        fields = self._spec.pop("model", {})
        keys = {path.removeprefix(_MODEL): found for path, found in self._origin.items() if path.startswith(_MODEL)}
        if not fields.get("name"):
            return None, []
        fields, refused = taken_together(fields | {"name": placed(fields["name"])}, of_source=False)
        for path, reason in refused.items():
            self._left |= dict.fromkeys(keys.pop(path, ()), reason)
        return BaseModelSpec.model_validate(fields), [key for found in keys.values() for key in found]


def reason_of(meaning: Foreign, value: Any) -> str:
    """What the table says of a key whose value isn't carried over."""
    return meaning.remedy(value).removesuffix("; remove it")
