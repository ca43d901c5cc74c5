"""What of a run's folder outlives its pods: measurements and report, beside the checkpoints in the job's storage."""

from finetune_api.errors import FineTuneError
from finetune_trainer.checkpoints.job_storage import job_storage
from finetune_trainer.pipeline import LocalRun
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Notice
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.protocol import Storage

METRICS = "metrics.jsonl"
REPORT = "report.html"


def storage_of(local: LocalRun) -> Storage:
    """The job's storage."""
    return job_storage(local.job, base=local.base, default=local.folder.storage, secrets=local.secrets)


def fetch_metrics(local: LocalRun) -> None:
    """Bring what earlier attempts measured into the run folder, if there is anything."""
    try:
        local.folder.path.mkdir(parents=True, exist_ok=True)
        storage_of(local).get_file(METRICS, local.folder.metrics)
    except MissingObject:
        pass


class MetricsCopy:
    """A sink that copies metrics.jsonl to storage with every checkpoint: the two say the same about steps that count.

    A copy that fails is a notice: measurements are worth less than the run.
    """

    def __init__(self, local: LocalRun) -> None:
        self._local = local

    def record(self, event: Event) -> None:
        """A checkpoint is the moment."""
        if isinstance(event, CheckpointCommitted):
            self.copy()

    def copy(self) -> None:
        """Copy now."""
        try:
            if self._local.folder.metrics.exists():
                storage_of(self._local).put_file(METRICS, self._local.folder.metrics)
        except (OSError, FineTuneError) as error:
            self._local.sink.record(Notice(message=f"{METRICS} was not copied to storage: {error}"))

    def close(self) -> None:
        """Nothing to close."""


def put_report(local: LocalRun) -> None:
    """Put report.html beside the checkpoints, if one was written. What stands in its way doesn't undo a publication."""
    try:
        if local.folder.report.exists():
            storage_of(local).put_file(REPORT, local.folder.report)
    except (OSError, FineTuneError) as error:
        local.sink.record(Notice(message=f"{REPORT} was not copied to storage: {error}"))
