"""`finetune export`: any checkpoint of a run as a model that plain transformers loads, or as a GGUF for llama.cpp and Ollama."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from finetune_api.training_run import TrainingRun
    from finetune_trainer.checkpoints.store import CheckpointStore, Reader
    from finetune_trainer.publishing.export import Weights
    from finetune_trainer.run_folder import RunFolder


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or where its checkpoints are: s3://bucket/prefix, a directory.")],
    step: Annotated[int | None, typer.Option("--step", min=0, metavar="N", help="Step of the checkpoint; absent is the newest.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the model goes; absent is RUN/model, or ./NAME for an address."),
    ] = None,
    merge: Annotated[
        bool | None,
        typer.Option("--merge/--adapter", help="Of a LoRA run: the whole model, or PEFT's adapter alone; absent: as the job publishes it."),
    ] = None,
    model_format: Annotated[
        Literal["safetensors", "gguf"],
        typer.Option("--format", help="gguf: also as NAME.gguf, by llama.cpp's converter, with a Modelfile."),
    ] = "safetensors",
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Where relative paths of the job begin, if its file has moved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export a checkpoint of a run: safetensors, tokenizer, chat template, model card.

    From an address nothing else is needed but keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
    """
    with _opened(run, base, _Wish(merge=merge, gguf=model_format == "gguf")) as source:
        target = output or source.output
        exported_step = _export(source, step, target)
        name, longest = source.run.job.metadata.name, source.run.job.spec.generation.max_new_tokens
    made = {"job": name, "step": exported_step, "model": str(target.resolve())}
    if model_format == "gguf":
        made |= _as_gguf(target, name, longest)
    if as_json:
        print(json.dumps(made))
        return
    if not source.whole:
        print(f"the adapter of step {exported_step} is exported to {target}; its README.md says how PEFT loads it")
        return
    print(f"step {exported_step} is exported to {target}; try it with: finetune chat {target}")
    if model_format == "gguf":
        print(f"as {made['gguf']}; try it with: ollama create {name} -f {made['modelfile']}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for of a LoRA run: the whole model, the adapter, or neither by name."""

    merge: bool | None
    gguf: bool

    def whole(self, run: "TrainingRun") -> bool:
        """Whether a whole model is to be written. Raises InvalidInput for what can't be had."""
        from finetune_api.errors import InvalidInput

        if run.job.spec.training.adapter is None and self.merge is not None:
            told = "--merge" if self.merge else "--adapter"
            raise InvalidInput(f"{told} is for LoRA runs, and this one trained all parameters; leave it out")
        if self.gguf and self.merge is False:
            raise InvalidInput("--format gguf needs a whole model; leave --adapter out")
        return self.gguf or (not run.job.spec.publishes_adapter if self.merge is None else self.merge)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A run to export from. `base`: a folder with the base model's files, with weights where adapters are merged into them; `files`: one
    with what the card tells of; `whole`: whether a whole model is written.
    """

    run: "TrainingRun"
    store: "CheckpointStore"
    base: Path
    files: Path
    output: Path
    whole: bool


@contextmanager
def _opened(run: str, base: Path | None, wish: _Wish) -> Iterator[_Source]:
    """A run folder, or a run's storage: at an address, or a directory on a volume."""
    from finetune_trainer.checkpoints.run_record import RUN_KEY

    if "://" not in run and not (Path(run) / RUN_KEY).is_file():
        yield _in_folder(Path(run), base, wish)
        return
    with tempfile.TemporaryDirectory(prefix="finetune-export-") as folder:
        yield _at_address(run, Path(folder), base, wish)


def _at_address(url: str, folder: Path, base: Path | None, wish: _Wish) -> _Source:
    """What workers keep beside their checkpoints is enough, but for the weights that adapters are merged into."""
    from finetune_api.evaluation_summary import SUMMARY_FILE, summary_key
    from finetune_cli.environment_storage import open_from_environment
    from finetune_trainer.checkpoints.run_record import META_KEY, fetch_base, kept_run
    from finetune_trainer.checkpoints.store import CheckpointStore
    from finetune_trainer.run_folder import RunFolder
    from finetune_trainer.storage.errors import MissingObject
    from finetune_trainer.storage.probe import check_readable

    storage = open_from_environment(url, "RUN")
    check_readable(storage)
    run = kept_run(storage)
    files = RunFolder(folder)
    meta = files.prepared / run.data.fingerprint / "meta.json"
    summary = files.evaluation(run) / SUMMARY_FILE
    for key, path in ((META_KEY, meta), ("metrics.jsonl", files.metrics), (summary_key(summary.parent.name), summary)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(key, path)
        except MissingObject:  # the card then says that it is unknown
            continue
    whole = wish.whole(run)
    merges = whole and run.job.spec.training.adapter is not None
    start, models = (base or Path.cwd()).resolve(), folder / "models"
    return _Source(
        run=run,
        store=CheckpointStore(storage, identity=run.identity, job=run.job.metadata.name),
        base=_base_model(run, start, models, whole=True) if merges else fetch_base(storage, folder / "base"),
        files=folder,
        output=Path(run.job.metadata.name),
        whole=whole,
    )


def _in_folder(path: Path, base: Path | None, wish: _Wish) -> _Source:
    from finetune_trainer.checkpoints.job_storage import job_checkpoints
    from finetune_trainer.secrets import Secrets

    run, folder = frozen_run(path)
    start, whole = origin(folder, base), wish.whole(run)
    return _Source(
        run=run,
        store=job_checkpoints(run.job, base=start, default=folder.storage, secrets=Secrets()),
        base=_base_model(run, start, folder.models, whole=whole and run.job.spec.training.adapter is not None),
        files=folder.path,
        output=folder.model if whole else folder.adapter,
        whole=whole,
    )


def _base_model(run: "TrainingRun", start: Path, cache: Path, *, whole: bool) -> Path:
    """The folder of the run's base model, with its weights if it has to be `whole`. Raises RunConflict when it is another one now."""
    from finetune_api.errors import RunConflict
    from finetune_trainer.checkpoints.job_storage import storage_at
    from finetune_trainer.model.resolve import resolve_model
    from finetune_trainer.secrets import Secrets

    secrets = Secrets()
    model = resolve_model(
        run.job.spec.model,
        base=start,
        cache=cache,
        secrets=secrets,
        storage_opener=lambda url: storage_at(url, run.job, base=start, secrets=secrets),
        revision=run.model_revision,
        fetches_weights=whole,
    )
    if model.revision != run.model_revision:
        raise RunConflict(
            f"the base model {run.job.spec.model.name} in {model.folder} is no longer the one of this run: it was {run.model_revision}, "
            f"it is {model.revision}; put the old one back"
        )
    return model.folder


def _export(source: _Source, step: int | None, target: Path) -> int:
    """The step that was exported."""
    from finetune_api.errors import InvalidStorage
    from finetune_trainer.publishing.card import card_texts
    from finetune_trainer.publishing.export import describe
    from finetune_trainer.reporting.report import report_data
    from finetune_trainer.run_folder import RunFolder

    checkpoint = source.store.newest_verified() if step is None else source.store.open(step)
    if checkpoint is None:
        raise InvalidStorage(f"{source.store.storage.url} has no checkpoint yet; begin the run with `finetune run`")
    with source.store.reader(checkpoint) as reader, progress_bar("export") as progress:
        _write(source, reader, checkpoint.step, target, progress)
    # This machine need not be the one that trained: the card says of hardware and versions only what the plan knows.
    data = report_data(source.files, run=source.run, evaluation=RunFolder(source.files).summary(source.run))
    cards = card_texts(data, step=checkpoint.step, base=source.base, exported=target)
    describe(target, cards, checkpoint=checkpoint.digest)
    return checkpoint.step


def _write(source: _Source, reader: "Reader", step: int, target: Path, progress: Callable[[int, int], None]) -> None:
    from finetune_trainer.publishing.export import CheckpointWeights
    from finetune_trainer.publishing.export import export as export_model

    weights: Weights = CheckpointWeights(reader)
    if source.run.job.spec.training.adapter is not None:
        from finetune_trainer.model.adapter_folder import export_adapter
        from finetune_trainer.model.merged import merged_weights

        if not source.whole:
            export_adapter(source.run, weights, step=step, base=source.base, folder=target)
            return
        weights = merged_weights(source.run, weights, source.base)
    export_model(source.run, weights, step=step, base=source.base, folder=target, progress=progress)


def _as_gguf(folder: Path, name: str, longest_answer: int) -> dict[str, str]:
    """NAME.gguf and a Modelfile beside the exported folder, so that its record stays what it is; their paths."""
    from finetune_trainer.files.atomic import write_atomically
    from finetune_trainer.publishing.gguf import convert
    from finetune_trainer.publishing.model_folder import read_exported
    from finetune_trainer.publishing.ollama import modelfile

    place = folder.resolve().with_name(f"{folder.resolve().name}-gguf")
    place.mkdir(exist_ok=True)
    weights, recipe = place / f"{name}.gguf", place / "Modelfile"
    write_atomically(recipe, modelfile(folder, weights.name, longest_answer))
    convert(folder.resolve(), weights, read_exported(folder).dtype)
    return {"gguf": str(weights), "modelfile": str(recipe)}


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
