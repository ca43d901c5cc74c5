"""The section of docs/benchmarks.md about start-up, from what benchmarks/startup.py prints. Its words are in startup.md.j2."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.sections import rendered, where_and_when
from benchmarks.tables import table

# Of the earlier build's wall time.
FLOOR, GOAL = 0.6, 0.4


def startup_section(found: dict[str, Any]) -> str:
    """The section."""
    wall, processor = ([(before[n], now[n]) for before, now in found["pairs"]] for n in (0, 1))
    ratio = statistics.median(now / before for before, now in wall)
    verdict = "goal met" if ratio <= GOAL else "floor met" if ratio <= FLOOR else "**missed**"
    return rendered(
        "startup.md.j2",
        {
            "where": where_and_when(found),
            "commit": found["commit"],
            "pairs": len(wall),
            "goals": table(
                ["", "floor", "goal", "measured", ""],
                [["wall time, now / earlier", f"at most {FLOOR:g}", f"at most {GOAL:g}", f"{ratio:.2f}", verdict]],
            ),
            "table": table(
                ["seconds", f"at {found['commit']}", "now", "now / earlier", "lowest to highest"],
                [_row("wall", wall), _row("processor", processor)],
            ),
        },
    )


def _row(what: str, pairs: Sequence[tuple[float, float]]) -> list[str]:
    ratios = [now / before for before, now in pairs]
    medians = [f"{statistics.median(side):.1f}" for side in zip(*pairs, strict=True)]
    return [what, *medians, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
