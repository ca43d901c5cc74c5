"""`finetune init`: a first job, drafted from a model and rows, or from another trainer's file."""

import json
import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.data_rows import DataFormat, Settings, sources_of
from finetune_cli.environment_storage import open_from_environment

if TYPE_CHECKING:
    from finetune_api.finetunejob import BaseModelSpec, DataSource, TemplateSpec
    from finetune_assistant.drafting.draft import Draft
    from finetune_assistant.drafting.found import FoundModel, FoundSource
    from finetune_assistant.drafting.translation import Translation

_MODEL = "The base model: a folder, a name on the Hub (org/name), or s3://bucket/prefix."
_DATA = "What it learns from: a file or folder of rows, a Hub data set, or s3://bucket/key; repeatable."
_FROM = "Begin with the settings of another trainer: axolotl's YAML, or the arguments of TRL or Transformers as YAML or JSON."
_GPUS = "GPUs of each node, where they aren't this machine's: its workers, and what a batch of another trainer was divided by."
_MODEL_SUGGESTED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_USUAL_NAMES = ("job", "finetunejob")


def init(
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=_MODEL)] = None,
    data: Annotated[list[str] | None, typer.Option("--data", "-d", metavar="SOURCE", help=_DATA)] = None,
    other: Annotated[Path | None, typer.Option("--from", metavar="FILE", help=_FROM)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the job goes; by default it is printed.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The job's name; by default that of the data.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="For a cluster: workers, storage, and what is yours to fill in.")] = False,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, max=64, metavar="N", help=_GPUS)] = None,
    directory: Annotated[Path | None, typer.Option("--directory", metavar="FOLDER", help="Publish the model to this folder.")] = None,
    hub: Annotated[str | None, typer.Option("--hub", metavar="ORG/NAME", help="Publish the model to this repository of the Hub.")] = None,
    data_format: DataFormat = "auto",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with the job as text.")] = False,
) -> None:
    """Draft a job: look at a model, at rows and at this machine, and write what fits them, with the reasons.

    Without --model and --data a terminal is asked for them. What it looked at and couldn't use is told; nothing is downloaded but rows and
    the model's small files.
    """
    _check_places(output, force=force, cluster=cluster, directory=directory, hub=hub)
    given = _translated(other, gpus, cluster=cluster)
    if other is None:
        model, data = _asked(model, data, may_ask=sys.stdin.isatty() and not as_json)
    if not data and (settings or data_format != "auto"):
        raise typer.BadParameter("--format and --set are settings of --data; give it too")
    given = given.overruled(model=bool(model), data=bool(data))
    base_model = _model_spec(_place(model)) if model else given.model
    sources = sources_of([_place(path) for path in data or ()], data_format, settings) or list(given.sources)
    if base_model is None or not sources:
        missing = "model; give --model" if base_model is None else "data; give --data"
        raise typer.BadParameter(f"--from {other} names no {missing}")
    found_model, found = _looked(base_model, sources, given)
    base = output.parent if output is not None else Path()
    drafted = _drafted(_name(name, output, sources), base, found_model, found, given, cluster, gpus, directory, hub)
    if output is not None:
        _write(output, drafted.text)
    _tell(drafted, given, other, output, cluster=cluster, as_json=as_json)


# ---- what was typed


def _check_places(output: Path | None, *, force: bool, cluster: bool, directory: Path | None, hub: str | None) -> None:
    """Refuse what can't be before anything is looked at."""
    if output is not None and output.is_dir():
        raise typer.BadParameter(f"--output {output} is a folder; name a file in it")
    if output is not None and output.exists() and not force:
        raise typer.BadParameter(f"--output {output} is there already; give --force to write over it, or another name")
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"--output {output}: there is no folder {output.parent}; make it first")
    if directory is not None and hub is not None:
        raise typer.BadParameter("--directory and --hub are two places, and a job publishes to one; leave one out")
    if directory is not None and cluster:
        raise typer.BadParameter("--directory is of this machine, which pods don't see; give --hub, or leave it out")


def _asked(model: str | None, data: list[str] | None, *, may_ask: bool) -> tuple[str, list[str]]:
    """Model and data, asked for where a terminal can answer."""
    if may_ask:
        model = model or typer.prompt("Base model (a folder, or org/name on the Hub)", default=_MODEL_SUGGESTED, err=True)
        data = data or [typer.prompt("Data (a file or folder of dialogues, or org/name on the Hub)", err=True)]
    if not model or not data:
        wanting = " and ".join(option for option, value in (("--model", model), ("--data", data)) if not value)
        raise typer.BadParameter(f"{wanting} missing: finetune init --model MODEL --data FILE, or --from FILE of another trainer")
    return model, data


def _translated(other: Path | None, gpus: int | None, *, cluster: bool) -> "Translation":
    """What another trainer's file says. Raises InvalidSpec."""
    from finetune_assistant.drafting.foreign_file import read_foreign_file
    from finetune_assistant.drafting.translation import NOTHING_GIVEN, translation
    from finetune_trainer.machine import this_machine

    if other is None:
        return NOTHING_GIVEN
    here = 1 if cluster else max(this_machine().gpus or 0, 1)
    told_of = "--gpus" if gpus else "one GPU assumed" if cluster else "of this machine"
    told_of = told_of if gpus else f"{told_of}; --gpus N for another number"
    return translation(read_foreign_file(other), workers=gpus or here, told_of=told_of, placed=lambda place: _place(place, other))


def _place(name: str, other: Path | None = None) -> str:
    """A name that exists here, or beside the other trainer's file, is a file or folder; so is one that ends as a file of rows does."""
    from finetune_api.finetunejob.places import is_hub_place, is_path
    from finetune_trainer.data.splits import SUFFIXES

    if not (is_hub_place(name) or is_path(name)):
        return name
    beside = Path(name) if other is None else other.parent / name
    found = next((path for path in (Path(name), beside) if path.exists()), None)
    if found is None and not name.endswith(SUFFIXES):
        return name
    place = str(found or name)
    return place if is_path(place) else f"./{place}"


def _relative(place: str, base: Path) -> str:
    """A path of this folder, as it is written in a file of the folder `base`; another place as it is."""
    from finetune_api.finetunejob.places import is_path

    if os.path.isabs(place) or not is_path(place):
        return place
    written = os.path.relpath(place, base)
    return written if written.startswith("..") else f"./{written}"


def _model_spec(name: str) -> "BaseModelSpec":
    from finetune_api.jobfile import parse_job

    spec = {"model": {"name": name}, "dataset": {"sources": [{"path": "./rows"}]}}
    return parse_job({"metadata": {"name": "x"}, "spec": spec}).spec.model


def _name(name: str | None, output: Path | None, sources: "Iterable[DataSource]") -> str:
    """The name that was given, or one of the file's or the data's that a job may have."""
    from finetune_assistant.drafting.foreign_file import job_name

    if name is not None:
        return name
    if output is not None and output.stem.lower() not in _USUAL_NAMES:
        return job_name(output.stem)
    return job_name(next(iter(sources)).path)


# ---- what is done


def _looked(model: "BaseModelSpec", sources: "list[DataSource]", given: "Translation") -> "tuple[FoundModel, list[FoundSource]]":
    from finetune_assistant.drafting.look import look_at_model, look_at_source
    from finetune_trainer.secrets import Secrets

    with _shown(f"looking at {model.name}"):
        found, lengths = look_at_model(
            model,
            _template(given),
            base=Path(),
            secrets=Secrets(),
            open_storage=lambda url: open_from_environment(url, "--model"),
        )
    looked = []
    for source in sources:
        with _shown(f"looking at {source.path}"):
            looked.append(
                look_at_source(
                    source, lengths, base=Path(), secrets=Secrets(), open_storage=lambda url: open_from_environment(url, "--data")
                )
            )
    return found, looked


def _template(given: "Translation") -> "TemplateSpec":
    from finetune_api.finetunejob import TemplateSpec

    return TemplateSpec.model_validate(given.spec.get("template", {}))


def _shown(text: str) -> AbstractContextManager[Any]:
    """A line with a spinner while something is looked at, on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def _drafted(
    name: str,
    base: Path,
    model: "FoundModel",
    sources: "list[FoundSource]",
    given: "Translation",
    cluster: bool,
    gpus: int | None,
    directory: Path | None,
    hub: str | None,
) -> "Draft":
    """The draft, with paths as a file of the folder `base` has them."""
    from dataclasses import replace

    from finetune_assistant.drafting.draft import Wishes, draft
    from finetune_trainer.machine import this_machine

    def placed(place: str) -> str:
        return _relative(place, base)

    model = replace(model, spec=model.spec.model_copy(update={"name": placed(model.spec.name)}))
    sources = [replace(one, source=one.source.model_copy(update={"path": placed(one.source.path)})) for one in sources]
    folder = None if directory is None else placed(str(directory) if directory.is_absolute() else f"./{directory}")
    wishes = Wishes(name=name, cluster=cluster, gpus=gpus, directory=folder, hub=hub)
    return draft(wishes, model, sources, this_machine(), given.at_places(placed))


def _write(output: Path, text: str) -> None:
    from finetune_trainer.files.atomic import write_atomically

    try:
        write_atomically(output, text)
    except OSError as error:
        raise typer.BadParameter(f"--output {output} can't be written: {error.strerror}; name a file that can be") from None


# ---- what is said


def _tell(drafted: "Draft", given: "Translation", other: Path | None, output: Path | None, *, cluster: bool, as_json: bool) -> None:
    """The job on stdout, or where it went; beside it, on stderr, what is to be known and what comes next."""
    file = str(output) if output is not None else "job.yaml"
    then = ["finetune validate --cluster", "finetune apply"] if cluster else ["finetune plan --here", "finetune run"]
    following = [f"{command} {file}" for command in then]
    left = given.left | drafted.left
    carried = [key for key in given.carried() if key not in left]
    if as_json:
        value: dict[str, Any] = {
            "job": drafted.text,
            "written": None if output is None else file,
            "notes": drafted.notes,
            "next": following,
        }
        value |= {"carriedOver": carried, "sameHere": given.same, "leftOut": left} if other is not None else {}
        print(json.dumps(value, ensure_ascii=False))
        return
    print(drafted.text, end="") if output is None else print(f"wrote {file}")
    sys.stdout.flush()
    lines = [f"note: {text}" for text in drafted.notes]
    if other is not None:
        lines += _listing(other, carried, given.same, left)
    saved = "" if output is not None else f" (the job saved as {file})"
    print("\n".join([*lines, f"next{saved}:", *(f"  {command}" for command in following)]), file=sys.stderr)


def _listing(other: Path, carried: list[str], same: Iterable[str], left: dict[str, str]) -> list[str]:
    """Each key of the other trainer's file: in the job, as it is anyway, or left out with the reason."""
    from finetune_assistant.drafting.foreign_file import by_reason

    lines = [f"{other}: {len(carried)} keys carried over: {', '.join(carried)}"] if carried else []
    lines += [f"the same here by default: {', '.join(same)}"] if same else []
    return [*lines, *(f"not carried over: {', '.join(keys)}: {reason}" for reason, keys in by_reason(left).items())]
