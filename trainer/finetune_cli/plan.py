"""`finetune plan`: what a job amounts to before anything is started, and why."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.template_note import ELSEWHERE, template_note

if TYPE_CHECKING:
    from finetune_api.errors import Problem
    from finetune_api.finetunejob import FineTuneJob, ModelShape
    from finetune_api.plan import Machine
    from finetune_api.training_run import DataShape


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
    prices: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE", help="The same by GPU model, in dollars: `nvidia-a100-80gb: 2.21` a line, YAML."),
    ] = None,
    network: Annotated[
        float | None,
        typer.Option("--network", min=0.1, metavar="GBITS", help="Gb/s between nodes, of each; absent is a range by GPU model."),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="RUN",
            help="Take speed and memory of earlier runs: a run folder, its storage, a folder of runs; repeatable.",
        ),
    ] = None,
    explore: Annotated[
        bool,
        typer.Option("--explore", help="Rank other layouts: nodes, micro-batch, recomputation, method, sharding; the rows of a step stay."),
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="On this machine: its workers where the job names none, its memory for CPU workers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a job needs (memory, steps, time, GPU hours, cost) before anything is started, and what doesn't fit.

    Also what a cluster would refuse and `finetune run` doesn't mind, unless with --here; `finetune validate --cluster` refuses it, too.
    """
    from dataclasses import replace

    from finetune_api.jobfile import load_job
    from finetune_api.plan import Machine
    from finetune_api.plan import plan as planned
    from finetune_api.price import cost_of
    from finetune_cli.earlier_runs import calibration_of

    spec = _on_this_machine(load_job(job, overrides or ())) if here else load_job(job, overrides or ())
    shape, note = _shape(spec, job.parent)
    data = _data(spec, tokens)
    machine = replace(_this_machine() if here else Machine(), network_bandwidth=None if network is None else network * 1e9 / 8)
    earlier = calibration_of(calibrate, spec) if calibrate else None
    if explore:
        from finetune_api.explore import explore as explored
        from finetune_cli.explore_tables import show

        show(spec, explored(spec, shape, data, machine, earlier), _price(spec, price, prices), note, as_json=as_json)
        return
    result = planned(spec, shape, data, machine, earlier)
    result = result.model_copy(update={"notes": (*result.notes, *template_note(spec, job.parent, ELSEWHERE), *note)})
    refused = [] if here else _cluster_problems(spec, shape, data)
    if as_json:
        value = {
            "job": spec.metadata.name,
            **result.model_dump(mode="json", by_alias=True),
            "bestGpuHours": result.best_gpu_hours,
            "cost": cost_of(result, _price(spec, price, prices)),
            "clusterRefuses": [asdict(problem) for problem in refused],
        }
        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    from finetune_cli.plan_tables import print_plan, refusals_table

    console = Console(highlight=False)
    print_plan(console, spec, result, shape or spec.spec.model.shape, _price(spec, price, prices), data)
    if refused:
        console.print(refusals_table(refused))


def _price(job: "FineTuneJob", price: float | None, table: Path | None) -> float | None:
    """Of a GPU hour: the one given, or the table's for the job's GPU model. None without either. Raises InvalidInput, InvalidSpec."""
    from finetune_api.accelerators import accelerator
    from finetune_api.errors import InvalidInput
    from finetune_api.price import parse_prices

    if table is None:
        return price
    if price is not None:
        raise InvalidInput("--price and --prices both say what a GPU hour costs; give one of them")
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--prices {table}: can't be read ({error}); name a YAML file of GPU models and dollars an hour") from None
    card = accelerator(job.spec.workers.accelerator or "")
    return parse_prices(text, str(table)).get(card.name) if card else None


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
    from finetune_api.json_text import json_value

    name = job.spec.model.name
    file = base / name / "config.json"
    if not is_path(name) or not file.is_file():
        return None
    try:
        config = json_value(file.read_text(encoding="utf-8"))
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
