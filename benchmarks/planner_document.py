"""The section of docs/benchmarks.md about the plan, from what benchmarks/planner.py prints. Its words are in planner.md.j2."""

from typing import Any

from benchmarks.sections import goals, rendered, where_and_when
from benchmarks.tables import others, table

MOST_MEMORY_ERROR = 0.10
MOST_TIME_ERROR = 0.20
MOST_PUBLISHED_ERROR = 0.15
FEWEST_PUBLISHED = 4


def planner_section(found: dict[str, Any]) -> str:
    """The section."""
    first, foretold = found["calibrated_on"], {name: one for name, one in found["configurations"].items() if name != found["calibrated_on"]}
    memory = max(abs(one["memory_error"]) for one in foretold.values())
    time, processor = (max(abs(one[error]) for one in foretold.values()) for error in ("step_error", "cpu_error"))
    published = found["published"]
    within = published["within_15"]
    return rendered(
        "planner.md.j2",
        {
            "where": where_and_when(found),
            "rows": found["rows"],
            "length": f"{found['length']:,}",
            "steps": found["steps"],
            "step_factor": f"{found['factors']['step']:.2f}",
            "beside": f"{found['factors']['beside_bytes'] / 2**20:,.0f}",
            "goals": goals(
                [
                    ("memory of the others, farthest off", f"within {MOST_MEMORY_ERROR:.0%}", f"{memory:.0%}", memory <= MOST_MEMORY_ERROR),
                    ("a step of the others, farthest off", f"within {MOST_TIME_ERROR:.0%}", f"{time:.0%}", time <= MOST_TIME_ERROR),
                    ("the same by CPU s", f"within {MOST_TIME_ERROR:.0%}", f"{processor:.0%}", processor <= MOST_TIME_ERROR),
                    (
                        f"published runs within {MOST_PUBLISHED_ERROR:.0%}",
                        f"at least {FEWEST_PUBLISHED}",
                        f"{within} of {len(published['foretold'])}",
                        within >= FEWEST_PUBLISHED,
                    ),
                ]
            ),
            "configurations": _configurations(first, found["configurations"]),
            "published": _published(published),
        },
    )


def _configurations(first: str, found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{one['planned_step_seconds']:.2f}",
            f"{one['step_seconds']:.2f}",
            "calibrates" if name == first else f"{one['step_error']:+.0%}",
            f"{one['cpu_seconds']:.2f}",
            "" if name == first else f"{one['cpu_error']:+.0%}",
            f"{one['planned_above_bytes'] / 2**20:,.0f}",
            f"{one['above_bytes'] / 2**20:,.0f}",
            "calibrates" if name == first else f"{one['memory_error']:+.0%}",
            others(one),
        ]
        for name, one in found.items()
    ]
    header = ["", "step planned, s", "seen", "off by", "CPU s", "off by", "memory planned, MiB", "seen", "off by", "others"]
    return table(header, rows)


def _published(found: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [
            one["model"].upper(),
            one["card"].upper(),
            one["gpus"],
            one["micro_batch"],
            "yes" if one["recomputed"] else "no",
            f"{one['seen']:,}",
            f"{one['planned']:,.0f}",
            f"{one['error']:+.0%}",
        ]
        for one in found["foretold"]
    ]
    header = ["model", "card", "GPUs", "rows of a micro-batch", "recomputed", "tokens/s a GPU, published", "foretold", "off by"]
    recipe = [
        [
            nodes,
            " to ".join(f"{seconds / 60:.0f}" for seconds in one["seconds"]),
            " to ".join(f"{100 * share:.0f}" for share in reversed(one["mfu"])),
            " to ".join(f"{hours:.1f}" for hours in one["gpu_hours"]),
        ]
        for nodes, one in found["recipe"]["nodes"].items()
    ]
    fitted = " and ".join(f"{one['model'].upper()} on {one['gpus']} x {one['card'].upper()}" for one in found["fitted_on"])
    return {
        "count": len(found["foretold"]) + len(found["fitted_on"]),
        "others": len(found["foretold"]),
        "fitted_on": fitted,
        "within_10": found["within_10"],
        "within_15": found["within_15"],
        "median": f"{found['median_error']:.0%}",
        "table": table(header, rows),
        "recipe": table(["nodes", "minutes in steps", "MFU, %", "GPU hours, start and checkpoint included"], recipe),
        "factor": f"{found['recipe']['factor']:.2f}",
    }
