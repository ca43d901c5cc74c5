"""One HTML page that shows what rows are like: it loads nothing and runs nothing, and charts are inline SVG.

In: statistics, what was not used and why, hits in evaluation sets. Out: HTML. All text in it is untrusted (it is training data), and is
escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from finetune_assistant.curation.contamination import WORDS, Hit
from finetune_assistant.curation.distribution import Distribution
from finetune_assistant.curation.statistics import Statistics
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.reporting.charts import histogram
from finetune_trainer.reporting.readable import count

_SHOWN_HITS = 100
_SHOWN_LANGUAGES = 30
_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPage:
    """What a page shows. `places`: where each reason was met first; `wrong`: the first wrong rows, a line each.

    `near_duplicates`, `hits` and `contaminated_rows` are None where nobody looked. `hits`: the first of `num_hits`.
    """

    title: str
    statistics: Statistics
    not_used: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    wrong: Sequence[str] = ()
    near_duplicates: int | None = None
    hits: Sequence[Hit] | None = None
    num_hits: int = 0
    contaminated_rows: int | None = None
    notices: Sequence[str] = ()


def write_page(data: DataPage, path: Path) -> None:
    """Write the page at once or not at all. Lone surrogates become question marks."""
    write_atomically(path, page_html(data).encode("utf-8", errors="replace"))


def page_html(data: DataPage) -> str:
    """The whole page."""
    statistics = data.statistics
    return _template().render(
        data=data,
        statistics=statistics,
        tiles=_tiles(data),
        charts=[
            _chart("Turns of a dialogue", "turns", statistics.turns),
            _chart("Characters of a row", "characters", statistics.characters),
            _chart("Characters of an answer", "characters", statistics.messages.get("assistant", Distribution())),
            *([_chart("Tokens of an example", "tokens", statistics.tokens)] if statistics.tokens.total else []),
        ],
        roles=_shares({role: lengths.number for role, lengths in statistics.messages.items()}),
        languages=_shares(dict(statistics.languages.most_common(_SHOWN_LANGUAGES))),
        not_used=sorted(data.not_used.items(), key=lambda reason: -reason[1]),
        hits=(data.hits or ())[:_SHOWN_HITS],
        wrong=data.wrong[:_SHOWN_ROWS],
    )


def _tiles(data: DataPage) -> list[tuple[str, str, str]]:
    """The numbers to look at first: (label, value, what stands below it)."""
    statistics, rows = data.statistics, data.statistics.rows.total()
    kinds = ", ".join(f"{count(number)} {kind}" for kind, number in statistics.kinds.items())
    what = "tokens" if statistics.tokens.total else "characters"
    tiles = [("rows", count(rows), kinds)]
    if statistics.tokens.total:
        tiles.append(("tokens", count(statistics.tokens.total), f"{statistics.tokens.mean:,.0f} an example"))
    tiles.append(("characters", count(statistics.characters.total), f"{statistics.characters.mean:,.0f} a row"))
    tiles.append(("learnt", f"{statistics.supervised_share:.0%}", f"of all {what}"))
    if data.near_duplicates is not None:
        share = data.near_duplicates / rows if rows else 0.0
        tiles.append(("near-duplicates", f"{share:.1%}", f"{count(data.near_duplicates)} rows"))
    if data.contaminated_rows is not None:
        tiles.append(("in evaluation sets", count(data.contaminated_rows), f"rows share {WORDS} words in a row"))
    tiles.append(("not used", count(sum(data.not_used.values())), "rows, or turns of them"))
    return tiles


def _chart(title: str, unit: str, numbers: Distribution) -> tuple[str, Markup, str]:
    """A title, the histogram up to 99 % of the numbers, and a line below it."""
    if not numbers.counts:
        return title, histogram([], title=title, x_label=unit), ""
    line = f"median {numbers.quantile(0.5):,}, 95 % up to {numbers.quantile(0.95):,}, largest {numbers.largest:,} (in the last bar)"
    return title, histogram(numbers.bins(), title=title, x_label=unit), line


def _shares(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """(name, count, share), the most first."""
    whole = sum(counts.values()) or 1
    return sorted(((name, number, number / whole) for name, number in counts.items()), key=lambda share: (-share[1], share[0]))


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = count
    return environment.get_template("page.html.jinja")
