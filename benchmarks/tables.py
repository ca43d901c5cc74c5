"""Tables of docs/benchmarks.md, and what several of them say."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """
    >>> print(table(["a", "b"], [[1, 2]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def others(run: dict[str, Any]) -> str:
    """The share of the machine that others took during a measurement."""
    return "?" if run["others"] is None else f"{run['others']:.0%}"
