"""`finetune run`: the whole job on this machine."""

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer


def run(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A FineTuneJob file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field of spec, such as training.epochs=1; repeatable."),
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option(help="Where everything of this run is kept.", show_default="runs/NAME", metavar="FOLDER")
    ] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Run the workers with Ray and print its dashboard's address.")] = False,
    profile: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Trace these steps with torch's profiler, into FOLDER/profile.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")] = False,
) -> None:
    """Fine-tune: prepare the data, train, export, evaluate and publish.

    Stopped or killed at any point, the same command goes on from the newest checkpoint. The first Ctrl-C commits a
    checkpoint and ends; a second one ends at once.
    """
    from finetune_api.jobfile import load_job
    from finetune_cli.terminal import progress_sink
    from finetune_trainer.training.profiling import steps_of

    try:
        steps = None if profile is None else steps_of(profile)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--profile") from None
    loaded = load_job(job, overrides or [])
    # From here on a second is spent on imports.
    from finetune_assistant.job_evaluation.stage import JobEvaluation
    from finetune_trainer.pipeline import run_job
    from finetune_trainer.run_folder import RunFolder
    from finetune_trainer.stages.local_run import LocalRun

    folder = RunFolder((run_folder or Path("runs") / loaded.metadata.name).resolve())
    sink = progress_sink(as_json=as_json)
    try:
        stop = stop_on_signals()
        local = LocalRun(job=loaded, base=job.resolve().parent, folder=folder, sink=sink, stop=stop, dashboard=dashboard, profile=steps)
        run_job(local, JobEvaluation())
    finally:
        sink.close()


def stop_on_signals() -> threading.Event:
    """An event that the first SIGINT or SIGTERM sets; another one, a second later or more, raises KeyboardInterrupt.

    `timeout` and others signal their child and then its whole process group: the child gets one wish twice.
    """
    stop = threading.Event()
    asked = 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if stop.is_set():
            if time.monotonic() - asked >= 1:
                print("stopped at once; the same command goes on from the newest checkpoint, if there is one", file=sys.stderr)
                raise KeyboardInterrupt
            return
        asked = time.monotonic()
        stop.set()
        print("stopping after a checkpoint; once more to stop at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop
