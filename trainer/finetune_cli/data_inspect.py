"""`finetune data inspect`: what rows are like, in numbers and plots, before anybody decides what to do with them.

Nothing is left out and nothing written but the page that is asked for.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.data_curation import (
    SEED,
    Asked,
    Found,
    HitsFile,
    HtmlPage,
    Seed,
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
    not_used,
    print_invalid,
    refuse_nothing,
)

if TYPE_CHECKING:
    from rich.table import Table

    from finetune_assistant.curation.distribution import Distribution
    from finetune_assistant.curation.pipeline import Examined
    from finetune_assistant.curation.statistics import Statistics
    from finetune_trainer.data.dialogues import Parsed

_SHOWN_LANGUAGES = 8
_SIMILARITY = "From which share of common runs of five words rows are near-duplicates: 0.5 to 0.95."
_DECONTAMINATE = "An evaluation set (.jsonl, .csv, .parquet, .arrow, .gz): list the rows that share 13 words in a row with it; repeatable."


def inspect(
    sources: Sources,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="PATH", help="Count tokens: a tokenizers JSON file, or a folder with one.")
    ] = None,
    html: HtmlPage = None,
    languages: Annotated[
        bool | None,
        typer.Option("--languages/--no-languages", help="Tell the language of each row.", show_default="where py3langid is installed"),
    ] = None,
    near_duplicates: Annotated[
        bool | None,
        typer.Option(
            "--near-duplicates/--no-near-duplicates", help="Look for near-duplicates.", show_default="where datasketch is installed"
        ),
    ] = None,
    similarity: Annotated[float | None, typer.Option("--similarity", metavar="SHARE", help=_SIMILARITY, show_default="0.8")] = None,
    decontaminate: Annotated[list[Path] | None, typer.Option("--decontaminate", metavar="FILE", help=_DECONTAMINATE)] = None,
    hits: HitsFile = None,
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
    seed: Seed = SEED,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what rows are like: turns, roles, lengths, what is learnt, languages, near-duplicates, and what is not used, by its reason.

    With --tokenizer in tokens, as the job's template makes them. With --html a page with plots.
    """
    if max_length is not None and tokenizer is None:
        raise typer.BadParameter("--max-length divides dialogues by tokens; add --tokenizer PATH")
    check_place(html, "--html", sources=[*sources, *(decontaminate or ())])
    check_place(hits, "--hits", sources=[*sources, *(decontaminate or ())])
    asked = Asked(
        sources=sources,
        data_format=data_format,
        settings=settings,
        split=split,
        looks_at_languages=_wanted(languages, "py3langid", "languages"),
        deduplicate=similarity is None and _wanted(near_duplicates, "datasketch", "near-duplicates"),
        similarity=similarity,
        decontaminate=decontaminate,
        keep_contaminated=bool(decontaminate),
        passes_tokens=True,
        seed=seed,
    )
    curation, found = curation_of(asked), Found()
    encoding = None
    if tokenizer is not None:
        encoding = encoding_of(tokenizer, template, masking, token_order, no_system_turn, system_text, jinja, variables, max_examples)
    with hits_written(hits, found), rows_counted("inspect") as count:
        rows = islice((one for one, _ in curated_rows(asked, curation, found, keeps_all=True)), limit)
        statistics = _measured(rows, found, encoding, max_length, count)
        refuse_nothing(sources, found.count)
    if html is not None:
        write_html(html, ", ".join(sources), statistics, found)
    if as_json:
        print(json.dumps(_described(statistics, found), ensure_ascii=False))
        print_invalid(found.count)
        return
    _print_text(statistics, found)
    if html is not None:
        print(f"plots are in {html}")


def _wanted(asked: bool | None, module: str, what: str) -> bool:
    """Where nobody asked: if what it needs is installed."""
    if asked is None and find_spec(module) is None:
        print(f"note: {what} are not looked at: pip install 'finetune-operator[assistant]'", file=sys.stderr)
    return find_spec(module) is not None if asked is None else asked


def _measured(
    rows: "Iterator[Examined]", found: Found, encoding: Encoding | None, max_length: int | None, tick: Callable[[], None]
) -> "Statistics":
    from finetune_assistant.curation.statistics import Statistics
    from finetune_trainer.data.dialogues import TokenRow

    statistics = Statistics()

    def items() -> "Iterator[Parsed]":
        for one in rows:
            tick()
            statistics.add(one)
            yield one.item

    if encoding is None:
        for item in items():
            found.count.dialogues += 1
            if isinstance(item, TokenRow):
                statistics.add_tokens(len(item.input_ids), sum(item.supervised))
        return statistics
    for shown in encoded_rows(items(), encoding, found.count, max_length):
        statistics.add_tokens(len(shown.example.input_ids), sum(map(len, shown.example.supervised)))
    return statistics


def _described(statistics: "Statistics", found: Found) -> dict[str, object]:
    described = statistics.described(found.count.dropped)
    rows = statistics.rows.total()
    if found.near_duplicates is not None:
        described["nearDuplicates"] = {"rows": found.near_duplicates, "share": round(found.near_duplicates / rows, 4)}
    if found.contaminated_rows is not None:
        described["evaluationSets"] = {"rows": found.contaminated_rows, "hits": found.num_hits}
    return described


def _print_text(statistics: "Statistics", found: Found) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    rows = statistics.rows.total()
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in statistics.kinds.items())
    console.print(f"{rows:,} rows: {kinds}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("median", "mean", "95 %", "largest"):
        table.add_column(name, justify="right")
    _add_lengths(table, "turns of a dialogue", statistics.turns)
    _add_lengths(table, "characters of a row", statistics.characters)
    if "assistant" in statistics.messages:
        _add_lengths(table, "characters of an answer", statistics.messages["assistant"])
    _add_lengths(table, "tokens of an example", statistics.tokens)
    console.print(table)
    of = "tokens" if statistics.tokens.total else "characters"
    console.print(f"learnt: {statistics.supervised_share:.1%} of all {of}")
    roles = sorted(((role, lengths.number) for role, lengths in statistics.messages.items()), key=lambda role: -role[1])
    console.print(f"messages: {_listed(roles, sum(number for _, number in roles))}", markup=False, soft_wrap=True)
    if statistics.languages:
        most = statistics.languages.most_common(_SHOWN_LANGUAGES)
        more = len(statistics.languages) - len(most)
        tail = f", {more} more" if more > 0 else ""
        console.print(f"languages: {_listed(most, rows)}{tail}", markup=False, soft_wrap=True)
    if found.near_duplicates is not None:
        console.print(f"near-duplicates: {found.near_duplicates:,} rows ({found.near_duplicates / rows:.1%})")
    if found.contaminated_rows is not None:
        console.print(f"in evaluation sets: {found.contaminated_rows:,} rows share 13 words in a row with one")
    for line in not_used(found.count):
        console.print(line, markup=False, soft_wrap=True)
    sys.stdout.flush()
    print_invalid(found.count)
    print_hits(found)


def _add_lengths(table: "Table", what: str, numbers: "Distribution") -> None:
    if numbers.counts:
        table.add_row(what, f"{numbers.quantile(0.5):,}", f"{numbers.mean:,.1f}", f"{numbers.quantile(0.95):,}", f"{numbers.largest:,}")


def _listed(counts: list[tuple[str, int]], whole: int) -> str:
    return ", ".join(f"{name} {number:,} ({number / whole:.1%})" for name, number in counts)
