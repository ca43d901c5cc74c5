"""What a job asks to be measured of its exported model, by whoever may talk to models: this package can't."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_api.training_run import TrainingRun
from finetune_trainer.publishing.changes import judge_goes_on
from finetune_trainer.reporting.events import Event, Notice, Sink
from finetune_trainer.stages.export import Exported
from finetune_trainer.stages.local_run import LocalRun, until_stopped


class EvaluationStage(Protocol):
    """What is measured after training, by whoever may talk to models: this package can't."""

    def check(self, local: LocalRun) -> None:
        """Refuse before training what would fail after it. Nothing happens for a job that asks for no such evaluation."""

    def measure(self, local: LocalRun, exported: Exported, folder: Path, digest: str, record: Callable[[Event], None]) -> EvaluationSummary:
        """Measure an exported checkpoint, into `folder`: what an earlier call left there isn't done again. `record` ends it by raising."""


def measure_model(local: LocalRun, run: TrainingRun, exported: Exported, stage: EvaluationStage, sink: Sink) -> EvaluationSummary | None:
    """What the job asks to be measured of the exported model; None where it asks for nothing. Not measured again if it is there."""
    if not run.job.spec.evaluation.has_stage:
        return None
    folder, kept = local.folder.evaluation(run), local.folder.summary(run)
    if kept is not None and kept.checkpoint == exported.checkpoint and not judge_goes_on(run.job.spec.publish.gate, kept):
        sink.record(Notice(message=f"step {exported.step} is evaluated already: {folder}"))
        return kept
    return stage.measure(local, exported, folder, evaluation_digest(run.identity, run.job), until_stopped(local, sink, "evaluation"))
