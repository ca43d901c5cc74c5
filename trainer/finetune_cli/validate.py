"""`finetune validate`: everything about jobs that can be known without network and without a GPU."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.template_note import template_note

if TYPE_CHECKING:
    from finetune_api.errors import Problem
    from finetune_api.finetunejob import FineTuneJob


def validate(
    jobs: Annotated[list[Path], typer.Argument(metavar="JOB.yaml", help="FineTuneJob files.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of spec; repeatable.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Also refuse what only the operator on a cluster refuses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check jobs: keys, types, ranges, arithmetic, local files. Exit code 2 when one is wrong."""
    from finetune_api.errors import InvalidSpec, Problem

    found = {path: problems_of(path, overrides or [], cluster=cluster) for path in jobs}
    notes = {path: [] if problems else _notes(path, overrides or []) for path, problems in found.items()}
    if as_json:
        described = [
            {"file": str(path), "valid": not problems, "problems": [asdict(p) for p in problems], "notes": notes[path]}
            for path, problems in found.items()
        ]
        print(json.dumps({"valid": not any(found.values()), "jobs": described}, ensure_ascii=False, indent=2))
        if any(found.values()):
            raise typer.Exit(2)
        return
    if any(found.values()):
        told = [(path, problem) for path, problems in found.items() for problem in problems]
        raise InvalidSpec([Problem(_named(problem.field, path, jobs), problem.message, problem.remedy) for path, problem in told])
    for path in jobs:
        print(f"{path}: valid")
        for note in notes[path]:
            print(f"{path}: note: {note}")


def _named(field: str, path: Path, jobs: list[Path]) -> str:
    """A field with its file, where there are several and the file itself isn't what is wrong."""
    return field if len(jobs) == 1 or field == str(path) else f"{path}: {field}"


def problems_of(path: Path, overrides: list[str], *, cluster: bool = False) -> "list[Problem]":
    """Every problem of one job; what needs the model's shape is checked where it is at hand. `cluster`: those of the operator's plan."""
    from finetune_api.errors import InvalidModel, InvalidSpec, Problem
    from finetune_api.jobfile import load_job
    from finetune_api.plan import cluster_plan, plan
    from finetune_cli.plan import local_shape

    problems = []
    try:
        job = load_job(path, overrides)
        problems += _missing_paths(job, path.parent, {os.path.abspath(text.partition("=")[2]) for text in overrides})
        try:
            shape = local_shape(job, path.parent)
        except InvalidModel as error:
            problems.append(Problem("spec.model.name", str(error)))
            shape = None
        (cluster_plan if cluster else plan)(job, shape, None)
    except InvalidSpec as error:
        problems += error.problems
    return problems


def _notes(path: Path, overrides: list[str]) -> list[str]:
    """Fields of a valid job that are set and have no effect, and what its template is."""
    from finetune_api.field_effects import idle_notes
    from finetune_api.jobfile import load_job

    job = load_job(path, overrides)
    return [*idle_notes(job.spec), *template_note(job, path.parent)]


def _missing_paths(job: "FineTuneJob", base: Path, typed: set[str]) -> "list[Problem]":
    """Paths that lead nowhere: relative ones, and those typed as an override. Another absolute one may exist only where the job runs."""
    from finetune_api.checks import is_path
    from finetune_api.errors import Problem

    names = [("spec.model.name", job.spec.model.name)]
    names += [(f"spec.dataset.sources[{index}].path", source.path) for index, source in enumerate(job.spec.dataset.sources)]
    return [
        Problem(field, f'"{name}" leads to {base / name}, which does not exist', "correct the path")
        for field, name in names
        if is_path(name) and (not Path(name).is_absolute() or name in typed) and not (base / name).exists()
    ]
