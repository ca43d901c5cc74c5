"""The section "Checkpoints" of docs/benchmarks.md as a function of what was measured. Its words are in checkpoints.md.j2."""

import math
from typing import Any

from benchmarks.checkpoints_bytes import WORLDS
from benchmarks.sections import goals, rendered, where_and_when
from benchmarks.tables import others, table

LEAST_BLOCKED, LEAST_ADDED = 20.0, 3.0  # times shorter than DeepSpeed's and the earlier build's; times less than the earlier build adds
MOST_BLOCKED_SHARE, MOST_ADDED_SHARE = 0.01, 0.05  # of the interval for a mean time between failures of four hours
BETWEEN_FAILURES_SECONDS = 4 * 3600.0
LEAST_THROUGHPUT = 0.9
MOST_OTHER_SIZE, LEAST_CONVERTED = 1.5, 5.0
MOST_READ = 1.05
MOST_SNAPSHOT = 1.1
MOST_RESTART_SECONDS = 15.0

_SIDES = {
    "none": "no checkpoint",
    "ours": "ours",
    "before": "ours before",
    "deepspeed": "DeepSpeed `save_checkpoint`, boto3",
    "dcp": "PyTorch `async_save`, boto3",
}
_MODELS = {"small": "Llama, 34 M", "smollm2": "SmolLM2-135M"}


def checkpoints_section(found: dict[str, Any]) -> str:
    """`found` is what `python -m benchmarks.checkpoints` prints."""
    models = found["models"]
    return rendered(
        "checkpoints.md.j2",
        {
            "where": where_and_when(found),
            "before": found["before"],
            "repeats": found["repeats"],
            "rate": f"{found['link'] / 1e6:.0f}",
            "goals": goals([row for model, its in models.items() for row in _goals(_MODELS[model], its)] + _throughput_goals(found)),
            "sides": table(
                ["", "blocked, seconds", "all runs", "added, seconds", "added, CPU s", "a step, seconds", "others"],
                [_side(_MODELS[model], name, its["train"]) for model, its in models.items() for name in _SIDES],
            ),
            "throughput": table(
                ["", "ours, MB/s", "plain boto3, MB/s", "ours / plain", "ours, CPU s", "plain, CPU s", "others"],
                [_throughput(name, its) for name, its in found["throughput"].items()],
            ),
            "restores": table(
                ["", "seconds", "of them conversion", "CPU s", "others"],
                [_restore(_MODELS[model], name, run) for model, its in models.items() for name, run in its["restore"].items()],
            ),
            "restarts": table(
                ["", *next(iter(models.values()))["restart"]["the slow link"]["ends"], "restore's share", "others"],
                [_restart(_MODELS[model], name, run) for model, its in models.items() for name, run in its["restart"].items()],
            ),
            "bytes": table(
                ["", "written by", "export", *(f"restored by {world}" for world in WORLDS)],
                [_bytes(_MODELS[model], world, its["bytes"]) for model, its in models.items() for world in WORLDS],
            ),
        },
    )


def _goals(model: str, found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    train, restore = found["train"], found["restore"]
    ours = train["ours"]
    # What is less than a step can't be told from chance.
    added = max(_added(train, "ours"), train["none"]["step_seconds"])
    rows = [
        _at_least(f"{model}: blocked by DeepSpeed / ours", train["deepspeed"]["blocked_seconds"] / ours["blocked_seconds"], LEAST_BLOCKED),
        _at_least(f"{model}: blocked before / ours", train["before"]["blocked_seconds"] / ours["blocked_seconds"], LEAST_BLOCKED),
        _at_least(f"{model}: added before / ours", _added(train, "before") / added, LEAST_ADDED),
    ]
    interval = _interval(ours)
    for what, seconds, most in (
        ("blocked", ours["blocked_seconds"], MOST_BLOCKED_SHARE),
        ("added", max(0.0, _added(train, "ours")), MOST_ADDED_SHARE),
    ):
        share = seconds / interval
        rows.append((f"{model}: {what}, of an interval of {interval:.0f} s", f"at most {most:.0%}", f"{share:.1%}", share <= most))
    same = restore["s3-2"]["seconds"]
    for world in (1, 3):
        ratio = restore[f"s3-{world}"]["seconds"] / same
        rows.append((f"{model}: restore 2 to {world} / 2 to 2", f"at most {MOST_OTHER_SIZE:g}x", f"{ratio:.2f}x", ratio <= MOST_OTHER_SIZE))
    converted = restore["folder-deepspeed-1"]["seconds"] / restore["folder-ours-1"]["seconds"]
    rows.append(_at_least(f"{model}: `ds_to_universal` and load, 2 to 1 / ours", converted, LEAST_CONVERTED))
    rows += _bytes_goals(model, found)
    snapshot = ours["snapshot_bytes"] / ours["part_bytes"]
    rows.append(
        (f"{model}: memory of the copy / the rank's part", f"at most {MOST_SNAPSHOT:g}x", f"{snapshot:.2f}x", snapshot <= MOST_SNAPSHOT)
    )
    for name, run in found["restart"].items():
        seconds = run["ends"]["first step"]
        what = f"{model}: new processes to their first step, state by {name}"
        rows.append((what, f"at most {MOST_RESTART_SECONDS:g} s", f"{seconds:.1f} s", seconds <= MOST_RESTART_SECONDS))
    return rows


def _bytes_goals(model: str, found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    restores = [sizes for one in _by_world(found) for sizes in one["restore"].values()]
    most = {
        "export": max(one["export"] for one in _by_world(found)),
        "restore by one node": max(sizes["shared"] for sizes in restores),
        "by two nodes": max(sizes["two_nodes"] for sizes in restores),
        "by ranks on nodes of their own": max(sizes["alone"] for sizes in restores),
    }
    return [
        (f"{model}: bytes read / needed, {what}", f"at most {MOST_READ:g}x", f"{ratio:.2f}x", ratio <= MOST_READ)
        for what, ratio in most.items()
    ]


def _at_least(what: str, ratio: float, least: float) -> tuple[str, str, str, bool]:
    return what, f"at least {least:g}x", f"{ratio:.1f}x", ratio >= least


def _throughput_goals(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    rows = []
    for name, its in found["throughput"].items():
        ratio = min(its["plain"]["seconds"]) / min(its["ours"]["seconds"])
        rows.append((f"save / plain boto3, {name}", f"at least {LEAST_THROUGHPUT:.0%}", f"{ratio:.0%}", ratio >= LEAST_THROUGHPUT))
    return rows


def _by_world(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found["bytes"][str(world)] for world in WORLDS]


def _interval(ours: dict[str, Any]) -> float:
    from finetune_trainer.training.loop import automatic_interval

    return automatic_interval(ours["blocked_seconds"], ours["write_seconds"], BETWEEN_FAILURES_SECONDS)


def _added(train: dict[str, Any], side: str, what: str = "seconds") -> float:
    """What a run with one checkpoint takes longer than one with none."""
    return float(train[side][what] - train["none"][what])


def _side(model: str, name: str, train: dict[str, Any]) -> list[str]:
    run = train[name]
    blocked = [f"{run['blocked_seconds']:.2f}", ", ".join(f"{seconds:.2f}" for seconds in run["all_blocked_seconds"])]
    added = [f"{_added(train, name):.1f}", f"{_added(train, name, 'processor_seconds'):.1f}"]
    if name == "none":
        blocked, added = ["", ""], [f"(a run: {run['seconds']:.1f})", f"({run['processor_seconds']:.1f})"]
    return [f"{model}, {_SIDES[name]}", *blocked, *added, f"{run['step_seconds']:.2f}", others(run)]


def _throughput(name: str, its: dict[str, Any]) -> list[str]:
    size = its["bytes"] / 1e6
    ours, plain = its["ours"], its["plain"]
    best = [min(side["seconds"]) for side in (ours, plain)]
    spent = [f"{min(side['processor_seconds']):.2f}" for side in (ours, plain)]
    return [name, *(f"{size / seconds:.0f}" for seconds in best), f"{best[1] / best[0]:.2f}", *spent, others(its)]


_RESTORES = {
    "s3-2": "2 to 2, from the server",
    "s3-1": "2 to 1, from the server",
    "s3-3": "2 to 3, from the server",
    "folder-ours-1": "2 to 1, from a folder",
    "folder-deepspeed-1": "2 to 1, from a folder, DeepSpeed",
}


def _restore(model: str, name: str, run: dict[str, Any]) -> list[str]:
    conversion = f"{run['conversion_seconds']:.1f}" if "conversion_seconds" in run else ""
    return [f"{model}, {_RESTORES[name]}", f"{run['seconds']:.1f}", conversion, f"{run['processor_seconds']:.1f}", others(run)]


def _restart(model: str, name: str, run: dict[str, Any]) -> list[str]:
    ends = list(run["ends"].values())
    share = restore_share(run["ends"])
    return [f"{model}, state by {name}", *(f"{seconds:.1f}" for seconds in ends), f"{share:.0%}", others(run)]


def restore_share(ends: dict[str, float]) -> float:
    """Of the time to the end of the first step."""
    share = (ends["restore"] - ends["model and engine"]) / ends["first step"]
    assert math.isfinite(share)
    return share


def _bytes(model: str, world: int, found: dict[str, Any]) -> list[str]:
    its = found[str(world)]
    cells = [f"{sizes['shared']:.2f} ({sizes['alone']:.1f})" for sizes in its["restore"].values()]
    return [model, str(world), f"{its['export']:.2f}", *cells]
