"""A plan as tables for a terminal: each number with how it came about."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

    from finetune_api.errors import Problem
    from finetune_api.finetunejob import FineTuneJob, ModelShape
    from finetune_api.training_run import DataShape, Memory, Plan, SplitShape, Timing


def print_plan(
    console: "Console", job: "FineTuneJob", plan: "Plan", shape: "ModelShape | None", price: float | None, data: "DataShape | None"
) -> None:
    from rich.text import Text

    console.print(Text.assemble(("Plan of ", "bold"), (job.metadata.name, "bold cyan"), f"  {job.spec.model.name}"))
    console.print(_run_table(plan, shape, price, data))
    if plan.timing:
        console.print(_time_table(plan.timing))
    if plan.memory:
        console.print(_memory_table(plan.memory))
    if plan.unknown:
        console.print(rows_table("Not known yet", [(item.name, item.why) for item in plan.unknown]))
    for note in plan.notes:
        console.print(Text.assemble(("note  ", "yellow"), note))


def refusals_table(problems: "list[Problem]") -> "Table":
    """What the operator would write as Planned=False."""
    told = [(problem.field, "; ".join(filter(None, (problem.message, problem.remedy)))) for problem in problems]
    return rows_table("On a cluster the operator refuses it (`finetune run` doesn't)", told)


def rows_table(title: str, rows: list[tuple[str, str]]) -> "Table":
    """Names and what they are."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _run_table(plan: "Plan", shape: "ModelShape | None", price: float | None, data: "DataShape | None") -> "Table":
    """Batches, steps, time and sizes."""
    from finetune_trainer.reporting.readable import size

    rows = [*_batch_rows(plan), *_step_rows(plan), *_time_rows(plan, price)]
    if shape is not None:
        rows.insert(0, ("model", f"{shape.architecture}, {shape.parameters:,} parameters, {shape.layers} layers x {shape.hidden_size}"))
    if data is not None and data.train.dialogues:
        rows.insert(1 if shape is not None else 0, ("data", _examples(data.train)))
    sizes = {"a checkpoint": plan.checkpoint_bytes, "published weights": plan.export_bytes, "to load, a node": plan.host_loading_bytes}
    rows += [(name, size(num_bytes)) for name, num_bytes in sizes.items() if num_bytes is not None]
    return rows_table("Run", rows)


def _examples(train: "SplitShape") -> str:
    """Dialogues, and examples where these are more."""
    tokens = f"{train.tokens:,} tokens, {train.supervised_tokens:,} of them learnt"
    if train.segments == train.dialogues:
        return f"{train.dialogues:,} dialogues, {tokens}"
    why = "several for a dialogue that is longer than a row, or whose template writes an answer otherwise once it goes on"
    return f"{train.dialogues:,} dialogues in {train.segments:,} examples ({why}), {tokens}"


def _batch_rows(plan: "Plan") -> list[tuple[str, str]]:
    workers = f"{plan.world_size} on {plan.device}" + (f" ({plan.accelerator})" if plan.accelerator else "")
    return [
        ("workers", f"{workers}, {plan.nodes} node{'s' if plan.nodes > 1 else ''}, {plan.precision}"),
        (
            "rows a step",
            f"{plan.global_batch_size} = {plan.micro_batch_size} a micro-step x {plan.world_size} workers x {plan.micro_steps} micro-steps",
        ),
        ("tokens a step", f"at most {plan.tokens_per_step:,} = {plan.global_batch_size} x {plan.max_sequence_length:,}"),
        *([("recomputed", f"the activations of one layer in {plan.recompute_every}")] if (plan.recompute_every or 0) > 1 else []),
    ]


def _step_rows(plan: "Plan") -> list[tuple[str, str]]:
    """Steps as far as they are known."""
    rows = []
    if plan.steps_per_epoch is not None:
        rows.append(("steps an epoch", f"{plan.steps_per_epoch:,} = ceil({plan.rows_per_epoch:,} rows / {plan.global_batch_size})"))
    epochs = f" in {plan.epochs} epoch{'' if plan.epochs == 1 else 's'}" if plan.epochs and plan.total_steps else ""
    rows.append(("steps", f"{plan.total_steps:,}{epochs}" if plan.total_steps else "unknown"))
    if plan.warmup_steps is not None:
        rows.append(("warm-up steps", str(plan.warmup_steps)))
    return rows


def _time_rows(plan: "Plan", price: float | None) -> list[tuple[str, str]]:
    """Time as far as it is known, always as an estimate, from its best to its slow end."""
    from finetune_trainer.reporting.readable import duration

    rows, timing = [], plan.timing
    if plan.flops_per_token is not None:
        rows.append(("operations", f"{plan.flops_per_token / 1e9:,.2f} GFLOP a token"))
    if timing is not None and plan.seconds_per_step is not None:
        rows.append(("time a step", f"{between(timing.best_seconds_per_step, plan.seconds_per_step, duration)} (estimated)"))
    if timing is not None and timing.mfu is not None and timing.best_mfu is not None:
        rows.append(("MFU", f"{between(100 * timing.mfu, 100 * timing.best_mfu, _whole)} % of the peak"))
    if timing is None or plan.seconds is None:
        return [*rows, ("time", "unknown"), ("GPU hours", _no_gpu_hours(plan)), *([("cost", "unknown")] if price is not None else [])]
    rows.append(("time in steps", f"{between(timing.best_seconds, plan.seconds, duration)} (estimated)"))
    rows.append(("time in all", _held(timing)))
    hours = between(plan.best_gpu_hours, plan.gpu_hours, _tenth) if plan.gpu_hours is not None else _no_gpu_hours(plan)
    rows.append(("GPU hours", hours))
    if price is not None:
        best, slow = plan.best_gpu_hours, plan.gpu_hours
        rows.append(("cost", "unknown" if best is None or slow is None else between(price * best, price * slow, _money)))
    return rows


def between(best: float | None, slow: float | None, text: "Callable[[float], str]") -> str:
    """Both ends, or one text where they read alike.

    >>> between(1.0, 2.0, str), between(2.0, 2.0, str), between(None, 2.0, str)
    ('1.0 to 2.0', 'about 2.0', 'about 2.0')
    """
    assert slow is not None
    shown = text(slow if best is None else best), text(slow)
    return f"{shown[0]} to {shown[1]}" if shown[0] != shown[1] else f"about {shown[1]}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _tenth(value: float) -> str:
    return f"{value:,.1f}"


def _money(value: float) -> str:
    return f"{value:,.2f}"


def _held(timing: "Timing") -> str:
    """What workers are held for."""
    from finetune_trainer.reporting.readable import duration

    if timing.held_seconds is None or timing.start_seconds is None or timing.checkpoint_seconds is None:
        return "unknown"
    number = timing.checkpoints or 0
    last = f"the last of {number} checkpoints" if number > 1 else "a checkpoint at the end"
    parts = f"{duration(timing.start_seconds)} until the first step and {last}"
    held = between(timing.best_held_seconds, timing.held_seconds, duration)
    return f"{held}: with {parts}, {duration(timing.checkpoint_seconds)} (both assumed)"


def _no_gpu_hours(plan: "Plan") -> str:
    return "none" if plan.device == "cpu" else "unknown"


def _time_table(timing: "Timing") -> "Table":
    """A step's terms, at the slow end."""
    from rich.table import Table

    title = "Time of a step" if timing.calibrated_by else "Time of a step, at the slow end"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), show_footer=True)
    total = sum(term.seconds for term in timing.terms)
    table.add_column("term", footer="a step", no_wrap=True)
    table.add_column("seconds", justify="right", footer=_seconds(total), no_wrap=True)
    table.add_column("how", footer="T: tokens of one worker and step", overflow="fold")
    for term in timing.terms:
        table.add_row(term.name, _seconds(term.seconds), term.formula)
    return table


def _seconds(value: float) -> str:
    """
    >>> _seconds(12.345), _seconds(0.0123)
    ('12.3', '0.012')
    """
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _memory_table(memory: "Memory") -> "Table":
    """Terms in the order of the arithmetic; those of the smaller phase are not in the sum and are dimmed."""
    from rich.table import Table

    from finetune_trainer.reporting.readable import size

    table = Table(title="Peak memory of a worker", title_justify="left", box=None, padding=(0, 2, 0, 0), show_footer=True)
    has = "" if memory.capacity_bytes is None else f"of {size(memory.capacity_bytes)} that it has; "
    table.add_column("term", footer="peak", no_wrap=True)
    table.add_column("size", justify="right", footer=size(memory.total_bytes), no_wrap=True)
    table.add_column("how", footer=f"{has}~ is an estimate; pass and update don't coincide", overflow="fold")
    smaller = _smaller_phase(memory)
    for term in memory.terms:
        phase = "" if term.phase == "always" else f"{term.phase}: "
        sign = "" if term.basis == "counted" else "~"
        table.add_row(term.name, sign + size(term.bytes), phase + term.formula, style="dim" if term.phase == smaller else None)
    return table


def _smaller_phase(memory: "Memory") -> str:
    sums = {phase: sum(term.bytes for term in memory.terms if term.phase == phase) for phase in ("pass", "update")}
    return min(sums, key=lambda phase: sums[phase])
