"""What is observed of one FineTuneJob: the values that every decision is a function of.

In: objects as the API server gives them. Out: frozen values; what is read of a child object is read here once. Nothing is
decided here, and nothing is asked of the API server.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from finetune_api.conditions import ConditionType, find, is_true
from finetune_api.finetunejob import Budget, FineTuneJob
from finetune_api.report import FineTuneReport, FineTuneReportStatus
from finetune_api.status import AttemptStatus, FineTuneJobStatus
from finetune_api.training_run import TrainingRun
from finetune_operator import keys
from finetune_operator.resources.owner import Owner, owner_of

Json = dict[str, Any]

# Written by KubeRay on its pods.
CLUSTER_LABEL: Final = "ray.io/cluster"
HEAD: Final = "head"


class KubeRay(StrEnum):
    """Whether RayJobs can be made."""

    PRESENT = "Present"
    ABSENT = "Absent"  # the API server knows no RayJob
    FORBIDDEN = "Forbidden"  # the operator may not read RayJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An object that the API server didn't let us make or change."""

    reason: str  # a Reason
    name: str
    message: str
    needs_person: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What is read of a RayJob. `cluster` is empty until KubeRay has named one, and while the RayJob is suspended."""

    name: str
    uid: str
    created: str | None
    deleting: bool
    suspended: bool
    cluster: str
    job_status: str
    deployment: str
    reason: str
    message: str
    dashboard: str
    started: str | None
    ended: str | None

    @property
    def terminal(self) -> bool:
        """Whether KubeRay does nothing more with it."""
        return self.deployment in ("Complete", "Failed", "ValidationFailed") or self.driver_ended

    @property
    def driver_ended(self) -> bool:
        """Whether its driver ran, and ended."""
        return self.job_status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def queued(self) -> bool:
        """Whether others hold it back, as Kueue does until it admits it."""
        return not self.terminal and (self.suspended or self.deployment in ("Suspending", "Suspended"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One job and everything that belongs to it, at one moment.

    `job` is None when the models refuse the spec; `problems` says why. `run` is the frozen run that the status names, read
    from `run_text` in its ConfigMap; `run_problem` says why it can't be read; with neither that ConfigMap is gone.
    """

    raw: Json
    now: datetime
    job: FineTuneJob | None = None
    problems: str = ""
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    report: FineTuneReport | None = None
    jobs: tuple[Json, ...] = ()
    rayjobs: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    run: TrainingRun | None = None
    run_text: str = ""
    run_problem: str = ""
    kuberay: KubeRay = KubeRay.PRESENT
    kuberay_message: str = ""
    refusal: Refusal | None = None

    @property
    def owner(self) -> Owner:
        return owner_of(self.raw)

    @property
    def generation(self) -> int:
        return int(self.raw["metadata"].get("generation", 1))

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.raw["metadata"]

    def batch_job(self, name: str) -> Json | None:
        """The Job of that name."""
        return next((job for job in self.jobs if job["metadata"]["name"] == name), None)

    def batch_jobs(self, stage: str) -> list[Json]:
        """Jobs of a stage."""
        return [job for job in self.jobs if job["metadata"].get("labels", {}).get(keys.STAGE_LABEL) == stage]

    def pods_of(self, label: str, value: str) -> list[Json]:
        """Pods with a label, oldest first."""
        found = [pod for pod in self.pods if pod["metadata"].get("labels", {}).get(label) == value]
        return sorted(found, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def rayjob(self, name: str) -> RayJob | None:
        """The RayJob of that name."""
        return next((rayjob for rayjob in map(read_rayjob, self.rayjobs) if rayjob.name == name), None)

    def rayjob_of(self, attempt: AttemptStatus) -> RayJob | None:
        """The RayJob that the attempt recorded, and not another one of its name."""
        found = self.rayjob(attempt.ray_job.name) if attempt.ray_job else None
        return found if found is not None and attempt.ray_job is not None and found.uid == attempt.ray_job.uid else None

    def report_of(self, attempt: AttemptStatus) -> FineTuneReportStatus | None:
        """What the attempt's own driver reports; what another cluster reported doesn't count."""
        cluster = attempt.ray_job.cluster if attempt.ray_job else None
        if self.report is None or cluster is None or self.report.status.cluster != cluster:
            return None
        return self.report.status


def read_rayjob(raw: Json) -> RayJob:
    """What is read of a RayJob."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    info = status.get("rayJobInfo") or {}
    return RayJob(
        name=metadata["name"],
        uid=metadata["uid"],
        created=metadata.get("creationTimestamp"),
        deleting="deletionTimestamp" in metadata,
        suspended=bool(spec.get("suspend")),
        cluster=status.get("rayClusterName") or "",
        job_status=status.get("jobStatus") or "",
        deployment=status.get("jobDeploymentStatus") or "",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        dashboard=status.get("dashboardURL") or "",
        # When its driver started, which is when all pods had; else when KubeRay began with it.
        started=info.get("startTime") or status.get("startTime"),
        ended=status.get("endTime") or info.get("endTime"),
    )


def last_attempt(status: FineTuneJobStatus) -> AttemptStatus | None:
    """The newest attempt."""
    return status.attempts[-1] if status.attempts else None


def is_running(status: FineTuneJobStatus) -> bool:
    """Whether an attempt is entered and hasn't ended."""
    attempt = last_attempt(status)
    return attempt is not None and attempt.outcome is None


def is_finished(status: FineTuneJobStatus) -> bool:
    """Whether the job succeeded or failed; `retry` may reopen a failed one."""
    return is_true(status.conditions, ConditionType.SUCCEEDED) or is_true(status.conditions, ConditionType.FAILED)


def as_frozen(observed: Observed) -> Observed | None:
    """What is observed of an attempt that runs under a spec that the models refuse, with the job that its run was frozen from.

    Of what a run leaves out `suspend` and the GPU hours are read, which stop an attempt. None when the run can't be read either, or
    the attempt has no RayJob yet.
    """
    attempt = last_attempt(observed.status)
    if observed.run is None or attempt is None or attempt.ray_job is None:
        return None
    frozen = observed.run.job
    raw = observed.raw["spec"]
    hours = raw["budget"].get("gpuHours") if isinstance(raw.get("budget"), dict) else None
    budget = Budget(gpu_hours=hours) if isinstance(hours, int | float) and hours > 0 else Budget()
    spec = frozen.spec.model_copy(update={"suspend": raw.get("suspend") is True, "budget": budget})
    return replace(observed, job=frozen.model_copy(update={"spec": spec}))


def is_settled(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether an attempt's RayJob was seen and the spec is the planned one: what comes before training is fixed then.

    A spec that was planned once may be one that this operator's models refuse: another version of them planned it.
    """
    attempt, planned = last_attempt(status), find(status.conditions, ConditionType.PLANNED)
    if observed.job is None or attempt is None or attempt.outcome is not None or attempt.ray_job is None or planned is None:
        return False
    return planned.status == "True" and planned.observed_generation == observed.generation
