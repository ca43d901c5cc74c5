"""What a stage's pod is given, and how it says how it went.

In: files and variables that the operator set. Out: JSON lines in the log, one PodResult in the termination message, an exit code.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.errors import InvalidTrainingRun, StorageFailed
from finetune_api.field_use import use_of
from finetune_api.fields import key
from finetune_api.finetunejob import Evaluation, FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_api.pod_result import PodResult
from finetune_api.training_run import TrainingRun
from finetune_trainer.data.hub import DataUnreachable
from finetune_trainer.model.hub import ModelUnreachable
from finetune_trainer.pods.last_lines import last_lines
from finetune_trainer.publishing.changes import GateClosed
from finetune_trainer.reporting.bars import bars_on_a_terminal_only
from finetune_trainer.reporting.events import Event, Notice, to_json
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.storage.errors import no_room
from finetune_trainer.storage.kept_logs import End, LogPlace, kept, printed_to, teed
from finetune_trainer.storage.protocol import Storage

JOB_FILE = Path("/etc/finetune/job/job.json")
RUN_ENV = "FINETUNE_RUN"
SCRATCH_ENV = "FINETUNE_SCRATCH"
TERMINATION_LOG = Path("/dev/termination-log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """Where a pod's files are. Tests give other paths than a pod has."""

    scratch: Path
    job_file: Path = JOB_FILE
    run_file: Path | None = None
    termination_log: Path = TERMINATION_LOG
    # Where the pod's log is kept, once that is known to be the job's place.
    log_place: LogPlace = field(default_factory=LogPlace)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Pod":
        """As the operator set it."""
        run = environment.get(RUN_ENV)
        return cls(scratch=Path(environment.get(SCRATCH_ENV, "/var/lib/finetune")), run_file=Path(run) if run else None)

    @contextmanager
    def logged(self, folder: str, others: Callable[[], Mapping[str, Path]] = dict) -> Iterator[None]:
        """While the block runs, what this process prints is also kept as `logs/<folder>/` in the job's storage, from `keep_log` on.

        `others`: logs of other programs of this pod, by folder.
        """
        with ExitStack() as stack:
            log = self.scratch / "log"
            files = printed_to()
            stack.enter_context(
                kept(
                    self.log_place,
                    folder,
                    files or [log],
                    others=others,
                    masked=Secrets().masked,
                    warn=lambda text: JsonLines().record(Notice(message=text)),
                )
            )
            if not files:  # ends first: the last lines are in the file when it is read for the last time
                stack.enter_context(teed(log))
            yield

    def keep_log(self, storage: Storage) -> None:
        """From now on the log goes to this storage, with what was printed before."""
        self.log_place.storage = storage

    def job(self) -> FineTuneJob:
        """The job as it is now. Raises InvalidSpec."""
        return parse_job(json.loads(self.job_file.read_bytes()))

    def run(self) -> TrainingRun:
        """The frozen run. Raises InvalidTrainingRun."""
        if self.run_file is None:
            raise InvalidTrainingRun(f"{RUN_ENV} is not set; it names the frozen run's file")
        return TrainingRun.from_json(self.run_file.read_bytes())

    def run_as_asked(self) -> TrainingRun:
        """The frozen run with what the job asks for now after training: attempts don't read that, so it may change after them.

        Raises InvalidTrainingRun or InvalidSpec.
        """
        run, asked = self.run(), self.job().spec
        after = {
            name: getattr(asked.evaluation, name)
            for name in Evaluation.model_fields
            if not use_of(f"evaluation.{key(name, Evaluation)}").run
        }
        evaluation = run.job.spec.evaluation.model_copy(update=after)
        spec = run.job.spec.model_copy(update={"evaluation": evaluation, "publish": asked.publish})
        return run.model_copy(update={"job": run.job.model_copy(update={"spec": spec})})

    def local(self, job: FineTuneJob, stop: threading.Event | None = None) -> LocalRun:
        """The job on this pod: everything is under scratch, and events are lines of the log."""
        return LocalRun(
            job=job, base=self.scratch, folder=RunFolder(self.scratch / "run"), sink=JsonLines(), stop=stop or threading.Event()
        )


def pod_name(environment: Mapping[str, str] = os.environ) -> str:
    """The pod that we are in; Kubernetes makes its name the host's."""
    return environment.get("HOSTNAME") or "pod"


class JsonLines:
    """A sink that writes events to the pod's log: to the stdout of this moment, for libraries are given another while they would print."""

    def __init__(self) -> None:
        """The stream stays open."""
        self._stream = sys.stdout

    def record(self, event: Event) -> None:
        """One line an event."""
        print(to_json(event), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to close."""


def failed_result(error: BaseException) -> PodResult:
    """How a stage ended that raised, with the last lines of why."""
    return _judged(error).model_copy(update={"last_lines": last_lines(error)})


def _judged(error: BaseException) -> PodResult:
    """What a Hub that was away refused, or a full disk, may go well later, and a gate stays closed."""
    if not isinstance(error, StorageFailed) and (why := no_room(error)):
        full = f"there is no room on the pod's disk ({why}); raise ephemeral-storage in spec.cpuPods.resources"
        return PodResult.failed(StorageFailed(full))
    result = PodResult.failed(error)
    if isinstance(error, ModelUnreachable | DataUnreachable):
        return result.model_copy(update={"permanent": False})
    if isinstance(error, GateClosed):
        return result.model_copy(update={"permanent": True, "reason": GateClosed.__name__})
    return result


def run_stage(stage: Callable[[Pod], PodResult], pod: Pod) -> int:
    """Run a stage; however it ends, its result is in the termination message. The exit code."""
    bars_on_a_terminal_only()
    try:
        result = stage(pod)
    except Exception as error:  # the pod's edge: whatever it is, the operator and the user must learn of it
        result = failed_result(error)
        if result.reason == "Unexpected":
            sys.excepthook(type(error), error, error.__traceback__)
    pod.log_place.end = End(outcome=result.outcome, reason=result.reason or "", message=result.message or "", exit_code=result.exit_code)
    message = result.to_termination_message()
    print(message, flush=True)
    try:
        pod.termination_log.write_text(message, encoding="utf-8")
    except OSError as error:
        print(f"{pod.termination_log} can't be written: {error}", file=sys.stderr)
    return result.exit_code
