"""A run on this machine, and what every stage asks of it: its checkpoints, and to end when a stop is asked for."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.errors import Interrupted
from finetune_api.finetunejob import FineTuneJob
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.reporting.events import Event, Sink
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets


@dataclass(slots=True, kw_only=True)
class LocalRun:
    """One run on this machine. `base` is where relative paths of the job begin; `sink` is the user's (a terminal, JSON lines).

    `profile`: the first and the last step of a trace.
    """

    job: FineTuneJob
    base: Path
    folder: RunFolder
    sink: Sink
    stop: threading.Event
    dashboard: bool = False
    profile: tuple[int, int] | None = None
    secrets: Secrets = field(default_factory=Secrets)


def checkpoints_of(local: LocalRun) -> CheckpointStore:
    return job_checkpoints(local.job, base=local.base, default=local.folder.storage, secrets=local.secrets)


def until_stopped(local: LocalRun, sink: Sink, stage: str) -> Callable[[Event], None]:
    """Records events, and ends a stage that has nothing to lose when a stop is asked for."""

    def record(event: Event) -> None:
        sink.record(event)
        if local.stop.is_set():
            raise Interrupted(f"stopped during {stage}; nothing is lost, the same command goes on")

    return record
