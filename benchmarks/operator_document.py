"""The operator's part of docs/benchmarks.md: its values as a function of what was measured. Its words are in document.md.j2."""

import itertools
from typing import Any

from benchmarks.tables import others, table

MOST_PREPARATION_SECONDS = 60.0
MOST_RAYJOB_SECONDS = 60.0
MOST_IDLE_CPU = 0.02
MOST_MEMORY_MIB = 200
MOST_REACTION_MS = 100.0


def operator_section(found: dict[str, Any]) -> dict[str, Any]:
    """`found` is what `python -m benchmarks.operator` prints."""
    life, calm, busy = found["life"], found["life"]["calm"], found["life"]["busy"]
    return {
        "operator_jobs": f"{found['jobs']:,}",
        "operator_goals": _goals(found),
        "operator_sides": _sides(found),
        "operator_rayjobs": _table_of_rayjobs(found["jobs"], life),
        "operator_growth": _growth(found["growth"]),
        "operator_marginal": _marginal(found["growth"]),
        "operator_reports": _reports({"one after another": calm, "every job every 10 s": busy}),
        "operator_limits": found["limits"],
        "operator_idle": _idle(found["many"]["idle"]) if "many" in found else "",
    }


def _goals(found: dict[str, Any]) -> str:
    life, count = found["life"], f"{found['jobs']:,}"
    ours, rayjobs, peer = life["preparations"]["seconds"], life["rayjobs"]["seconds_afterwards"], found["trainer"]["seconds"]
    from_first_write = life["rayjobs"]["seconds"]
    busy, reaction = life["busy"], life["calm"]["reaction_ms"]["p50"]
    written = busy["status_writes"] / busy["reports"]
    rows = [
        (f"{count} jobs to preparation Jobs", f"at most {MOST_PREPARATION_SECONDS:g} s", f"{ours:.1f} s", ours <= MOST_PREPARATION_SECONDS),
        ("the same, beside Trainer's defaults", f"at most {peer:.1f} s", f"{ours:.1f} s", ours <= peer),
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
        ("a report to its status, median", f"below {MOST_REACTION_MS:g} ms", f"{reaction:.0f} ms", reaction < MOST_REACTION_MS),
        ("status writes per report", "at most 1", f"{written:.3f}", written <= 1),
    ]
    if "many" in found:
        idle = found["many"]["idle"]
        rows += [
            ("idle: writes", "none", f"{idle['writes']}", idle["writes"] == 0),
            ("idle: processor", f"below {MOST_IDLE_CPU:.0%} of a core", f"{idle['cpu_share']:.2%}", idle["cpu_share"] < MOST_IDLE_CPU),
            ("idle: memory", f"below {MOST_MEMORY_MIB} MiB", f"{idle['memory_mib']} MiB", idle["memory_mib"] < MOST_MEMORY_MIB),
        ]
    return table(["", "goal", "measured", ""], [(*row, "met" if met else "**missed**") for *row, met in rows])


def _sides(found: dict[str, Any]) -> str:
    sides = {
        "ours": {**found["life"]["preparations"], "others": found["life"]["others"]},
        "Kubeflow Trainer": found["trainer"],
        "Kubeflow Trainer, raised limits": found["trainer_raised"],
    }
    header = ["", "seconds", "CPU s", "calls a job", "CPU ms a call", "MiB", "others"]
    return table(header, [[name, *_spent(found["jobs"], side), others(side)] for name, side in sides.items()])


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


def _reports(runs: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            f"{run['reports'] / run['seconds']:.0f}",
            f"{run['status_writes'] / run['seconds']:.0f}",
            f"{run['cpu_share']:.0%}",
            *(f"{run['reaction_ms'][part]:.0f}" for part in ("p50", "p99", "most")),
        ]
        for name, run in runs.items()
    ]
    return table(["reports", "a second", "status writes a second", "of a core", "median ms", "p99 ms", "most ms"], rows)


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
