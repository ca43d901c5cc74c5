"""The operator's part of docs/benchmarks.md as a function of what was measured. Its words are in operator.md.j2."""

import itertools
import re
from pathlib import Path
from typing import Any

from benchmarks.tables import others, table
from jinja2 import Environment, StrictUndefined

MOST_PREPARATION_SECONDS = 60.0
MOST_RAYJOB_SECONDS = 60.0
MOST_IDLE_CPU = 0.02
MOST_MEMORY_MIB = 200
MOST_REACTION_MS = {"p50": 300.0, "p99": 1500.0}
MOST_CALLS = {"preparations": 2.2, "rayjobs": 4.0}
# Of the time of Kubeflow Trainer with raised limits.
MOST_OF_RAISED = 0.7


def with_operator(page: str, found: dict[str, Any]) -> str:
    """The page with another section about the operator, which says itself when it was measured."""
    return re.sub(r"(?ms)^## Operator\n.*?(?=^## )", lambda _: operator_section(found).rstrip() + "\n\n", page)


def operator_section(found: dict[str, Any]) -> str:
    """`found` is what `python -m benchmarks.operator` prints."""
    words = Path(__file__).with_name("operator.md.j2").read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True).from_string(words).render(_values(found))


def _values(found: dict[str, Any]) -> dict[str, Any]:
    life = found["life"]
    urgent = {"ours": found["urgent"]} | ({found["former"]["what"]: found["former"]["urgent"]} if "former" in found else {})
    return {
        "operator_ended": found["ended"],
        "operator_jobs": f"{found['jobs']:,}",
        "operator_goals": _goals(found),
        "operator_sides": _sides(found),
        "operator_cores": found["cores"],
        "operator_without_ours": f"{_cluster_seconds(life['preparations']) / found['cores']:.1f}",
        "operator_rayjobs": _table_of_rayjobs(found["jobs"], life),
        "operator_growth": _growth(found["growth"]),
        "operator_marginal": _marginal(found["growth"]),
        "operator_urgent": _urgent(urgent),
        "operator_events": f"{life['events'] / found['jobs']:.2f}",
        "operator_limits": found["limits"],
        "operator_idle": _idle(found["many"]["idle"]) if "many" in found else "",
    }


def _goals(found: dict[str, Any]) -> str:
    life, count = found["life"], f"{found['jobs']:,}"
    ours, rayjobs, peer = life["preparations"]["seconds"], life["rayjobs"]["seconds_afterwards"], found["trainer"]["seconds"]
    raised = MOST_OF_RAISED * found["trainer_raised"]["seconds"]
    from_first_write = life["rayjobs"]["seconds"]
    reactions = found["urgent"]["reactions_ms"]
    rows = [
        (f"{count} jobs to preparation Jobs", f"at most {MOST_PREPARATION_SECONDS:g} s", f"{ours:.1f} s", ours <= MOST_PREPARATION_SECONDS),
        ("the same, beside Trainer's defaults", f"at most {peer:.1f} s", f"{ours:.1f} s", ours <= peer),
        (f"the same, {MOST_OF_RAISED:g} of Trainer with raised limits", f"at most {raised:.1f} s", f"{ours:.1f} s", ours <= raised),
        (
            f"from the last preparation's end to {count} RayJobs",
            f"at most {MOST_RAYJOB_SECONDS:g} s",
            f"{rayjobs:.1f} s",
            rayjobs <= MOST_RAYJOB_SECONDS,
        ),
        (
            "the same, from the first preparation's end",
            f"at most {MOST_RAYJOB_SECONDS:g} s",
            f"{from_first_write:.1f} s",
            from_first_write <= MOST_RAYJOB_SECONDS,
        ),
        *(
            (f"a {kind} to its status, {part}", f"at most {most:g} ms", f"{reactions[kind][part]:.0f} ms", reactions[kind][part] <= most)
            for kind in ("failure", "suspend")
            for part, most in MOST_REACTION_MS.items()
        ),
        *(_calls(found, part, most) for part, most in MOST_CALLS.items()),
    ]
    if "many" in found:
        idle = found["many"]["idle"]
        rows += [
            ("idle: writes", "none", f"{idle['writes']}", idle["writes"] == 0),
            ("idle: processor", f"below {MOST_IDLE_CPU:.0%} of a core", f"{idle['cpu_share']:.2%}", idle["cpu_share"] < MOST_IDLE_CPU),
            ("idle: memory", f"below {MOST_MEMORY_MIB} MiB", f"{idle['memory_mib']} MiB", idle["memory_mib"] < MOST_MEMORY_MIB),
        ]
    return table(["", "goal", "measured", ""], [(*row, "met" if met else "**missed**") for *row, met in rows])


def _calls(found: dict[str, Any], part: str, most: float) -> tuple[str, str, str, bool]:
    """Calls a job, of which one at most is an event."""
    calls = round(sum(found["life"][part]["calls"].values()) / found["jobs"] - 1, 2)
    what = {"preparations": "to its preparation Job", "rayjobs": "from there to its RayJob"}[part]
    return f"calls a job {what}, beside one event", f"at most {most:g}", f"{calls:.2f}", calls <= most


def _sides(found: dict[str, Any]) -> str:
    sides = {
        "ours": {**found["life"]["preparations"], "others": found["life"]["others"]},
        "Kubeflow Trainer": found["trainer"],
        "Kubeflow Trainer, raised limits": found["trainer_raised"],
    }
    header = ["", "seconds", "CPU s", "calls a job", "CPU ms a call", "MiB", "the cluster's CPU s", "others"]
    rows = [[name, *_spent(found["jobs"], side), f"{_cluster_seconds(side):.1f}", others(side)] for name, side in sides.items()]
    return table(header, rows)


def _cluster_seconds(run: dict[str, Any]) -> float:
    """What etcd, API server and controller manager used of processors until the last object was there."""
    return float(sum(run["cluster_cpu_seconds"].values()))


def _table_of_rayjobs(count: int, life: dict[str, Any]) -> str:
    seconds, *spent = _spent(count, life["rayjobs"])
    header = ["", "seconds", "after the last preparation's end", "CPU s", "calls a job", "CPU ms a call", "MiB"]
    return table(header, [["prepared to RayJobs", seconds, f"{life['rayjobs']['seconds_afterwards']:.1f}", *spent]])


def _spent(count: int, run: dict[str, Any]) -> list[str]:
    calls = sum(run["calls"].values())
    return [
        f"{run['seconds']:.1f}",
        f"{run['cpu_seconds']:.1f}",
        f"{calls / count:.2f}",
        f"{1000 * run['cpu_seconds'] / calls:.1f}",
        f"{run['peak_memory_mib']}",
    ]


def _marginal(runs: list[dict[str, Any]]) -> list[str]:
    """What each further job takes between two of the numbers: linear growth is the same everywhere."""
    ordered = sorted(runs, key=lambda run: int(run["jobs"]))
    return [
        f"from {one['jobs']:,} to {more['jobs']:,} jobs {1000 * (more['seconds'] - one['seconds']) / (more['jobs'] - one['jobs']):.1f} ms "
        f"({1000 * (more['cpu_seconds'] - one['cpu_seconds']) / (more['jobs'] - one['jobs']):.1f} ms of processor time)"
        for one, more in itertools.pairwise(ordered)
    ]


def _growth(runs: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{run['jobs']:,}",
            f"{run['seconds']:.1f}",
            f"{1000 * run['seconds'] / run['jobs']:.0f}",
            f"{run['cpu_seconds']:.1f}",
            f"{1000 * run['cpu_seconds'] / run['jobs']:.0f}",
            f"{run['peak_memory_mib']}",
        ]
        for run in sorted(runs, key=lambda run: int(run["jobs"]))
    ]
    return table(["jobs", "seconds", "ms a job", "CPU s", "CPU ms a job", "MiB"], rows)


def _urgent(runs: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            *(f"{run['reactions_ms'][kind][part]:,.0f}" for kind in ("failure", "suspend", "write") for part in ("p50", "p99")),
            f"{run['drivers']['reports'] / run['drivers']['seconds']:.0f}",
            f"{run['status_writes'] / run['seconds']:.0f}",
            f"{run['cpu_share']:.0%}",
            f"{run['api_server_cpu_share']:.0%}",
            others(run),
        ]
        for name, run in runs.items()
    ]
    header = ["", "failure: median ms", "p99", "suspend: median ms", "p99", "the write itself: median ms", "p99"]
    return table([*header, "reports a second", "status writes a second", "of a core", "API server's cores", "others"], rows)


def _idle(idle: dict[str, Any]) -> str:
    cells = [
        f"{idle['finished']:,}",
        f"{idle['training']:,}",
        f"{idle['writes']} in {idle['seconds']:.0f} s",
        f"{idle['cpu_share']:.2%}",
        f"{idle['memory_mib']}",
        f"{idle['peak_memory_mib']}",
    ]
    return table(["finished jobs", "that train", "writes", "of a core", "MiB", "MiB at most"], [cells])
