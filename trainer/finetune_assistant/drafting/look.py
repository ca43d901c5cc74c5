"""Looks at a base model and at rows, as preparation will, for a job that is not written yet.

In: a model and sources in the words of a job. Out: `FoundModel` and `FoundSource`. Of data the first rows are parsed and some of those
encoded, so that a look takes seconds whatever the size. A Hub that doesn't answer is no error: what it would have told stays unknown.
Raises what preparation would raise for what can never be trained: InvalidModel, InvalidData, InvalidSpec, InvalidStorage.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from finetune_api.errors import InvalidData, InvalidModel
from finetune_api.finetunejob import BaseModelSpec, DataSource, ModelShape, TemplateSpec
from finetune_api.finetunejob.places import is_hub_place, is_path
from finetune_assistant.drafting.found import FoundModel, FoundSource
from finetune_trainer.data.dialogues import Dialogue, Document, Dropped, Parsed
from finetune_trainer.data.formats import detected_format, named_format
from finetune_trainer.data.hub import DataUnreachable
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.raw_rows import Row, Unreadable
from finetune_trainer.data.sources import Rows, read
from finetune_trainer.model.hub import ModelUnreachable, hub_config
from finetune_trainer.model.resolve import ModelFiles, resolve_model
from finetune_trainer.model.shape import read_shape
from finetune_trainer.preparation.documents import encode_without_turns
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.templates.registry import chosen_name, template_from_spec
from finetune_trainer.templates.tokenizer import TokenizerFiles, read_tokenizer

# Rows that are parsed of a source, and of these how many are encoded. The second bound is for documents of books.
ROWS: Final = 20_000
ENCODED: Final = 2_000
_ENCODED_CHARACTERS: Final = 8_000_000
_CHUNK: Final = 32

OpenStorage = Callable[[str], Storage]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Counts tokens as preparation would."""

    encoder: Encoder
    end_of_text: str | None


# ---- the model


def look_at_model(
    spec: BaseModelSpec, template: TemplateSpec, *, base: Path, secrets: Secrets, open_storage: OpenStorage
) -> tuple[FoundModel, Lengths | None]:
    """The model, and its tokenizer with the template that it is trained with; None where the Hub doesn't answer. Nothing is kept of it.

    A folder without any weights is one whose config.json a random model is made of.
    """
    if is_path(spec.name) and spec.initialization == "pretrained" and _has_no_weights(base / spec.name):
        spec = spec.model_copy(update={"initialization": "random"})
    shape = None
    try:
        if is_hub_place(spec.name):
            # Asked first, because it knows within seconds whether the Hub answers.
            config = hub_config(spec, spec.revision, token=secrets.hub_token(spec.token_secret, "spec.model.tokenSecret"))
            shape = _shape(config, spec.name)
        with TemporaryDirectory(prefix="finetune-init-") as cache:
            files = _small_files(spec, base, Path(cache), secrets, open_storage)
            name, fault, lengths = _template_of(read_tokenizer(files.folder), template)
    except ModelUnreachable as error:
        return FoundModel(spec=spec, shape=shape, away=str(error)), None
    return FoundModel(spec=spec, shape=files.shape, template=name, template_fault=fault), lengths


def _small_files(spec: BaseModelSpec, base: Path, cache: Path, secrets: Secrets, open_storage: OpenStorage) -> ModelFiles:
    return resolve_model(spec, base=base, cache=cache, secrets=secrets, storage_opener=open_storage, fetches_weights=False)


def _has_no_weights(folder: Path) -> bool:
    """Whether a model's folder holds a config.json and not even a part of its weights."""
    marks = ("*.safetensors*", "*.bin*", "*.index.json", "*.incomplete")
    return (folder / "config.json").is_file() and not any(True for mark in marks for _ in folder.glob(mark))


def _shape(config: object, name: str) -> ModelShape | None:
    return read_shape(config, source=f"{name}: config.json") if isinstance(config, dict) else None


def _template_of(files: TokenizerFiles, wanted: TemplateSpec) -> tuple[str, str, Lengths]:
    """What `template.name` comes to, and why it is `default` where the wanted one, or the tokenizer's own, can't be used."""
    try:
        return chosen_name(wanted, files), "", _lengths(files, wanted)
    except InvalidModel as error:
        return "default", str(error), _lengths(files, TemplateSpec(name="default"))


def _lengths(files: TokenizerFiles, template: TemplateSpec) -> Lengths:
    return Lengths(Encoder(files.tokenizer, template_from_spec(template, files)), files.end_of_text)


# ---- the data


def look_at_source(source: DataSource, lengths: Lengths | None, *, base: Path, secrets: Secrets, open_storage: OpenStorage) -> FoundSource:
    """The first ROWS rows of a source. Raises InvalidData where nothing of them can be learnt from, naming the first wrong row."""
    try:
        rows = read(source, source.split, base=base, secrets=secrets, open_storage=open_storage)
        found, sample = _parsed(rows, source)
    except DataUnreachable as error:
        return FoundSource(source=source, away=str(error))
    has_test = _has_test(source, base, secrets, open_storage)
    return _with_lengths(replace(found, has_test=has_test), sample, lengths)


def _parsed(rows: Rows, source: DataSource) -> tuple[FoundSource, list[Parsed]]:
    """What the rows are, and some of what can be learnt from."""
    looked = _Looked(iter(rows), source)
    usable = messages = wrong = 0
    first_wrong, trees, left_out = "", set(), Counter[str]()
    sample = _Sample()
    for item in parse(looked, source):
        if isinstance(item, Dropped):
            if item.kind == "invalid":
                wrong, first_wrong = wrong + 1, first_wrong or f"{item.source} row {item.row}: {item.reason}"
            else:
                left_out[item.reason] += 1
            continue
        usable += 1
        messages += len(item.messages) if isinstance(item, Dialogue) else 0
        trees.add(item.tree)
        sample.add(item)
    if not usable:
        reasons = "".join(f"; {number:,} x {reason}" for reason, number in left_out.most_common())
        raise InvalidData(f"{source.path}: nothing to learn from in {looked.rows:,} rows; {first_wrong or 'no row is wrong'}{reasons}")
    found = FoundSource(
        source=source,
        format=looked.format,
        rows=looked.rows,
        is_all=looked.is_all,
        usable=usable,
        messages=messages,
        trees=len(trees),
        wrong=wrong,
        first_wrong=first_wrong,
        left_out=dict(left_out.most_common()),
        divides=looked.format == "text",
    )
    return found, sample.items


class _Looked:
    """The first rows, counted; and the format that the trainer takes them for."""

    def __init__(self, rows: Iterator[Row], source: DataSource) -> None:
        self._rows, self._source = rows, source
        self.rows, self.is_all = 0, False
        self.format: str = "" if source.format == "auto" else source.format
        self._named: str = ""

    def __iter__(self) -> Iterator[Row]:
        for row in islice(self._rows, ROWS):
            self.rows += 1
            if not self.format and not isinstance(row[2], Unreadable):
                self.format = detected_format(row[2], self._source) or ""
                self._named = self._named or named_format(row[2], self._source) or ""
            yield row
        self.is_all = next(self._rows, None) is None
        self.format = self.format or self._named


class _Sample:
    """At most ENCODED of many items, each as likely as another; the same ones every time."""

    def __init__(self) -> None:
        self.items: list[Parsed] = []
        self._random, self._met = random.Random(0), 0

    def add(self, item: Parsed) -> None:
        self._met += 1
        if len(self.items) < ENCODED:
            self.items.append(item)
        elif (place := self._random.randrange(self._met)) < ENCODED:
            self.items[place] = item


def _has_test(source: DataSource, base: Path, secrets: Secrets, open_storage: OpenStorage) -> bool:
    """Whether the source has a split that is meant for evaluation."""
    try:
        read(source, "test", base=base, secrets=secrets, open_storage=open_storage)
    except InvalidData:
        return False
    return True


def _with_lengths(found: FoundSource, sample: Sequence[Parsed], lengths: Lengths | None) -> FoundSource:
    """Lengths of the sample's examples; what the template can't take is wrong, too. Raises InvalidData if it can take nothing."""
    if lengths is None:
        return found
    encoded = wrong = 0
    tokens: list[int] = []
    first_wrong, characters = "", 0
    for start in range(0, len(sample), _CHUNK):
        chunk = sample[start : start + _CHUNK]
        characters += sum(map(_characters, chunk))
        for item, (refused, sizes) in zip(chunk, _encoded(chunk, lengths), strict=True):
            encoded += 1
            tokens += sizes
            if refused:
                wrong, first_wrong = wrong + 1, first_wrong or f"{item.source} row {item.row}: {refused}"
        if characters > _ENCODED_CHARACTERS:
            break
    if not tokens:
        raise InvalidData(f"{found.source.path}: nothing to learn from by the model's template; {first_wrong or 'no answer in any row'}")
    return replace(found, encoded=encoded, lengths=tuple(tokens), wrong=found.wrong + wrong, first_wrong=found.first_wrong or first_wrong)


def _characters(item: Parsed) -> int:
    if isinstance(item, Dialogue):
        return sum(len(message.content) for message in item.messages)
    return len(item.text) if isinstance(item, Document) else 0


def _encoded(chunk: Sequence[Parsed], lengths: Lengths) -> list[tuple[str | None, list[int]]]:
    """For each item why it is refused, and the tokens of its examples; a source's items are of one kind."""
    dialogues = [item for item in chunk if isinstance(item, Dialogue)]
    others = [item for item in chunk if not isinstance(item, Dialogue)]
    found = lengths.encoder.encode(dialogues) if dialogues else []
    found += encode_without_turns(others, lengths.encoder.tokenizer, lengths.end_of_text) if others else []
    return [(each.refused, [len(example.input_ids) for example in each.examples]) for each in found]
