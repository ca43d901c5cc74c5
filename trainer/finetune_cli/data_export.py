"""`finetune data export`: rows as they were understood, chosen and mixed, in a file that this and other trainers read.

Without --tokenized: messages in the words of Transformers, with tools, reasoning and what is learnt. With it: `input_ids`, `labels` and
`attention_mask`, made by the code that trains, which TRL and axolotl take as they are; reading them back gives the same ids.
"""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.data_curation import (
    SEED,
    Asked,
    BestRanked,
    Decontaminate,
    Deduplicate,
    Found,
    HitsFile,
    HtmlPage,
    KeepContaminated,
    Languages,
    MaxCharacters,
    MaxTokens,
    MaxTurns,
    MinCharacters,
    MinTurns,
    Seed,
    Similarity,
    check_place,
    curated_rows,
    curation_of,
    hits_written,
    print_hits,
    rows_counted,
    write_html,
)
from finetune_cli.data_rows import (
    DataFormat,
    Encoding,
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
    print_invalid,
    refuse_nothing,
)

if TYPE_CHECKING:
    from finetune_assistant.curation.pipeline import Examined
    from finetune_assistant.curation.writing import Written

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the rows go: .jsonl or .parquet.")]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Write the rows in a random order, which --seed decides.")]
PromptsOnly = Annotated[bool, typer.Option("--prompts-only", help="Write only what is asked: the first user message as prompt, each once.")]


def export(
    sources: Sources,
    output: Output,
    tokenized: Annotated[bool, typer.Option("--tokenized", help="Tokens and labels in place of messages; needs --tokenizer.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="PATH", help="A tokenizers JSON file, or a folder with tokenizer.json.")
    ] = None,
    max_length: MaxLength = None,
    data_format: DataFormat = "auto",
    settings: Settings = None,
    languages: Languages = None,
    min_turns: MinTurns = None,
    max_turns: MaxTurns = None,
    min_characters: MinCharacters = None,
    max_characters: MaxCharacters = None,
    max_tokens: MaxTokens = None,
    best_ranked: BestRanked = None,
    deduplicate: Deduplicate = False,
    similarity: Similarity = None,
    decontaminate: Decontaminate = None,
    keep_contaminated: KeepContaminated = False,
    hits: HitsFile = None,
    prompts_only: PromptsOnly = False,
    shuffle: Shuffle = False,
    seed: Seed = SEED,
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
    html: HtmlPage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write rows as other trainers read them: messages, or with --tokenized input_ids, labels (-100: not learnt) and attention_mask.

    Several sources are mixed, each by its weight: --set sources.0.weight=0.5. Rows can be chosen by length, language, rank, near-duplicates
    and what they share with evaluation sets; what is left out is counted by its reason.
    """
    if tokenized and prompts_only:
        raise typer.BadParameter("--tokenized writes what is learnt, and --prompts-only what is asked; give one")
    if max_tokens is not None and tokenizer is None:
        raise typer.BadParameter(f"--max-tokens {max_tokens}: tokens are counted by a tokenizer; name it with --tokenizer PATH")
    if (tokenized or max_tokens is not None) != (tokenizer is not None) or (max_length is not None and not tokenized):
        raise typer.BadParameter(
            "--tokenized and --tokenizer PATH go together, and --max-length with both; without --tokenized a tokenizer serves --max-tokens"
        )
    read = [*sources, *(decontaminate or ())]
    check_place(output, "--output", ".jsonl", ".parquet", sources=read)
    check_place(hits, "--hits", sources=read)
    check_place(html, "--html", sources=read)
    asked = Asked(
        sources=sources,
        data_format=data_format,
        settings=settings,
        split=split,
        limit=limit,
        languages=languages,
        min_turns=min_turns,
        max_turns=max_turns,
        min_characters=min_characters,
        max_characters=max_characters,
        max_tokens=max_tokens,
        best_ranked=best_ranked,
        deduplicate=deduplicate,
        similarity=similarity,
        decontaminate=decontaminate,
        keep_contaminated=keep_contaminated,
        seed=seed,
    )
    encoding = None
    if tokenizer is not None:
        encoding = encoding_of(tokenizer, template, masking, token_order, no_system_turn, system_text, jinja, variables, max_examples)
    rows = Export(asked, encoding, max_length if tokenized else None, tokenized=tokenized, prompts_only=prompts_only)
    written = rows.write(output, shuffle_seed=seed if shuffle else None, hits=hits, measures=html is not None)
    if html is not None:
        write_html(html, f"Rows of {output.name}", rows.statistics, rows.found)
    _tell(rows, written, output, as_json)


class Export:
    """One export: rows are read, chosen and written, and what was met on the way is in `found` and `statistics`."""

    def __init__(
        self, asked: Asked, encoding: Encoding | None, max_length: int | None, *, tokenized: bool = False, prompts_only: bool = False
    ) -> None:
        from finetune_assistant.curation.rows import RowLines
        from finetune_assistant.curation.statistics import Statistics

        self.asked, self.found = asked, Found()
        self.statistics = Statistics()
        self._curation = curation_of(asked)
        self._encoding, self._max_length = encoding, max_length
        self._tokenized, self.prompts_only = tokenized, prompts_only
        self._lines = RowLines()
        self._measures = False

    def write(self, output: Path, *, shuffle_seed: int | None, hits: Path | None = None, measures: bool = False) -> "Written":
        """The whole file, or none. Raises InvalidData where no row is left. `measures`: for a page or a card."""
        from finetune_assistant.curation.writing import write_lines

        self._measures = measures
        try:
            with hits_written(hits, self.found), rows_counted("export") as count:
                return write_lines(output, self._counted_lines(count), self._lines.columns, shuffle_seed=shuffle_seed)
        except OSError as error:
            raise typer.BadParameter(f"--output {output}: {error.strerror or error}") from error

    def _counted_lines(self, count: Callable[[], None]) -> Iterator[str]:
        for line in self._token_lines() if self._tokenized else self._row_lines():
            count()
            yield line
        refuse_nothing(self.asked.sources, self.found.count)

    def _kept(self) -> "Iterator[tuple[Examined, int]]":
        rows = curated_rows(self.asked, self._curation, self.found, self._encoding)
        for one, uses in islice(self._with_prompts(rows) if self.prompts_only else rows, self.asked.limit):
            if self._measures:
                self.statistics.add(one)
            yield one, uses

    def _with_prompts(self, rows: "Iterator[tuple[Examined, int]]") -> "Iterator[tuple[Examined, int]]":
        """The rows that ask something new."""
        from finetune_assistant.curation.rows import Prompts

        prompts = Prompts()
        for one, uses in rows:
            if reason := prompts.refusal(one.item):
                self.found.count.drop(reason, one.item.source, one.item.row)
            else:
                yield one, uses

    def _row_lines(self) -> Iterator[str]:
        from finetune_assistant.curation.rows import prompt_object

        count, lines = self.found.count, self._lines
        for one, uses in self._kept():
            count.dialogues += 1
            line = lines.line_of(prompt_object(one.item) or {}) if self.prompts_only else lines.line(one.item)
            for _ in range(uses):
                count.examples += 1
                yield line

    def _token_lines(self) -> Iterator[str]:
        assert self._encoding is not None
        items = (one.item for one, uses in self._kept() for _ in range(uses))
        for shown in encoded_rows(items, self._encoding, self.found.count, self._max_length):
            ids = shown.example.input_ids
            if self._measures:
                self.statistics.add_tokens(len(ids), sum(map(len, shown.example.supervised)))
            yield self._lines.line_of({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": shown.example.labels})


def _tell(done: Export, written: "Written", output: Path, as_json: bool) -> None:
    count = done.found.count
    print_invalid(count)
    print_hits(done.found)
    for text, number in count.told.items():
        if number:
            print(f"told: {number:,} x {text}", file=sys.stderr)
    if written.is_uneven:
        print(
            f"note: {output}: rows differ in their keys, and `datasets` guesses the columns from the first 10 MB of a .jsonl file; "
            "for `datasets` write a .parquet file, which says what its columns are",
            file=sys.stderr,
        )
    left_out = dict(count.dropped.most_common())
    if as_json:
        shared = (
            {} if done.found.contaminated_rows is None else {"contaminatedRows": done.found.contaminated_rows, "hits": done.found.num_hits}
        )
        print(json.dumps({"output": str(output), "rows": written.rows, "not_used": left_out, **shared}))
        return
    print(f"{written.rows:,} rows are in {output}" + "".join(f"; not used: {number:,} x {reason}" for reason, number in left_out.items()))
