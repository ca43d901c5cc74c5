"""What of a run's folder outlives its pods: measurements, TensorBoard's files and report, beside the checkpoints in the job's storage."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from finetune_api.errors import FineTuneError
from finetune_api.keys import TRAINING
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.job_storage import job_storage
from finetune_trainer.pods.prepared_objects import prepared_key
from finetune_trainer.preparation.store import META, store_folder
from finetune_trainer.reporting.events import CheckpointCommitted, EvaluationDone, Event, Notice, StepDone
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.kept_logs import LOGS
from finetune_trainer.storage.protocol import Storage

METRICS = "metrics.jsonl"
REPORT = "report.html"
TENSORBOARD = "tensorboard"
# How old what people read in storage may be. TensorBoard itself looks every half minute.
LIVE_SECONDS = 30.0


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


def fetch_statistics(local: LocalRun, run: TrainingRun) -> None:
    """Bring what the preparation counted, and what the data's own cards say, into the run folder: for report and model card.

    Of the store it is meta.json alone, in a pod that reads no data.
    """
    meta = store_folder(local.folder.prepared, run.data.fingerprint) / META
    if meta.exists():
        return
    try:
        meta.parent.mkdir(parents=True, exist_ok=True)
        storage_of(local).get_file(prepared_key(run.data.fingerprint, META), meta)
    except MissingObject:  # the card then says that it is unknown
        pass


class LiveCopies:
    """A sink that keeps what people read beside the checkpoints up to date: metrics.jsonl, TensorBoard's files, the report.

    metrics.jsonl goes with every checkpoint, before anything else happens: the two say the same about steps that count. All of it
    goes once in a while in a thread of its own, so that storage that is slow holds up nobody. What fails is a notice: measurements
    are worth less than the run.
    """

    def __init__(
        self, local: LocalRun, attempt: str, *, report: Callable[[], None] = lambda: None, every_seconds: float = LIVE_SECONDS
    ) -> None:
        """`report` writes the report as it would be now. `attempt`: beside whose logs both are kept as they are at its end."""
        self._local, self._attempt = local, attempt
        self._report = report
        self._every_seconds = every_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live-copies")
        self._under_way: Future[None] | None = None
        self._last = float("-inf")
        self._is_closed = False

    def record(self, event: Event) -> None:
        """A checkpoint is the moment for the measurements, a step or an evaluation that for all of it, unless that was just now."""
        if isinstance(event, CheckpointCommitted):
            self._copy(self._local.folder.metrics, METRICS)
        elif isinstance(event, StepDone | EvaluationDone) and self._due():
            self._last = time.monotonic()
            self._under_way = self._thread.submit(self._copy_all)

    def _due(self) -> bool:
        idle = self._under_way is None or self._under_way.done()
        return idle and time.monotonic() - self._last >= self._every_seconds

    def close(self) -> None:
        """Copy all of it now, also to the attempt's logs: the next attempt goes on with the same files. The thread ends."""
        if self._is_closed:
            return
        self._is_closed = True
        self._thread.submit(self._copy_all).result()
        for path, name in ((self._local.folder.metrics, METRICS), (self._local.folder.report, REPORT)):
            self._copy(path, f"{LOGS}/{TRAINING}/{self._attempt}/{name}")
        self._thread.shutdown()

    def _copy_all(self) -> None:
        self._copy(self._local.folder.metrics, METRICS)
        for file in sorted(self._local.folder.tensorboard.glob("events.*")):
            self._copy(file, f"{TENSORBOARD}/{file.name}")
        self._report()
        self._copy(self._local.folder.report, REPORT)

    def _copy(self, path: Path, key: str) -> None:
        try:
            if path.exists():
                storage_of(self._local).put_file(key, path)
        except (OSError, FineTuneError) as error:
            self._local.sink.record(Notice(message=f"{key} was not copied to storage: {error}"))


def put_report(local: LocalRun) -> None:
    """Put report.html beside the checkpoints, if one was written. What stands in its way doesn't undo a publication."""
    try:
        if local.folder.report.exists():
            storage_of(local).put_file(REPORT, local.folder.report)
    except (OSError, FineTuneError) as error:
        local.sink.record(Notice(message=f"{REPORT} was not copied to storage: {error}"))
