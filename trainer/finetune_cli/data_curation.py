"""What `finetune data inspect`, `export` and `publish` share: options that choose rows, the rows that pass them, and progress.

The choosing itself is `finetune_assistant.curation`; here options become its values, and what it finds is counted and told.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.data_rows import Count, Encoding, Format, mixed_rows, sources_of

if TYPE_CHECKING:
    from finetune_assistant.curation.contamination import EvaluationSets, Hit
    from finetune_assistant.curation.pipeline import Curation, Examined
    from finetune_assistant.curation.statistics import Statistics
    from finetune_trainer.data.dialogues import Parsed

Languages = Annotated[
    list[str] | None, typer.Option("--language", metavar="CODE", help="Keep rows in this language (en, de, zh); repeatable.")
]
MinTurns = Annotated[int | None, typer.Option("--min-turns", min=1, metavar="N", help="Messages of users and assistants, at least.")]
MaxTurns = Annotated[int | None, typer.Option("--max-turns", min=1, metavar="N", help="The same, at most.")]
MinCharacters = Annotated[int | None, typer.Option("--min-characters", min=1, metavar="N", help="Characters of a row, at least.")]
MaxCharacters = Annotated[int | None, typer.Option("--max-characters", min=1, metavar="N", help="The same, at most.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, metavar="N", help="Tokens of a row with its template, at most; needs --tokenizer.")
]
BestRanked = Annotated[
    int | None, typer.Option("--best-ranked", min=1, metavar="N", help="Of OASST trees: follow the N best-ranked answers to each message.")
]
Deduplicate = Annotated[bool, typer.Option("--deduplicate", help="Leave out rows that are nearly the same as an earlier one.")]
_SIMILARITY = "From which share of common runs of five words rows are nearly the same: 0.5 to 0.95; implies --deduplicate."
Similarity = Annotated[float | None, typer.Option("--similarity", metavar="SHARE", help=_SIMILARITY, show_default="0.8")]
_DECONTAMINATE = (
    "An evaluation set (.jsonl, .csv, .parquet, .arrow, .gz): rows that share 13 words in a row with it are left out; repeatable."
)
Decontaminate = Annotated[list[Path] | None, typer.Option("--decontaminate", metavar="FILE", help=_DECONTAMINATE)]
KeepContaminated = Annotated[bool, typer.Option("--keep-contaminated", help="List what is shared with evaluation sets, and keep the rows.")]
HitsFile = Annotated[
    Path | None, typer.Option("--hits", metavar="FILE", help="Write what is shared with evaluation sets, a JSON line each.")
]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**32 - 1, metavar="N", help="Decides what weights draw, the order of --shuffle, and signatures."),
]
HtmlPage = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots of what the rows are like.")]

SEED = 42  # that of a job
_SHOWN_HITS = 20
_KEPT_HITS = 1000
_ROWS_A_TICK = 500
_PACE_SECONDS = 10.0
_EXTRA = {"datasketch": "--deduplicate", "py3langid": "--language"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options that choose rows, as they were typed. `looks_at_languages`: without a filter for them."""

    sources: list[str]
    data_format: Format = "auto"
    settings: list[str] | None = None
    split: str = "train"
    limit: int | None = None
    languages: list[str] | None = None
    looks_at_languages: bool = False
    min_turns: int | None = None
    max_turns: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None
    max_tokens: int | None = None
    best_ranked: int | None = None
    deduplicate: bool = False
    similarity: float | None = None
    decontaminate: list[Path] | None = None
    keep_contaminated: bool = False
    passes_tokens: bool = False
    seed: int = SEED


@dataclass(slots=True)
class Found:
    """What was found while rows were taken."""

    count: Count = field(default_factory=Count)
    near_duplicates: int | None = None  # None: nobody looked
    hits: "list[Hit]" = field(default_factory=list)  # the first ones
    num_hits: int = 0
    contaminated_rows: int | None = None
    write_hit: "Callable[[Hit], None] | None" = None

    def add_hits(self, hits: "tuple[Hit, ...]") -> None:
        """What one row shares with evaluation sets."""
        if not hits:
            return
        self.contaminated_rows = (self.contaminated_rows or 0) + 1
        self.num_hits += len(hits)
        self.hits += hits[: max(0, _KEPT_HITS - len(self.hits))]
        if (write := self.write_hit) is not None:
            for hit in hits:
                write(hit)


def curation_of(asked: Asked) -> "Curation":
    """The options as a value, checked. Raises typer.BadParameter or InvalidData, before any row is read."""
    from finetune_assistant.curation.filters import Lengths
    from finetune_assistant.curation.language import check_languages
    from finetune_assistant.curation.near_duplicates import DEFAULT_THRESHOLD, LEAST_THRESHOLD, MOST_THRESHOLD
    from finetune_assistant.curation.pipeline import Curation

    for least, most in (("min_turns", "max_turns"), ("min_characters", "max_characters")):
        low, high = getattr(asked, least), getattr(asked, most)
        if low is not None and high is not None and low > high:
            names = [f"--{name.replace('_', '-')}" for name in (least, most)]
            raise typer.BadParameter(f"{names[0]} {low} is more than {names[1]} {high}; no row would be left")
    similarity = asked.similarity if asked.similarity is not None else DEFAULT_THRESHOLD if asked.deduplicate else None
    if similarity is not None:
        if not LEAST_THRESHOLD <= similarity <= MOST_THRESHOLD:
            raise typer.BadParameter(f"--similarity {similarity:g}: give a share from {LEAST_THRESHOLD} to {MOST_THRESHOLD}")
        check_installed("datasketch")
    if asked.languages or asked.looks_at_languages:
        check_installed("py3langid")
        check_languages(asked.languages or ())
    return Curation(
        lengths=Lengths(
            min_turns=asked.min_turns,
            max_turns=asked.max_turns,
            min_characters=asked.min_characters,
            max_characters=asked.max_characters,
            max_tokens=asked.max_tokens,
        ),
        languages=frozenset(asked.languages or ()) if asked.languages or asked.looks_at_languages else None,
        similarity=similarity,
        evaluation_sets=_evaluation_sets(asked),
        keeps_contaminated=asked.keep_contaminated,
        passes_tokens=asked.passes_tokens,
        seed=asked.seed,
    )


def check_installed(module: str) -> None:
    """Raises typer.BadParameter with the command that installs it."""
    if find_spec(module) is None:
        raise typer.BadParameter(f"{_EXTRA[module]} needs {module}, which isn't installed: pip install 'finetune-operator[assistant]'")


def _evaluation_sets(asked: Asked) -> "EvaluationSets | None":
    from finetune_assistant.curation.contamination import read_evaluation_sets

    if not asked.decontaminate:
        if asked.keep_contaminated:
            raise typer.BadParameter("--keep-contaminated says what is done about evaluation sets; name them with --decontaminate FILE")
        return None
    sets = read_evaluation_sets(asked.decontaminate)
    for name, documents, short in zip(sets.names, sets.documents, sets.short, strict=True):
        if short:
            print(f"note: {name}: {short:,} of {documents:,} documents have no text of 13 words, and can't be found", file=sys.stderr)
    return sets


def curated_rows(
    asked: Asked, curation: "Curation", found: Found, encoding: Encoding | None = None, *, keeps_all: bool = False
) -> "Iterator[tuple[Examined, int]]":
    """The rows that pass, and how often each is used; reasons against the others are counted in `found`, hits are kept there.

    `keeps_all` gives those others too, after they were counted: for a look at the data as it is.
    """
    from finetune_assistant.curation.language import TOO_SHORT
    from finetune_assistant.curation.near_duplicates import NEAR_DUPLICATE
    from finetune_assistant.curation.pipeline import examined

    settings = [*(asked.settings or ()), *([] if asked.best_ranked is None else [f"filter.topAnswers={asked.best_ranked}"])]
    sources = sources_of(asked.sources, asked.data_format, settings)
    found.near_duplicates = None if curation.similarity is None else 0
    found.contaminated_rows = None if curation.evaluation_sets is None else 0
    uses: deque[int] = deque()

    def items() -> "Iterator[Parsed]":
        for item, number in mixed_rows(sources, asked.split, found.count, asked.seed):
            uses.append(number)
            yield item

    count_tokens = None if asked.max_tokens is None or encoding is None else _token_counter(encoding)
    for one in examined(items(), curation, count_tokens):
        number = uses.popleft()
        found.add_hits(one.hits)
        if one.language == TOO_SHORT and curation.languages:
            found.count.told[f"{TOO_SHORT}, and kept"] += 1
        if one.refusal == NEAR_DUPLICATE:
            found.near_duplicates = (found.near_duplicates or 0) + 1
        if one.refusal is not None and not keeps_all:
            found.count.drop(one.refusal, one.item.source, one.item.row)
        else:
            yield one, number


def _token_counter(encoding: Encoding) -> "Callable[[list[Parsed]], list[int]]":
    from finetune_cli.data_rows import encoded_items

    def counted(items: "list[Parsed]") -> list[int]:
        return [
            max((len(example.input_ids) for example in encoded.examples), default=0) for encoded in encoded_items(items, encoding, None)
        ]

    return counted


@contextmanager
def rows_counted(what: str) -> Iterator[Callable[[], None]]:
    """Says on stderr how many rows are done, on a terminal at once, elsewhere every ten seconds. Gives what to call for each row."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    done, printed_at, began = 0, time.monotonic(), time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}  {task.completed:,.0f} rows"), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task = progress.add_task(what, total=None)

    def count() -> None:
        nonlocal done, printed_at
        done += 1
        if done % _ROWS_A_TICK:
            return
        progress.update(task, completed=done)
        if progress.disable and (now := time.monotonic()) - printed_at >= _PACE_SECONDS:
            printed_at = now
            print(f"{what:<12} {done:,} rows, {done / (now - began):,.0f} a second", file=sys.stderr, flush=True)

    with progress:
        yield count


@contextmanager
def hits_written(path: Path | None, found: Found) -> Iterator[None]:
    """All hits that are found meanwhile go to `path`, a JSON object a line; the file appears at the end."""
    import json
    from dataclasses import asdict

    from finetune_trainer.files.atomic import atomically

    if path is None:
        yield
        return
    with atomically(path) as draft, draft.open("x", encoding="utf-8") as file:
        found.write_hit = lambda hit: print(json.dumps(asdict(hit), ensure_ascii=False), file=file)
        yield


def print_hits(found: Found) -> None:
    """The first hits on stderr."""
    for hit in found.hits[:_SHOWN_HITS]:
        print(f"{hit.source} row {hit.row} shares with {hit.evaluation_set} document {hit.document}: {hit.words}", file=sys.stderr)
    if found.num_hits > _SHOWN_HITS:
        print(f"and {found.num_hits - _SHOWN_HITS:,} more; --hits FILE writes all of them", file=sys.stderr)


def write_html(path: Path, title: str, statistics: "Statistics", found: Found) -> None:
    """The page of plots."""
    from finetune_assistant.curation.page import DataPage, write_page

    page = DataPage(
        title=title,
        statistics=statistics,
        not_used=found.count.dropped,
        places=found.count.first,
        wrong=found.count.invalid,
        near_duplicates=found.near_duplicates,
        hits=None if found.contaminated_rows is None else found.hits,
        num_hits=found.num_hits,
        contaminated_rows=found.contaminated_rows,
        notices=[f"{number:,} x {text}" for text, number in found.count.told.items() if number],
    )
    try:
        write_page(page, path)
    except OSError as error:
        raise typer.BadParameter(f"--html {path}: {error.strerror or error}") from error


def check_place(path: Path | None, option: str, *suffixes: str, sources: Sequence[str | Path] = ()) -> None:
    """Refuse, before rows are read, a file that can't be written after them, or that is one of the `sources`."""
    if path is None:
        return
    if path.is_file() and any(Path(source).is_file() and path.samefile(source) for source in sources):
        raise typer.BadParameter(f"{option} {path} is a file that is read, and would be lost; give another name")
    if suffixes and path.suffix not in suffixes:
        raise typer.BadParameter(f"{option} {path}: the name must end with {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"{option} {path}: there is no folder {path.parent}; make it")
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{option} {path}: this user may not write to {path.parent}; choose another folder")
    if path.is_dir():
        raise typer.BadParameter(f"{option} {path} is a folder; name a file")
