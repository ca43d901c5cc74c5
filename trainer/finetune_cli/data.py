"""`finetune data preview`: what a model would learn from data, token by token, before anything is trained.

The dialogues are shown as they are: not packed, not divided unless --max-length says so, labels not shifted. The code that makes them is
the code that trains.
"""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.data_rows import (
    Count,
    DataFormat,
    JinjaFile,
    Limit,
    Masking,
    MaxLength,
    MostExamples,
    NoSystemTurn,
    Settings,
    Shown,
    Sources,
    Split,
    SystemText,
    Template,
    TokenizerPath,
    TokenOrder,
    Variables,
    encoded_rows,
    encoding_of,
    not_used,
    parsed_rows,
    print_invalid,
    print_not_used,
    refuse_nothing,
    sources_of,
)

if TYPE_CHECKING:
    from finetune_trainer.preparation.examples import Example
    from finetune_trainer.preparation.labels import Encoder

_SHOWN_DIALOGUES = 3


def preview(
    sources: Sources,
    tokenizer: TokenizerPath,
    data_format: DataFormat = "auto",
    settings: Settings = None,
    template: Template = "auto",
    masking: Masking = "assistant",
    token_order: TokenOrder = "blog",
    no_system_turn: NoSystemTurn = False,
    system_text: SystemText = None,
    jinja: JinjaFile = None,
    variables: Variables = None,
    max_examples: MostExamples = 8,
    max_length: MaxLength = None,
    split: Split = "train",
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per dialogue.")] = False,
) -> None:
    """Show dialogues as text, tokens and labels: what is learnt is marked.

    With --json each line has source, row, messages, input_ids and labels (-100 where nothing is learnt; not shifted), and where there are
    any: tools, what of the row is left_out, and what of it is not_read.
    """
    encoding = encoding_of(tokenizer, template, masking, token_order, no_system_turn, system_text, jinja, variables, max_examples)
    count = Count()
    found = islice(parsed_rows(sources_of(sources, data_format, settings), split, count), limit)
    shown = encoded_rows(found, encoding, count, max_length)
    if as_json:
        for one in shown:
            print(json.dumps(_object(one), ensure_ascii=False))
        print_not_used(count)
    else:
        for text in encoding.notes:
            print(f"note: {text}", file=sys.stderr)
        _print_text(shown, encoding.encoder, count, limit)
    refuse_nothing(sources, count)


def _object(shown: Shown) -> dict[str, Any]:
    from finetune_assistant.curation.rows import row_object

    item = shown.item
    row = {"source": item.source, "row": item.row, **row_object(item)}
    beside = {"left_out": list(shown.left_out), "not_read": list(item.told)}
    return (
        row
        | {"input_ids": shown.example.input_ids, "labels": shown.example.labels}
        | {name: value for name, value in beside.items() if value}
    )


def _print_text(shown: Iterator[Shown], encoder: "Encoder", count: Count, limit: int | None) -> None:
    """The first dialogues as text, then the numbers of all."""
    from rich.console import Console

    console = Console(highlight=False)
    marks = ("", "") if console.is_terminal and not console.no_color else ("\u27e6", "\u27e7")
    console.print(f"learnt: {marks[0]}[bold green]like this[/]{marks[1]}\n")
    for number, one in enumerate(shown, start=1):
        if number <= (limit or _SHOWN_DIALOGUES):
            console.rule(f"{one.item.source} row {one.item.row}", align="left", style="dim")
            for line in _beside(one):
                console.print(line, style="dim", markup=False, soft_wrap=True)
            console.print(_marked(one.example, encoder, marks), soft_wrap=True)
    console.rule(style="dim")
    share = count.supervised / count.tokens if count.tokens else 0.0
    several = f" in {count.examples:,} examples" if count.examples != count.dialogues else ""
    console.print(f"{count.dialogues:,} dialogues{several}, {count.tokens:,} tokens, {share:.1%} of them supervised")
    for line in not_used(count):
        console.print(line, markup=False, soft_wrap=True)
    sys.stdout.flush()
    print_invalid(count)


def _beside(shown: Shown) -> list[str]:
    """What a row holds beside its text, and what of it is not used."""
    from finetune_assistant.curation.rows import row_object

    row = row_object(shown.item)
    tools = [f"tools: {', '.join(tool['function']['name'] for tool in row['tools'])}"] if "tools" in row else []
    thinks = sum("reasoning_content" in message for message in row.get("messages", []))
    reasoning = [f"reasoning: in {thinks} of its messages"] if thinks else []
    return [*tools, *reasoning, *(f"left out: {reason}" for reason in shown.left_out), *shown.item.told]


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
