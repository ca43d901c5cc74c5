"""The report of a run, and the data of it that a model card shows, too."""

from finetune_api.errors import FineTuneError
from finetune_api.training_run import TrainingRun
from finetune_trainer.machine import library_versions
from finetune_trainer.reporting.events import CheckpointCommitted, Notice, Sink
from finetune_trainer.reporting.report import ReportData, report_data, write_report
from finetune_trainer.stages.local_run import LocalRun, checkpoints_of


def run_report_data(local: LocalRun, run: TrainingRun, *, outcome: str = "finished", published: str = "") -> ReportData:
    committed = [
        CheckpointCommitted(
            step=one.step,
            seconds=one.extra.get("seconds", 0.0),
            bytes=one.num_bytes,
            key=one.key,
            write_seconds=one.extra.get("writeSeconds", 0.0),
        )
        for one in checkpoints_of(local).candidates()
    ]
    return report_data(
        local.folder.path,
        run=run,
        outcome=outcome,
        checkpoints=committed[::-1],
        versions=library_versions(),
        published=published,
        evaluation=local.folder.summary(run),
    )


def write_run_report(local: LocalRun, run: TrainingRun, sink: Sink, *, outcome: str = "finished", published: str = "") -> None:
    """Write the report; what stands in its way (a full disk, storage that is gone) must neither hide a failure nor undo a success."""
    try:
        write_report(run_report_data(local, run, outcome=outcome, published=published), local.folder.report)
    except (OSError, FineTuneError) as error:
        sink.record(Notice(message=f"no report was written: {error}"))
