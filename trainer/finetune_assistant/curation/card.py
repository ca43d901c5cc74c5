"""README.md of a published data set: what is in it, where it comes from, how it was chosen, and what the Hub reads of it.

In: counts, the choices as they were asked for, and the licence that the publisher states. Out: text with YAML front matter, by which
`datasets` finds the file. Of a local path only the last part is named: nothing says on which machine the rows lay.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jinja2

from finetune_assistant.curation.statistics import Statistics

# How `publication` knows a folder or repository of ours.
MARK: Final = "<!-- finetune-data: written by `finetune data publish`, which replaces this file and the data -->"
SPLIT: Final = "train"
DATA_FILE: Final = f"data/{SPLIT}.parquet"
_LANGUAGES: Final = 20
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What the card says. `place`: the repository or folder from which `datasets` loads the rows; `choices`: a phrase for each filter."""

    title: str
    place: str
    licence: str
    rows: int
    statistics: Statistics
    choices: Sequence[str] = ()
    not_used: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""  # what a row is; absent: what the statistics say
    split: str = SPLIT


def data_card(card: DataCard) -> str:
    """The text of README.md."""
    statistics = card.statistics
    languages = [f"{name} {number:,}" for name, number in statistics.languages.most_common(_LANGUAGES)]
    text = _template().render(
        card=card,
        statistics=statistics,
        mark=MARK,
        matter=_front_matter(card),
        kind=card.kind or " and ".join(statistics.kinds),
        languages=", ".join(languages),
        sources=list(_public_names(statistics.rows).items()),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _front_matter(card: DataCard) -> str:
    """What the Hub and `datasets` read."""
    import yaml

    size = next((name for most, name in _SIZES if card.rows < most), "n>10M")
    codes = sorted(code for code in card.statistics.languages if len(code) in (2, 3))
    matter: dict[str, Any] = {
        "license": card.licence,
        **({"language": codes} if codes else {}),
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["finetune-operator"],
        "configs": [{"config_name": "default", "data_files": [{"split": card.split, "path": DATA_FILE}]}],
    }
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def _public_names(rows: Mapping[str, int]) -> Counter[str]:
    """Rows by source: Hub ids as they are, the last part of paths and addresses.

    >>> dict(_public_names({"org/chats": 2, "/home/ann/rows.jsonl": 1, "s3://bucket/a/rows.jsonl": 3}))
    {'org/chats': 2, 'rows.jsonl': 4}
    """
    found: Counter[str] = Counter()
    for name, number in rows.items():
        is_hub = name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()
        found[name if is_hub else PurePosixPath(name).name] += number
    return found


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # Markdown, not HTML: a cell must only not end its row.
    environment = jinja2.Environment(
        loader=loader, autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_in_a_cell
    )
    return environment.get_template("card.md.jinja")


def _in_a_cell(value: Any) -> Any:
    return value.replace("|", "\\|") if isinstance(value, str) and "\n" not in value else value
