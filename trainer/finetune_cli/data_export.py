"""`finetune data export`: rows as they were understood, in a file that this and other trainers read.

Without --tokenized: messages in the words of Transformers, with tools, reasoning and what is learnt. With it: `input_ids`, `labels` and
`attention_mask`, made by the code that trains, which TRL and axolotl take as they are; reading them back gives the same ids.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

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
    Sources,
    Split,
    SystemText,
    Template,
    TokenOrder,
    Variables,
    encoded_rows,
    encoding_of,
    parsed_rows,
    print_invalid,
    refuse_nothing,
    row_object,
    source_of,
)

_WRITTEN_ROWS = 1000  # of Parquet, at a time


def export(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where the rows go: .jsonl, or .parquet for tokens.")],
    tokenized: Annotated[bool, typer.Option("--tokenized", help="Tokens and labels in place of messages; needs --tokenizer.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="PATH", help="A tokenizers JSON file, or a folder with tokenizer.json.")
    ] = None,
    max_length: MaxLength = None,
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
    split: Split = "train",
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write rows as other trainers read them: messages, or with --tokenized input_ids, labels (-100: not learnt) and attention_mask."""
    if tokenized != (tokenizer is not None) or (max_length is not None and not tokenized):
        raise typer.BadParameter("--tokenized and --tokenizer PATH go together, and --max-length with both")
    _check_output(output, tokenized)
    count = Count()
    items = islice(parsed_rows([source_of(path, data_format, settings) for path in sources], split, count), limit)
    if tokenizer is not None:
        encoding = encoding_of(tokenizer, template, masking, token_order, no_system_turn, system_text, jinja, variables, max_examples)
        rows: Iterable[dict[str, Any]] = (
            {"input_ids": one.example.input_ids, "attention_mask": [1] * len(one.example.input_ids), "labels": one.example.labels}
            for one in encoded_rows(items, encoding, count, max_length)
        )
    else:
        rows = _messages(items, count)
    _write(output, rows, sources, count)
    print_invalid(count)
    left_out = {reason: number for reason, number in count.dropped.most_common()}
    if as_json:
        print(json.dumps({"output": str(output), "rows": count.examples, "not_used": left_out}))
    else:
        print(
            f"{count.examples:,} rows are in {output}"
            + "".join(f"; not used: {number:,} x {reason}" for reason, number in left_out.items())
        )


def _check_output(output: Path, tokenized: bool) -> None:
    suffixes = (".jsonl", ".parquet") if tokenized else (".jsonl",)
    if output.suffix not in suffixes:
        why = "" if tokenized else "; messages of rows differ in their keys, which Parquet would even out"
        raise typer.BadParameter(f"--output {output}: the name must end with {' or '.join(suffixes)}{why}")
    if not output.parent.is_dir():
        raise typer.BadParameter(f"--output {output}: there is no folder {output.parent}; make it")


def _messages(items: Iterable[Any], count: Count) -> Iterator[dict[str, Any]]:
    for item in items:
        count.dialogues += 1
        count.examples += 1
        yield row_object(item)


def _write(output: Path, rows: Iterable[dict[str, Any]], sources: list[str], count: Count) -> None:
    """The whole file, or none."""
    from finetune_trainer.files.atomic import atomically

    try:
        with atomically(output) as draft:
            if output.suffix == ".parquet":
                _write_parquet(draft, rows)
            else:
                with draft.open("x", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            refuse_nothing(sources, count)
    except OSError as error:
        raise typer.BadParameter(f"--output {output}: {error.strerror or error}") from error


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        {
            "input_ids": pyarrow.list_(pyarrow.int32()),
            "attention_mask": pyarrow.list_(pyarrow.int8()),
            "labels": pyarrow.list_(pyarrow.int64()),  # what PyTorch's losses take
        }
    )
    remaining = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(remaining, _WRITTEN_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
