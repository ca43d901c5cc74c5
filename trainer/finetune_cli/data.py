"""`finetune data preview`: what a model would learn from data, token by token, before anything is trained.

The dialogues are shown as they are: not packed, not cut to a row, labels not shifted. The code that makes them is the code that
trains.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.dialogues import Dialogue
    from finetune_trainer.preparation.labels import Encoder, Example
    from finetune_trainer.storage.protocol import Storage

Format = Literal["auto", "messages", "prompt-completion", "oasst", "sharegpt", "alpaca", "dolly"]
TemplateName = Literal["default", "no_system", "alpaca", "model", "custom"]

_CHUNK_DIALOGUES = 32  # small: `| head` should not wait
_SHOWN_DIALOGUES = 3
_SHOWN_INVALID = 5


@dataclass(slots=True)
class _Count:
    """What was met so far."""

    dialogues: int = 0
    tokens: int = 0
    supervised: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    invalid: list[str] = field(default_factory=list)


def preview(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, folders, s3:// objects or Hub data sets.")],
    tokenizer: Annotated[
        Path, typer.Option("--tokenizer", metavar="PATH", help="A tokenizers JSON file, or a folder with tokenizer.json.")
    ],
    data_format: Annotated[Format, typer.Option("--format", help="Schema of the rows; auto looks at the first one.")] = "auto",
    template: Annotated[TemplateName, typer.Option("--template", help="How a dialogue becomes text.")] = "default",
    masking: Annotated[
        Literal["assistant", "blog"], typer.Option("--masking", help="assistant: answers and their ends are learnt; blog: all but users.")
    ] = "assistant",
    token_order: Annotated[Literal["blog", "published"], typer.Option("--token-order", help="Order in which new tokens get ids.")] = "blog",
    no_system_turn: Annotated[bool, typer.Option("--no-system-turn", help="No system turn where a dialogue has none of its own.")] = False,
    system_text: Annotated[
        str | None, typer.Option("--system-text", metavar="TEXT", help="Text of the system turn; absent is the template's own.")
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split to read.")] = "train",
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most N dialogues.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per dialogue.")] = False,
) -> None:
    """Show dialogues as text, tokens and labels: what is learnt is marked.

    With --json each line has source, row, messages, input_ids and labels (-100 where nothing is learnt; not shifted).
    """
    from finetune_api.errors import InvalidData
    from finetune_api.finetunejob import ControlTokens, TemplateSpec
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.registry import template_from_spec
    from finetune_trainer.templates.tokenizer import read_tokenizer

    spec = TemplateSpec(
        name=template,
        masking=masking,
        token_order=token_order,
        system_turn=not no_system_turn,
        system_text=system_text,
        tokens=ControlTokens() if template == "custom" else None,
    )
    files = read_tokenizer(tokenizer)
    encoder = Encoder(files.tokenizer, template_from_spec(spec, files))
    count = _Count()
    found = islice(_dialogues([_source(name, data_format) for name in sources], split, count), limit)
    encoded = _encoded(found, encoder, count)
    if as_json:
        for dialogue, example in encoded:
            print(json.dumps(_object(dialogue, example), ensure_ascii=False))
        _print_invalid(count)
    else:
        _print_text(encoded, encoder, count, limit)
    if count.dialogues == 0:
        reasons = "".join(f"; {number:,} x {reason}" for reason, number in count.dropped.most_common(_SHOWN_INVALID))
        raise InvalidData(f"{', '.join(sources)}: no dialogue to learn from{reasons}; look at --format and --split")


def _source(name: str, data_format: Format) -> "DataSource":
    """A name that exists here is a file or folder, also without `./` before it."""
    from finetune_api.finetunejob import DataSource

    is_bare = not name.startswith(("./", "../", "/", "s3://"))
    return DataSource(path=f"./{name}" if is_bare and Path(name).exists() else name, format=data_format)


def _dialogues(sources: "list[DataSource]", split: str, count: _Count) -> "Iterator[Dialogue]":
    """All dialogues; what is dropped is counted, and wrong rows are named."""
    from finetune_trainer.data.dialogues import Dropped, parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    def note(text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    for source in sources:
        rows = read(source, split, base=Path(), secrets=Secrets(), open_storage=_open_storage, notice=note)
        for item in parse(rows, source, notice=note):
            if not isinstance(item, Dropped):
                yield item
                continue
            count.dropped[item.reason if item.kind != "invalid" else "wrong row"] += 1
            if item.kind == "invalid":
                count.invalid.append(f"{item.source} row {item.row}: {item.reason}")


def _open_storage(url: str) -> "Storage":
    """Storage with the settings of the environment: a preview has no job whose fields could be corrected."""
    from finetune_trainer.storage.errors import StorageFields
    from finetune_trainer.storage.s3 import open_storage

    fields = StorageFields(
        storage="SOURCE",
        endpoint="AWS_ENDPOINT_URL",
        region="AWS_DEFAULT_REGION",
        credentials="the AWS profile or environment",
        ca_bundle="AWS_CA_BUNDLE",
    )
    # boto3 would find it too; given here, messages name the address.
    return open_storage(url, endpoint=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None, fields=fields)


def _encoded(dialogues: "Iterable[Dialogue]", encoder: "Encoder", count: _Count) -> "Iterator[tuple[Dialogue, Example]]":
    """Each dialogue with its tokens, a few at a time."""
    remaining = iter(dialogues)
    while chunk := list(islice(remaining, _CHUNK_DIALOGUES)):
        for dialogue, result in zip(chunk, encoder.encode(chunk), strict=True):
            for example in result.examples:
                count.dialogues += 1
                count.tokens += len(example.input_ids)
                count.supervised += sum(map(len, example.supervised))
                yield dialogue, example


def _object(dialogue: "Dialogue", example: "Example") -> dict[str, Any]:
    return {
        "source": dialogue.source,
        "row": dialogue.row,
        "messages": [{"role": message.role, "content": message.content} for message in dialogue.messages],
        "input_ids": example.input_ids,
        "labels": example.labels,
    }


def _print_invalid(count: _Count) -> None:
    """Wrong rows, on stderr: a job refuses them unless it allows some."""
    for line in count.invalid[:_SHOWN_INVALID]:
        print(line, file=sys.stderr)
    if len(count.invalid) > _SHOWN_INVALID:
        print(f"and {len(count.invalid) - _SHOWN_INVALID:,} more wrong rows", file=sys.stderr)


def _print_text(encoded: "Iterator[tuple[Dialogue, Example]]", encoder: "Encoder", count: _Count, limit: int | None) -> None:
    """The first dialogues as text, then the numbers of all."""
    from rich.console import Console

    console = Console(highlight=False)
    marks = ("", "") if console.is_terminal and not console.no_color else ("\u27e6", "\u27e7")
    console.print(f"learnt: {marks[0]}[bold green]like this[/]{marks[1]}\n")
    for number, (dialogue, example) in enumerate(encoded, start=1):
        if number <= (limit or _SHOWN_DIALOGUES):
            console.rule(f"{dialogue.source} row {dialogue.row}", align="left", style="dim")
            console.print(_marked(example, encoder, marks), soft_wrap=True)
    console.rule(style="dim")
    share = count.supervised / count.tokens if count.tokens else 0.0
    console.print(f"{count.dialogues:,} dialogues, {count.tokens:,} tokens, {share:.1%} of them supervised")
    for reason, dropped in count.dropped.most_common():
        console.print(f"not used: {dropped:,} x {reason}", markup=False)
    sys.stdout.flush()
    _print_invalid(count)


def _marked(example: "Example", encoder: "Encoder", marks: tuple[str, str]) -> Any:
    """The decoded text of an example, its learnt parts in bold green and between marks."""
    from rich.text import Text

    text, position = Text(), 0

    def decoded(start: int, stop: int) -> str:
        return str(encoder.tokenizer.decode(example.input_ids[start:stop], skip_special_tokens=False))

    for span in example.supervised:
        text.append(decoded(position, span.start), style="dim")
        text.append(marks[0]).append(decoded(span.start, span.stop), style="bold green").append(marks[1])
        position = span.stop
    return text.append(decoded(position, len(example.input_ids)), style="dim")
