"""`finetune export`: any checkpoint of a run as a model that plain transformers loads."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune_api.training_run import TrainingRun
    from finetune_trainer.run_folder import RunFolder


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, for example runs/tiny.")],
    step: Annotated[int | None, typer.Option("--step", min=0, metavar="N", help="Step of the checkpoint; absent is the newest.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Where the model goes; absent is RUN/model.")] = None,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Where relative paths of the job begin, if its file has moved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export a checkpoint of a run: safetensors, tokenizer, chat template, model card."""
    frozen, folder = frozen_run(run)
    target = output or folder.model
    exported_step = _export(frozen, folder, step, target, origin(folder, base))
    if as_json:
        print(json.dumps({"job": frozen.job.metadata.name, "step": exported_step, "model": str(target.resolve())}))
    else:
        print(f"step {exported_step} is exported to {target}; try it with: finetune chat {target}")


def _export(run: "TrainingRun", folder: "RunFolder", step: int | None, target: Path, base: Path) -> int:
    """The step that was exported."""
    from finetune_api.errors import InvalidStorage, RunConflict
    from finetune_trainer.checkpoints.job_storage import job_checkpoints, storage_at
    from finetune_trainer.model.resolve import resolve_model
    from finetune_trainer.publishing.card import base_licence, card_texts
    from finetune_trainer.publishing.export import CheckpointWeights, describe
    from finetune_trainer.publishing.export import export as export_model
    from finetune_trainer.reporting.report import report_data
    from finetune_trainer.secrets import Secrets

    secrets = Secrets()
    store = job_checkpoints(run.job, base=base, default=folder.storage, secrets=secrets)
    checkpoint = store.newest_verified() if step is None else store.open(step)
    if checkpoint is None:
        raise InvalidStorage(f"{store.storage.url} has no checkpoint yet; begin the run with `finetune run`")
    model = resolve_model(
        run.job.spec.model,
        base=base,
        cache=folder.models,
        secrets=secrets,
        storage_opener=lambda url: storage_at(url, run.job, base=base, secrets=secrets),
        revision=run.model_revision,
        fetches_weights=False,
    )
    if model.revision != run.model_revision:
        raise RunConflict(
            f"the base model {run.job.spec.model.name} in {model.folder} is no longer the one of this run: it was {run.model_revision}, "
            f"it is {model.revision}; put the old one back"
        )
    with store.reader(checkpoint) as reader, progress_bar("export") as progress:
        export_model(run, CheckpointWeights(reader), step=checkpoint.step, base=model.folder, folder=target, progress=progress)
    # This machine need not be the one that trained: the card says of hardware and versions only what the plan knows.
    data = report_data(folder.path, run=run)
    describe(target, card_texts(data, step=checkpoint.step, licence=base_licence(model.folder)))
    return checkpoint.step


def frozen_run(path: Path) -> "tuple[TrainingRun, RunFolder]":
    """The run that was frozen in a folder. Raises RunConflict when it holds none."""
    from finetune_api.errors import RunConflict
    from finetune_trainer.run_folder import RunFolder

    folder = RunFolder(path.resolve())
    run = folder.frozen_run()
    if run is None:
        raise RunConflict(f"{path} is no run folder: it has no run.json; give the folder that `finetune run` wrote, for example runs/tiny")
    return run, folder


def origin(folder: "RunFolder", given: Path | None) -> Path:
    """Where relative paths of the run's job begin: as given, as `finetune run` left it, or here."""
    if given is not None:
        return given.resolve()
    return Path(folder.origin.read_text(encoding="utf-8").strip()) if folder.origin.is_file() else Path.cwd()


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal, elsewhere a line now and then; gives the function to call with (done, of how many)."""
    from rich.console import Console
    from rich.progress import Progress

    from finetune_cli.terminal import PacedLines

    if not sys.stderr.isatty():
        yield PacedLines(what, sys.stderr).say
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
