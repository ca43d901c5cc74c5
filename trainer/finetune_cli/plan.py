"""`finetune plan`: what a job amounts to before anything is started, and why."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.template_note import ELSEWHERE, template_note

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from finetune_api.errors import Problem
    from finetune_api.finetunejob import FineTuneJob, ModelShape
    from finetune_api.plan import Machine
    from finetune_api.training_run import DataShape, Memory, Plan, SplitShape


def plan(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A FineTuneJob file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of spec; repeatable.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, metavar="N", help="Assume N training tokens an epoch, where the data is not prepared yet."),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0.0, metavar="AMOUNT", help="Price of a GPU hour, in any currency, for the cost.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="On this machine: its workers where the job names none, its memory for CPU workers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a job needs (memory, steps, time, GPU hours) before anything is started, and what doesn't fit.

    Also what a cluster would refuse and `finetune run` doesn't mind, unless with --here; `finetune validate --cluster` refuses it, too.
    """
    from finetune_api.jobfile import load_job
    from finetune_api.plan import plan as planned

    spec = _on_this_machine(load_job(job, overrides or ())) if here else load_job(job, overrides or ())
    shape, note = _shape(spec, job.parent)
    data = _data(spec, tokens)
    result = planned(spec, shape, data, _this_machine() if here else None)
    result = result.model_copy(update={"notes": (*result.notes, *template_note(spec, job.parent, ELSEWHERE), *note)})
    refused = [] if here else _cluster_problems(spec, shape, data)
    if as_json:
        cost = None if price is None or result.gpu_hours is None else price * result.gpu_hours
        value = {
            "job": spec.metadata.name,
            **result.model_dump(mode="json", by_alias=True),
            "cost": cost,
            "clusterRefuses": [asdict(problem) for problem in refused],
        }
        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    _print(console, spec, result, shape or spec.spec.model.shape, price, data)
    if refused:
        console.print(_refusals(refused))


def _cluster_problems(job: "FineTuneJob", shape: "ModelShape | None", data: "DataShape | None") -> "list[Problem]":
    """Why a cluster would refuse what this machine doesn't mind."""
    from finetune_api.errors import InvalidSpec
    from finetune_api.plan import cluster_plan

    try:
        cluster_plan(job, shape, data)
    except InvalidSpec as refused:
        return list(refused.problems)
    return []


def _shape(job: "FineTuneJob", base: Path) -> "tuple[ModelShape | None, tuple[str, ...]]":
    """The model's shape as far as its config.json tells, and what to say where that can't be had.

    One of the Hub is read there unless the job gives a shape: it is small. A Hub that doesn't answer is a note, and no reason to fail.
    """
    from finetune_api.checks import is_path
    from finetune_api.errors import FineTuneError, InvalidModel

    model = job.spec.model
    if is_path(model.name) or "://" in model.name or model.shape is not None:
        return local_shape(job, base), ()
    try:
        from finetune_trainer.model.hub import hub_config

        config = hub_config(model, model.revision, token=_token(job))
    except ModuleNotFoundError as error:
        return None, (f"{model.name}: its config.json is not read ({error.name} is not installed): memory and time are unknown.",)
    except (FineTuneError, ValueError) as error:
        return None, (f"Its config.json is not read, so memory and time are unknown: {error}.",)
    if not isinstance(config, dict):
        raise InvalidModel(f"{model.name}: config.json holds no JSON object; choose another revision")
    shape = _counted(config)
    if shape is None:
        return None, (f"{model.name}: its parameters can't be counted from config.json alone; give spec.model.shape.",)
    return shape, ()


def _token(job: "FineTuneJob") -> str | None:
    from finetune_api.errors import InvalidSpec
    from finetune_trainer.secrets import Secrets

    try:
        return Secrets().hub_token(job.spec.model.token_secret, "spec.model.tokenSecret")
    except InvalidSpec:  # the cluster has it
        return None


# Ends of the names of classes that generate text.
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")


def local_shape(job: "FineTuneJob", base: Path) -> "ModelShape | None":
    """Shape of a model in a local directory, from its config.json; None for any other model, and for a language model whose
    parameters only its weights tell. Raises InvalidModel.
    """
    from finetune_api.checks import is_path
    from finetune_api.errors import InvalidModel

    name = job.spec.model.name
    file = base / name / "config.json"
    if not is_path(name) or not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{file}: can't be read as JSON ({error}); repair it, or fetch the model again") from None
    if not isinstance(config, dict):
        raise InvalidModel(f"{file}: holds no JSON object; fetch the model again")
    return _counted(config)


def _counted(config: dict[str, Any]) -> "ModelShape | None":
    """The shape by the formulas of the contract, or counted by Transformers where it is installed; None where neither can."""
    from finetune_api.errors import InvalidModel
    from finetune_api.model_shape import can_count, shape_from_config

    names = config.get("architectures") or [""]
    if not str(names[0]).endswith(_LANGUAGE_MODELS) or can_count(config):
        return shape_from_config(config)
    try:
        from finetune_trainer.model.shape import read_shape

        return read_shape(config, source="config.json")
    except (ModuleNotFoundError, InvalidModel):  # preparation says what is wrong with it
        return None


def _data(job: "FineTuneJob", tokens: int | None) -> "DataShape | None":
    """The shape that an earlier run of the same job counted, or an assumed one, or None."""
    from finetune_api.errors import InvalidTrainingRun
    from finetune_api.plan import assumed_data
    from finetune_api.training_run import TrainingRun, run_identity

    if tokens is not None:
        return assumed_data(tokens, job.spec.training.max_sequence_length)
    try:
        earlier = TrainingRun.from_json((Path("runs") / job.metadata.name / "run.json").read_bytes())
    except (OSError, InvalidTrainingRun):
        return None
    return earlier.data if earlier.identity == run_identity(job) else None


def _on_this_machine(job: "FineTuneJob") -> "FineTuneJob":
    from finetune_trainer.machine import this_machine, with_workers_of

    return with_workers_of(this_machine(), job)


def _this_machine() -> "Machine":
    from finetune_api.plan import Machine

    return Machine(memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


# ---- tables


def _print(
    console: "Console", job: "FineTuneJob", plan: "Plan", shape: "ModelShape | None", price: float | None, data: "DataShape | None"
) -> None:
    from rich.text import Text

    console.print(Text.assemble(("Plan of ", "bold"), (job.metadata.name, "bold cyan"), f"  {job.spec.model.name}"))
    console.print(_run_table(plan, shape, price, data))
    if plan.memory:
        console.print(_memory_table(plan.memory))
    if plan.unknown:
        console.print(_rows("Not known yet", [(item.name, item.why) for item in plan.unknown]))
    for note in plan.notes:
        console.print(Text.assemble(("note  ", "yellow"), note))


def _refusals(problems: "list[Problem]") -> "Table":
    """What the operator would write as Planned=False."""
    told = [(problem.field, "; ".join(filter(None, (problem.message, problem.remedy)))) for problem in problems]
    return _rows("On a cluster the operator refuses it (`finetune run` doesn't)", told)


def _run_table(plan: "Plan", shape: "ModelShape | None", price: float | None, data: "DataShape | None") -> "Table":
    """Batches, steps, time and sizes: each with how it came about."""
    from finetune_trainer.reporting.readable import size

    rows = [*_batch_rows(plan), *_step_rows(plan), *_time_rows(plan, price)]
    if shape is not None:
        rows.insert(0, ("model", f"{shape.architecture}, {shape.parameters:,} parameters, {shape.layers} layers x {shape.hidden_size}"))
    if data is not None and data.train.dialogues:
        rows.insert(1 if shape is not None else 0, ("data", _examples(data.train)))
    sizes = {"a checkpoint": plan.checkpoint_bytes, "published weights": plan.export_bytes, "to load, a node": plan.host_loading_bytes}
    rows += [(name, size(num_bytes)) for name, num_bytes in sizes.items() if num_bytes is not None]
    return _rows("Run", rows)


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
    ]


def _step_rows(plan: "Plan") -> list[tuple[str, str]]:
    """Steps as far as they are known."""
    rows = []
    if plan.steps_per_epoch is not None:
        rows.append(("steps an epoch", f"{plan.steps_per_epoch:,} = ceil({plan.rows_per_epoch:,} rows / {plan.global_batch_size})"))
    epochs = f" in {plan.epochs} epochs" if plan.epochs and plan.total_steps else ""
    rows.append(("steps", f"{plan.total_steps:,}{epochs}" if plan.total_steps else "unknown"))
    if plan.warmup_steps is not None:
        rows.append(("warm-up steps", str(plan.warmup_steps)))
    return rows


def _time_rows(plan: "Plan", price: float | None) -> list[tuple[str, str]]:
    """Time as far as it is known, always as an estimate."""
    rows = []
    if plan.flops_per_token is not None:
        rows.append(("operations", f"{plan.flops_per_token / 1e9:,.2f} GFLOP a token"))
    if plan.seconds_per_step is not None:
        rows.append(("time a step", f"about {plan.seconds_per_step:,.1f} s (estimated)"))
    rows.append(("time", _duration(plan.seconds)))
    rows.append(("GPU hours", f"about {plan.gpu_hours:,.1f} (estimated)" if plan.gpu_hours is not None else _no_gpu_hours(plan)))
    if price is not None:
        rows.append(("cost", f"about {price * plan.gpu_hours:,.2f}" if plan.gpu_hours is not None else "unknown"))
    return rows


def _no_gpu_hours(plan: "Plan") -> str:
    return "none" if plan.device == "cpu" else "unknown"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"about {seconds / 3600:,.1f} h (estimated)" if seconds >= 7200 else f"about {seconds / 60:,.1f} min (estimated)"


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


def _rows(title: str, rows: list[tuple[str, str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table
