"""Sections of docs/benchmarks.md that are measured alone, too: where and when they were, what was kept of an earlier try, and their place.

In: what a benchmark measured. Out: text, or the page with that text in it. What is measured is unknown here.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from jinja2 import Environment, StrictUndefined

from benchmarks import machine

_BEFORE = "On a GPU"  # where a section is put that the page lacks


def provenance(packages: Sequence[str]) -> dict[str, Any]:
    """Machine, versions and the time of now, to stand beside figures."""
    ended = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    return {"machine": machine.describe(), "versions": {name: version(name) for name in packages}, "ended": ended}


def where_and_when(found: Mapping[str, Any]) -> str:
    """A sentence of what `provenance` gave."""
    on, versions = found["machine"], ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"Measured until {found['ended']} UTC on {on['cores']} cores of {on['processor']} with {on['memory_gib']} GiB "
        f"({on['system']}, Python {on['python']}), with {versions}."
    )


def goals(rows: Sequence[tuple[str, str, str, bool]]) -> str:
    """A table of (what, goal, measured, whether it is met)."""
    return table(["", "goal", "measured", ""], [[*row, "met" if met else "**missed**"] for *row, met in rows])


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """A file of this folder with the values in it."""
    words = Path(__file__).with_name(template).read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True).from_string(words).render(values)


def with_section(page: str, section: str) -> str:
    """The page with this section in place of the one of the same title, or before the one about GPUs.

    >>> with_section("# A\\n\\n## B\\n\\nold\\n\\n## On a GPU: no\\n", "## B\\n\\nnew\\n")
    '# A\\n\\n## B\\n\\nnew\\n\\n## On a GPU: no\\n'
    """
    title = section.partition("\n")[0]
    text = section.rstrip() + "\n\n"
    there = re.compile(rf"(?ms)^{re.escape(title)}\n.*?(?=^## )")
    return there.sub(lambda _: text, page) if there.search(page) else page.replace(f"## {_BEFORE}", f"{text}## {_BEFORE}", 1)


class Kept:
    """Figures by what was measured, in a folder if there is one: after an end in the middle nothing is measured twice."""

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        """`settings`: all that figures depend on; those of others stay where they are, and aren't taken."""
        self._folder = folder
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of `name`: those that are kept, or new ones."""
        path = None if self._folder is None else self._folder / f"{name}-{self._settings}.json"
        if path is not None and path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        found = measure()
        if path is not None:
            draft = path.with_suffix(".tmp")
            draft.write_text(json.dumps(found), encoding="utf-8")
            draft.replace(path)
        return found
