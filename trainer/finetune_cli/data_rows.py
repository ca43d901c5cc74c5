"""What the commands of `finetune data` share: rows read as a job reads them, encoded, and counted."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.environment_storage import open_from_environment

if TYPE_CHECKING:
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.dialogues import Parsed
    from finetune_trainer.data.rows import Item
    from finetune_trainer.preparation.examples import Encoded, Example
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.storage.protocol import Storage

Format = Literal["auto", "messages", "prompt-completion", "oasst", "sharegpt", "alpaca", "dolly", "text", "tokenized"]

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, folders, objects at s3://, gs:// or az://, or Hub data sets.")]
DataFormat = Annotated[Format, typer.Option("--format", help="Schema of the rows; auto takes that of the first row that fits one.")]
_SETTINGS = (
    "A field of the sources, as in a job: columns.messages=turns, roles.assistant=[bot], html=keep; "
    "of the first source alone: sources.0.weight=0.5; repeatable."
)
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help=_SETTINGS)]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Split to read.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most N dialogues.")]

TokenizerPath = Annotated[Path, typer.Option("--tokenizer", metavar="PATH", help="A tokenizers JSON file, or a folder with one.")]
TemplateName = Literal["auto", "default", "no_system", "alpaca", "chatml", "plain", "model", "custom", "jinja"]
Template = Annotated[TemplateName, typer.Option("--template", help="How a dialogue becomes text.")]
MaskingName = Literal["assistant", "last_assistant", "all", "blog"]
_MASKINGS = "assistant: answers and their ends are learnt; last_assistant: of the last one; all: every token; blog: all but users."
Masking = Annotated[MaskingName, typer.Option("--masking", help=_MASKINGS)]
JinjaFile = Annotated[Path | None, typer.Option("--jinja", metavar="FILE", help="A chat template of yours, for --template jinja.")]
_VARIABLES = "What the chat template sees beside the dialogue: '{\"enable_thinking\": false}'."
Variables = Annotated[str | None, typer.Option("--variables", metavar="JSON", help=_VARIABLES)]
_MOST_EXAMPLES = "Most examples of one dialogue, where each answer needs one of its own."
MostExamples = Annotated[int, typer.Option("--max-examples", min=1, max=1024, metavar="N", help=_MOST_EXAMPLES)]
TokenOrderName = Literal["blog", "published"]
TokenOrder = Annotated[TokenOrderName, typer.Option("--token-order", help="Order in which new tokens get ids.")]
NoSystemTurn = Annotated[bool, typer.Option("--no-system-turn", help="No system turn where a dialogue has none of its own.")]
SystemText = Annotated[str | None, typer.Option("--system-text", metavar="TEXT", help="Text of the system turn; absent: the template's.")]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=2, metavar="N", help="Divide dialogues at turns, as training does; absent is never.")
]

_CHUNK = 32  # small: `| head` should not wait
_SHOWN_INVALID = 20
_WRONG_ROW = "wrong row"
_NOT_DRAWN = "not drawn for its source's weight"
_OF_ONE_SOURCE = re.compile(r"(?:spec\.)?(?:dataset\.)?sources\.(\d+)\.(.+)", re.DOTALL)


@dataclass(slots=True)
class Count:
    """What was met so far."""

    dialogues: int = 0
    examples: int = 0  # more than dialogues where one needs several
    tokens: int = 0
    supervised: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)  # what the template does to messages
    first: dict[str, str] = field(default_factory=dict)  # where each reason was met first
    invalid: list[str] = field(default_factory=list)  # the first wrong rows; `dropped` counts all
    left_out: dict[tuple[str, int], list[str]] = field(default_factory=dict)  # by row, until its dialogue is shown

    def drop(self, reason: str, source: str, row: int) -> None:
        """Count something of a row that is not used."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, f"{source} row {row}")
        if (source, row) not in self.left_out:  # what is dropped of a row comes right before its dialogue, if it has one
            self.left_out.clear()
        self.left_out.setdefault((source, row), []).append(reason)

    def refuse(self, reason: str, source: str, row: int) -> None:
        """Count a wrong row, and name it if it is among the first."""
        self.dropped[_WRONG_ROW] += 1
        self.first.setdefault(_WRONG_ROW, f"{source} row {row}")
        if len(self.invalid) < _SHOWN_INVALID:
            self.invalid.append(f"{source} row {row}: {reason}")


@dataclass(frozen=True, slots=True)
class Encoding:
    """A tokenizer with its template, and the end of its documents."""

    encoder: "Encoder"
    end_of_text: str | None
    notes: tuple[str, ...]  # what is to be known of the template


def encoding_of(
    tokenizer: Path,
    template: TemplateName,
    masking: MaskingName,
    token_order: TokenOrderName,
    no_system_turn: bool,
    system_text: str | None,
    jinja: Path | None,
    variables: str | None,
    most_examples: int,
) -> Encoding:
    """What a job with these settings encodes with. Raises InvalidModel or InvalidSpec."""
    from pydantic import ValidationError

    from finetune_api.finetunejob import ControlTokens, TemplateSpec
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.registry import template_from_spec, template_notes
    from finetune_trainer.templates.tokenizer import read_tokenizer

    if (template == "jinja") != (jinja is not None):
        raise typer.BadParameter("--template jinja and --jinja FILE go together; give both or neither")
    try:
        spec = TemplateSpec(
            name=template,
            masking=masking,
            token_order=token_order,
            system_turn=not no_system_turn,
            system_text=system_text,
            tokens=ControlTokens() if template == "custom" else None,
            jinja=None if jinja is None else _text_of(jinja),
            variables=None if variables is None else _object_of(variables),
            max_examples_per_dialogue=most_examples,
        )
    except ValidationError as error:
        raise typer.BadParameter("; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())) from None
    files = read_tokenizer(tokenizer)
    encoder = Encoder(files.tokenizer, template_from_spec(spec, files))
    return Encoding(encoder, files.end_of_text, tuple(template_notes(spec, encoder.template, files)))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--jinja {file}: can't be read ({error})") from None


def _object_of(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--variables: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--variables: no JSON object; give names and values")
    return value


def sources_of(paths: list[str], data_format: Format, settings: list[str] | None) -> "list[DataSource]":
    """A name that exists here is a file or folder, also without `./` before it. Raises InvalidSpec.

    A setting `sources.1.weight=2` is for the second source alone, as in a job.
    """
    from finetune_api.finetunejob.places import is_hub_place
    from finetune_api.jobfile import data_source

    found = []
    for index, path in enumerate(paths):
        own = [text for setting in settings or () if (text := _setting_for(index, setting, len(paths))) is not None]
        is_bare = is_hub_place(path)
        found.append(data_source(f"./{path}" if is_bare and Path(path).exists() else path, [f"format={data_format}", *own]))
    return found


def _setting_for(index: int, setting: str, num_sources: int) -> str | None:
    """What a setting says to one source: one without a number is for all of them."""
    match = _OF_ONE_SOURCE.fullmatch(setting)
    if match is None:
        return setting
    if int(match[1]) >= num_sources:
        raise typer.BadParameter(f"--set {setting}: there are {num_sources} sources, and the first is sources.0; correct the number")
    return match[2] if int(match[1]) == index else None


def parsed_rows(sources: "list[DataSource]", split: str, count: Count) -> "Iterator[Parsed]":
    """Everything that can be learnt from; what is dropped is counted, and wrong rows are named."""
    for source in sources:
        for item in _kept(_items_of(source, split, _note), count):
            yield item
            count.left_out.clear()


def mixed_rows(sources: "list[DataSource]", split: str, count: Count, seed: int) -> "Iterator[tuple[Parsed, int]]":
    """Each row and how often its source's weight uses it, drawn by tree as a job draws; what is not drawn is counted.

    A source with a weight is read twice, the first time for the names of its trees.
    """
    from finetune_trainer.data.dialogues import Dropped
    from finetune_trainer.data.mixture import copies

    for source in sources:
        uses: dict[str, int] | None = None
        if source.weight != 1.0:
            items = _items_of(source, split, lambda text: None)
            uses = copies((item.tree for item in items if not isinstance(item, Dropped)), source.weight, seed)
        for item in _kept(_items_of(source, split, _note), count):
            number = 1 if uses is None else uses[item.tree]
            if number:
                yield item, number
            else:
                count.drop(_NOT_DRAWN, item.source, item.row)
            count.left_out.clear()


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _items_of(source: "DataSource", split: str, notice: Callable[[str], None]) -> "Iterator[Item]":
    """The source's rows up to its limit, parsed."""
    from finetune_trainer.data.mixture import limited
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    def opened(url: str) -> "Storage":
        return open_from_environment(url, "SOURCE")

    rows = read(source, split, base=Path(), secrets=Secrets(), open_storage=opened, notice=notice)
    items = parse(rows, source, notice=notice)
    return items if source.limit is None else limited(items, source.limit)


def _kept(items: "Iterable[Item]", count: Count) -> "Iterator[Parsed]":
    from finetune_trainer.data.dialogues import Dropped

    for item in items:
        if not isinstance(item, Dropped):
            yield item
        elif item.kind == "invalid":
            count.refuse(item.reason, item.source, item.row)
        else:
            count.drop(item.reason, item.source, item.row)


@dataclass(frozen=True, slots=True)
class Shown:
    """One example, with the row that it comes from and what of that row is not used."""

    item: "Parsed"
    example: "Example"
    left_out: tuple[str, ...]


def encoded_rows(items: "Iterable[Parsed]", encoding: Encoding, count: Count, max_length: int | None = None) -> Iterator[Shown]:
    """Each row's examples, a few rows at a time."""
    from finetune_trainer.preparation.examples import TOLD

    remaining = iter(items)
    while chunk := [(item, tuple(count.left_out.get((item.source, item.row), ()))) for item in islice(remaining, _CHUNK)]:
        results = encoded_items([item for item, _ in chunk], encoding, max_length)
        for (item, left_out), result in zip(chunk, results, strict=True):
            if result.refused is not None:
                count.refuse(result.refused, item.source, item.row)
                continue
            for name, told in TOLD.items():
                count.told[told] += getattr(result, name)
            not_learnt = [reason for reason, times in _not_learnt(result) for _ in range(times)]
            for reason in not_learnt:
                count.drop(reason, item.source, item.row)
            count.dialogues += bool(result.examples)
            for example in result.examples:
                count.examples += 1
                count.tokens += len(example.input_ids)
                count.supervised += sum(map(len, example.supervised))
                yield Shown(item, example, (*left_out, *not_learnt))


def encoded_items(items: "list[Parsed]", encoding: Encoding, max_length: int | None) -> "Iterator[Encoded]":
    """By the template, or as they are where there are no turns; in the order of the rows."""
    from finetune_trainer.data.dialogues import Dialogue
    from finetune_trainer.preparation.documents import encode_without_turns

    encoder = encoding.encoder
    dialogues = iter(encoder.encode([item for item in items if isinstance(item, Dialogue)], max_length=max_length))
    others = [item for item in items if not isinstance(item, Dialogue)]
    rest = iter(encode_without_turns(others, encoder.tokenizer, encoding.end_of_text, max_length=max_length))
    return (next(dialogues) if isinstance(item, Dialogue) else next(rest) for item in items)


def _not_learnt(result: "Encoded") -> list[tuple[str, int]]:
    """What of a row is lost to the length of an example, or all of it."""
    from finetune_trainer.preparation.statistics import EXCHANGE_LEFT_OUT, OVERLONG_ANSWER

    turns = [(OVERLONG_ANSWER, result.dropped_turns), (EXCHANGE_LEFT_OUT, result.dropped_exchanges)]
    return turns if result.examples or any(times for _, times in turns) else [("nothing to learn from", 1)]


def print_not_used(count: Count) -> None:
    """What was left out, by reason, then wrong rows; on stderr, beside rows on stdout."""
    for line in not_used(count):
        print(line, file=sys.stderr)
    print_invalid(count)


def not_used(count: Count) -> list[str]:
    """A line for each reason, with the first row that has it."""
    places = {reason: f" (first: {count.first[reason]})" if reason in count.first else "" for reason in count.dropped}
    return [
        *(f"not used: {number:,} x {reason}{places[reason]}" for reason, number in count.dropped.most_common()),
        *(f"told: {number:,} x {reason}" for reason, number in count.told.most_common() if number),
    ]


def print_invalid(count: Count) -> None:
    """Wrong rows, on stderr: a job refuses them unless it allows some."""
    for line in count.invalid:
        print(line, file=sys.stderr)
    if (more := count.dropped[_WRONG_ROW] - len(count.invalid)) > 0:
        print(f"and {more:,} more wrong rows", file=sys.stderr)


def refuse_nothing(sources: list[str], count: Count) -> None:
    """Raises InvalidData if nothing came of the data."""
    from finetune_api.errors import InvalidData

    if count.dialogues == 0:
        first = f" (the first wrong row is {count.invalid[0]})" if count.invalid else ""
        reasons = "".join(f"; {number:,} x {reason}" for reason, number in count.dropped.most_common(_SHOWN_INVALID))
        raise InvalidData(f"{', '.join(sources)}: no dialogue to learn from{reasons}; look at --format, --split and what is chosen{first}")
