"""`finetune data publish`: chosen rows as a data set on the Hub or in a folder, with a card that says how they were chosen."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.data_curation import (
    SEED,
    Asked,
    BestRanked,
    Decontaminate,
    Deduplicate,
    HitsFile,
    HtmlPage,
    Languages,
    MaxCharacters,
    MaxTurns,
    MinCharacters,
    MinTurns,
    Seed,
    Similarity,
    check_place,
    print_hits,
    write_html,
)
from finetune_cli.data_export import Export, PromptsOnly, Shuffle
from finetune_cli.data_rows import DataFormat, Limit, Settings, Sources, Split, print_invalid

if TYPE_CHECKING:
    from finetune_assistant.curation.publication import PublishedData


def publish(
    sources: Sources,
    licence: Annotated[
        str, typer.Option("--license", metavar="ID", help="Licence of the rows, as the Hub calls it: apache-2.0, cc-by-sa-4.0, other.")
    ],
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="ORG/NAME", help="Data set repository on the Hub; created when absent.")
    ] = None,
    directory: Annotated[Path | None, typer.Option("--directory", metavar="DIR", help="Folder instead of the Hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="The world may have it: a repository that is created is public.")] = False,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Heading of the card.", show_default="the name")] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Commit message on the Hub.")] = None,
    data_format: DataFormat = "auto",
    settings: Settings = None,
    languages: Languages = None,
    min_turns: MinTurns = None,
    max_turns: MaxTurns = None,
    min_characters: MinCharacters = None,
    max_characters: MaxCharacters = None,
    best_ranked: BestRanked = None,
    deduplicate: Deduplicate = False,
    similarity: Similarity = None,
    decontaminate: Decontaminate = None,
    hits: HitsFile = None,
    prompts_only: PromptsOnly = False,
    shuffle: Shuffle = False,
    seed: Seed = SEED,
    split: Split = "train",
    limit: Limit = None,
    html: HtmlPage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export rows as one Parquet file, and publish it with a card: what is in it, from where, and how it was chosen.

    The token comes from HF_TOKEN or `hf auth login`.
    """
    from finetune_trainer.secrets import Secrets

    check_place(html, "--html", sources=[*sources, *(decontaminate or ())])
    check_place(hits, "--hits", sources=[*sources, *(decontaminate or ())])
    token = Secrets().hub_token(None, "HF_TOKEN") if hub else None
    _check(hub, directory, token, public, message, licence)
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
        best_ranked=best_ranked,
        deduplicate=deduplicate,
        similarity=similarity,
        decontaminate=decontaminate,
        seed=seed,
    )
    rows = Export(asked, None, None, prompts_only=prompts_only)
    with TemporaryDirectory(prefix="finetune-") as temporary:
        folder = Path(temporary)
        place = hub or f"./{Path(str(directory)).name}"
        written = _write(rows, folder, place, title or place.rpartition("/")[2], licence, seed if shuffle else None, hits)
        published = _published(folder, hub, directory, token, public, message)
    if html is not None:
        write_html(html, f"Rows of {place}", rows.statistics, rows.found)
    print_invalid(rows.found.count)
    print_hits(rows.found)
    left_out = dict(rows.found.count.dropped.most_common())
    if as_json:
        print(json.dumps({"url": published.url, "revision": published.revision, "rows": written, "not_used": left_out}))
        return
    at = f" at {published.revision[:12]}" if published.revision else ""
    print(f"{written:,} rows are published to {published.url}{at}; not used: {sum(left_out.values()):,} (the card says why)")


def _check(hub: str | None, directory: Path | None, token: str | None, public: bool, message: str | None, licence: str) -> None:
    """Refuse, before rows are read, what would fail after them."""
    from finetune_api.finetunejob.places import is_like_an_address
    from finetune_assistant.curation.publication import check_data_directory, check_data_repository

    if (hub is None) == (directory is None):
        raise typer.BadParameter("give --hub ORG/NAME or --directory DIR, where the data set goes")
    if not licence.strip():
        raise typer.BadParameter("--license is empty; name the licence of the rows, for example apache-2.0, or other")
    if directory is not None:
        if public or message is not None:
            raise typer.BadParameter("--public and --message are for the Hub; use --hub ORG/NAME, or leave them out")
        if is_like_an_address(str(directory)):
            raise typer.BadParameter(f"--directory {directory} is an address, and no folder")
        check_data_directory(directory)
    elif hub is not None:
        if hub.count("/") != 1:
            raise typer.BadParameter(f"--hub {hub}: names no organisation or user; use org/name")
        check_data_repository(hub, token, private=not public)


def _write(rows: Export, folder: Path, place: str, title: str, licence: str, shuffle_seed: int | None, hits: Path | None) -> int:
    """The data and the card in `folder`; the number of rows."""
    from finetune_assistant.curation.card import DATA_FILE, DataCard, data_card

    data = folder / DATA_FILE
    data.parent.mkdir()
    written = rows.write(data, shuffle_seed=shuffle_seed, hits=hits, measures=True)
    card = DataCard(
        title=title,
        place=place,
        licence=licence,
        rows=written.rows,
        statistics=rows.statistics,
        choices=_choices(rows.asked, shuffle_seed),
        not_used=dict(rows.found.count.dropped.most_common()),
        kind="prompts, what users ask first" if rows.prompts_only else "",
    )
    (folder / "README.md").write_text(data_card(card), encoding="utf-8")
    return written.rows


def _choices(asked: Asked, shuffle_seed: int | None) -> list[str]:
    """A phrase for each option that chose rows."""
    bounds = [(asked.min_turns, "at least {:,} turns"), (asked.max_turns, "at most {:,} turns")]
    bounds += [(asked.min_characters, "at least {:,} characters"), (asked.max_characters, "at most {:,} characters")]
    bounds += [
        (asked.best_ranked, "of OASST trees the {:,} best-ranked answers to each message"),
        (asked.limit, "the first {:,} rows of these"),
    ]
    similarity = asked.similarity or (0.8 if asked.deduplicate else None)
    sets = ", ".join(file.name for file in asked.decontaminate or ())
    said = [text.format(number) for number, text in bounds if number is not None]
    said += [f"language {', '.join(asked.languages)}, told by py3langid; rows too short to tell are kept"] if asked.languages else []
    said += (
        [f"no near-duplicates: less than {100 * similarity:g} % of runs of five words are shared with an earlier row"] if similarity else []
    )
    said += [f"no 13 words in a row from {sets}"] if sets else []
    said += [f"`{setting}`" for setting in asked.settings or ()]
    return said + ([f"shuffled with seed {shuffle_seed}"] if shuffle_seed is not None else [])


def _published(
    folder: Path, hub: str | None, directory: Path | None, token: str | None, public: bool, message: str | None
) -> "PublishedData":
    from finetune_assistant.curation.publication import publish_data_to_directory, publish_data_to_hub

    if hub is not None:
        return publish_data_to_hub(folder, hub, token, private=not public, message=message)
    assert directory is not None
    return publish_data_to_directory(folder, directory)
