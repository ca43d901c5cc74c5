"""`finetune plan --explore`: layouts side by side, and the fastest and the cheapest as YAML to paste below `spec`."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from finetune_api.explore import Exploration, Layout, Refused
    from finetune_api.finetunejob import FineTuneJob


def show(job: "FineTuneJob", found: "Exploration", price: float | None, notes: Sequence[str], *, as_json: bool) -> None:
    """Print the ranking."""
    if as_json:
        print(json.dumps(_object(job, found, price), ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    accelerator = next((layout.plan.accelerator or layout.plan.device for layout in found.fitting), "none fits")
    console.print(Text.assemble(("Layouts of ", "bold"), (job.metadata.name, "bold cyan"), f"  {found.rows} rows a step, {accelerator}"))
    if found.fitting:
        console.print(Text("What fits, the fastest layout of each method and number of nodes", style="italic"))
        console.print(_ranking(found.fitting, price))
    if found.refused:
        console.print(_refusals(found.refused))
    for title, layout in _picks(found.fitting):
        console.print(Text(title, style="bold"))
        console.print(_yaml(layout.as_spec(found.rows)), end="", soft_wrap=True)
    for note in (*_notes(found), *notes):
        console.print(Text.assemble(("note  ", "yellow"), note))


def _picks(fitting: "Sequence[Layout]") -> "Iterable[tuple[str, Layout]]":
    """The fastest, and the one of the fewest GPU hours, of each method; where no time is known, what fits."""
    methods = list(dict.fromkeys(layout.settings.method for layout in fitting))
    for method in methods:
        alike = [layout for layout in fitting if layout.settings.method == method]
        fastest, cheapest = alike[0], min(alike, key=lambda layout: layout.plan.gpu_hours or 0.0)
        name = f" with method: {method}" if len(methods) > 1 else ""
        if fastest.plan.timing is None:
            yield f"Fits, with the largest micro-batch{name}:", fastest
        elif fastest is cheapest:
            yield f"The fastest, and of the fewest GPU hours{name}:", fastest
        else:
            yield f"The fastest{name}:", fastest
            yield f"Of the fewest GPU hours{name}:", cheapest


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    return "\n".join(f"  {line}" for line in yaml.safe_dump(settings, sort_keys=False).splitlines()) + "\n"


def _ranking(fitting: "Sequence[Layout]", price: float | None) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("method", "sharding"):
        table.add_column(name, no_wrap=True)
    for name in ("nodes", "rows", "again", "GiB", "time", "MFU %", "GPU h", *(["cost"] if price is not None else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for layout in fitting:
        chosen = layout.settings
        sharding = chosen.sharding + {"nothing": "", "optimizer": " +o", "optimizer and weights": " +ow"}[chosen.offload]
        settings = [chosen.method, sharding, str(chosen.nodes), str(chosen.micro_batch_size), _again(layout.plan.recompute_every)]
        table.add_row(*settings, _memory(layout), *_costs(layout, price))
    return table


def _again(every: int | None) -> str:
    """
    >>> _again(0), _again(1), _again(3)
    ('no', 'all', '1 in 3')
    """
    return "no" if not every else "all" if every == 1 else f"1 in {every}"


def _memory(layout: "Layout") -> str:
    needed = layout.plan.memory
    return "?" if needed is None else ("!" if layout.is_tight else "") + f"{needed.total_bytes / 2**30:.1f}"


def _costs(layout: "Layout", price: float | None) -> list[str]:
    """Time, MFU, GPU hours and cost, from the best to the slow end."""
    plan, timing = layout.plan, layout.plan.timing
    if timing is None:
        return ["?"] * (3 if price is None else 4)
    if timing.best_held_seconds is not None and timing.held_seconds is not None:
        time = _time(timing.best_held_seconds, timing.held_seconds)
    else:
        time = f"{_ends(timing.best_seconds_per_step, timing.seconds_per_step, 1)} s a step"
    mfu = "?" if timing.mfu is None or timing.best_mfu is None else _ends(100 * timing.mfu, 100 * timing.best_mfu, 0)
    best, hours = plan.best_gpu_hours, plan.gpu_hours
    if best is None or hours is None:
        return [time, mfu, *["?"] * (1 if price is None else 2)]
    cost = [] if price is None else [_ends(price * best, price * hours, 0 if price * hours >= 50 else 1)]
    return [time, mfu, _ends(best, hours, 1), *cost]


def _time(best: float, slow: float) -> str:
    """
    >>> _time(312, 940), _time(3600, 9000)
    ('5-16 min', '1.0-2.5 h')
    """
    return f"{_ends(best / 60, slow / 60, 0)} min" if slow < 7200 else f"{_ends(best / 3600, slow / 3600, 1)} h"


def _ends(first: float, second: float, digits: int) -> str:
    """
    >>> _ends(2.61, 3.62, 1), _ends(2.61, 2.62, 1)
    ('2.6-3.6', '2.6')
    """
    low, high = f"{first:,.{digits}f}", f"{second:,.{digits}f}"
    return low if low == high else f"{low}-{high}"


def _refusals(refused: "Sequence[Refused]") -> "Table":
    from finetune_cli.plan_tables import rows_table

    told = [(f"{one.method}, {one.nodes} node{'s' if one.nodes > 1 else ''}", one.why) for one in refused]
    return rows_table("What doesn't fit, or isn't possible", told)


def _notes(found: "Exploration") -> list[str]:
    notes = ["rows: of a micro-batch (microBatchSize). again: layers that recompute their activations. GiB: the peak of a worker."]
    if any(layout.settings.offload != "nothing" for layout in found.fitting):
        notes.append("+o, +ow: the optimizer's state, or it and the weights, are in the host's memory (deepspeed.offload_*).")
    if any(layout.is_tight for layout in found.fitting):
        notes.append("!: tight, more than 90 % of the memory, which is about as much as the plan may be wrong by.")
    if any(layout.plan.timing is None or layout.plan.timing.held_seconds is None for layout in found.fitting):
        notes.append("Time is unknown, or that of a step: `--tokens N`, workers.accelerator or, for CPUs, `--calibrate RUN` tells it.")
    if len({layout.settings.method for layout in found.fitting}) > 1:
        notes.append("Methods don't learn the same: adapters are a small part of what full training changes.")
    return notes


def _object(job: "FineTuneJob", found: "Exploration", price: float | None) -> dict[str, Any]:
    layouts = [
        {
            **layout.as_spec(found.rows),
            "tight": layout.is_tight,
            "cost": None if price is None or layout.plan.gpu_hours is None else price * layout.plan.gpu_hours,
            "bestGpuHours": layout.plan.best_gpu_hours,
            "plan": layout.plan.model_dump(mode="json", by_alias=True),
        }
        for layout in found.fitting
    ]
    refused = [{"method": one.method, "nodes": one.nodes, "why": one.why} for one in found.refused]
    return {"job": job.metadata.name, "globalBatchSize": found.rows, "layouts": layouts, "refused": refused}
