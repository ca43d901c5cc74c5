"""What is observed of one FineTuneJob: the values that every decision is a function of.

In: objects as the API server gives them. Out: frozen values; what is read of a child object is read here once. Nothing is
decided here, and nothing is asked of the API server.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from finetune_api.conditions import ConditionType, find, is_true
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import Budget, FineTuneJob
from finetune_api.former_words import in_todays_words
from finetune_api.jobfile import parse_job
from finetune_api.report import FineTuneReport, FineTuneReportStatus
from finetune_api.status import AttemptStatus, DefaultsStatus, FineTuneJobStatus
from finetune_api.training_run import TrainingRun
from finetune_operator import keys
from finetune_operator.pods import Controller, Pod
from finetune_operator.queueing import Held, held
from finetune_operator.resources.owner import Owner, owner_of

Json = dict[str, Any]

# What KubeRay writes under keys.NODE_TYPE_LABEL.
HEAD: Final = "head"
# Kinds of what controls a job's pods.
JOB: Final = "Job"
RAY_CLUSTER: Final = "RayCluster"
# Fields of workers that say how many ranks there are, and how long they may take to start.
_RANKS: Final = ("nodes", "workersPerNode", "gpusPerNode", "device", "startDeadlineSeconds")


class KubeRay(StrEnum):
    """Whether RayJobs can be made."""

    PRESENT = "Present"
    ABSENT = "Absent"  # the API server knows no RayJob
    FORBIDDEN = "Forbidden"  # the operator may not read RayJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An object that the API server didn't let us make or change, or wouldn't: then `planning` is refused, and nothing was made."""

    reason: str  # a Reason
    name: str
    message: str
    needs_person: bool
    planning: bool = False
    # How long to wait before trying again.
    retry_seconds: float = 30.0


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
    def lingers(self) -> bool:
        """Whether its driver has ended and KubeRay (1.6) keeps its pods all the same: it waits for the submitter's pod to end."""
        return self.driver_ended and self.deployment == "Running" and not self.deleting

    @property
    def queued(self) -> bool:
        """Whether others hold it back, as Kueue does until it admits it."""
        return not self.terminal and (self.suspended or self.deployment in ("Suspending", "Suspended"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One job and everything that belongs to it, at one moment.

    `job` is None when the models refuse the spec; `problems` says why. `run` is the frozen run that the status names, read
    from `run_text` in its ConfigMap; `run_problem` says that another is in there; with neither text nor problem that ConfigMap is gone.
    `pods` are the job's own (`own_pods`), oldest first. `workloads` are Kueue's, by the uid of the Job or RayJob that is held back.
    `defaults` are in `job` already; `defaults_problem` says why they can't be had.
    """

    raw: Json
    now: datetime
    job: FineTuneJob | None = None
    problems: str = ""
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    report: FineTuneReport | None = None
    jobs: tuple[Json, ...] = ()
    rayjobs: tuple[RayJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    run: TrainingRun | None = None
    run_text: str = ""
    run_problem: str = ""
    kuberay: KubeRay = KubeRay.PRESENT
    kuberay_message: str = ""
    refusal: Refusal | None = None
    workloads: Mapping[str, Json] = field(default_factory=dict)
    defaults: DefaultsStatus | None = None
    defaults_problem: str = ""

    @property
    def owner(self) -> Owner:
        return owner_of(self.raw)

    @property
    def generation(self) -> int:
        return int(self.raw["metadata"].get("generation", 1))

    @property
    def has_former_run(self) -> bool:
        """Whether the frozen run is whole, and under another contract: its image reads it, and nothing may be made in its place."""
        return self.run is None and bool(self.run_text)

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.raw["metadata"]

    def batch_job(self, name: str) -> Json | None:
        """The Job of that name."""
        return next((job for job in self.jobs if job["metadata"]["name"] == name), None)

    def batch_jobs(self, stage: str) -> list[Json]:
        """Jobs of a stage."""
        return [job for job in self.jobs if job["metadata"].get("labels", {}).get(keys.STAGE_LABEL) == stage]

    def pods_of_stage(self, stage: str) -> list[Pod]:
        """Pods of a stage, submitters among those of training."""
        return [pod for pod in self.pods if pod.labels.get(keys.STAGE_LABEL) == stage]

    def pods_of_job(self, job: Json) -> list[Pod]:
        """Pods that the Job made, oldest first."""
        return [pod for pod in self.pods if pod.controller is not None and pod.controller.uid == job["metadata"]["uid"]]

    def pods_of_cluster(self, cluster: str) -> list[Pod]:
        """Pods of the RayCluster of that name: the head and the workers."""
        return self._controlled_by(RAY_CLUSTER, cluster)

    def submitters_of(self, rayjob: str) -> list[Pod]:
        """Pods of the Job in which KubeRay hands the RayJob's entrypoint to Ray. It has the RayJob's name, and none of our labels."""
        return self._controlled_by(JOB, rayjob)

    def _controlled_by(self, kind: str, name: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.controller is not None and (pod.controller.kind, pod.controller.name) == (kind, name)]

    def rayjob(self, name: str) -> RayJob | None:
        """The RayJob of that name."""
        return next((rayjob for rayjob in self.rayjobs if rayjob.name == name), None)

    def rayjob_of(self, attempt: AttemptStatus) -> RayJob | None:
        """The RayJob that the attempt recorded, and not another one of its name."""
        found = self.rayjob(attempt.ray_job.name) if attempt.ray_job else None
        return found if found is not None and attempt.ray_job is not None and found.uid == attempt.ray_job.uid else None

    def held(self, rayjob: RayJob) -> Held:
        """Why others hold a RayJob back."""
        return held("RayJob", rayjob.name, self.workloads.get(rayjob.uid))

    def report_of(self, attempt: AttemptStatus) -> FineTuneReportStatus | None:
        """What the attempt's own driver reports; what another cluster reported doesn't count."""
        cluster = attempt.ray_job.cluster if attempt.ray_job else None
        if self.report is None or cluster is None or self.report.status.cluster != cluster:
            return None
        return self.report.status


def own_pods(
    pods: Iterable[Pod], owner: Owner, status: FineTuneJobStatus, *, jobs: Iterable[Json], rayjobs: Iterable[RayJob]
) -> tuple[Pod, ...]:
    """The pods that are the job's, oldest first: those of a Job of ours, and of the RayCluster and the submitter's Job of a RayJob of ours.

    Labels don't count: `kubectl debug --copy-to` copies them. A RayCluster is known by its name, which the RayJob's status has before
    KubeRay makes it, and attempts remember. A Job that was deleted before its pods is known by the name that we gave it.
    """
    recorded = [attempt.ray_job for attempt in status.attempts if attempt.ray_job is not None]
    uids = {job["metadata"]["uid"] for job in jobs}
    clusters = {reference.cluster for reference in recorded} | {rayjob.cluster for rayjob in rayjobs}
    submitters = {reference.name for reference in recorded} | {rayjob.name for rayjob in rayjobs}

    def is_own(by: Controller | None) -> bool:
        if by is not None and by.kind == JOB:
            return by.uid in uids or by.name in submitters or keys.is_job_name(owner.name, by.name)
        return by is not None and by.kind == RAY_CLUSTER and by.name in clusters

    return tuple(sorted((pod for pod in pods if is_own(pod.controller)), key=lambda pod: (pod.created or "", pod.name)))


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


def is_held(job: Json) -> bool:
    """Whether others hold a Job back that has not ended: nobody else suspends Jobs."""
    return bool((job.get("spec") or {}).get("suspend")) and not (job.get("status") or {}).get("completionTime")


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
    frozen = _outline(observed) if observed.has_former_run else observed.run.job if observed.run is not None else None
    if frozen is None or attempt is None or attempt.ray_job is None:
        return None
    raw = observed.raw["spec"]
    hours = raw["budget"].get("gpuHours") if isinstance(raw.get("budget"), dict) else None
    budget = Budget(gpu_hours=hours) if isinstance(hours, int | float) and hours > 0 else Budget()
    spec = frozen.spec.model_copy(update={"suspend": raw.get("suspend") is True, "budget": budget})
    return replace(observed, job=frozen.model_copy(update={"spec": spec}))


def _outline(observed: Observed) -> FineTuneJob | None:
    """The job with no more of its spec than following an attempt reads, where the models take that much of it."""
    raw = in_todays_words(observed.raw)
    spec = {name: raw["spec"][name] for name in ("model", "training", "checkpoints", "failurePolicy") if name in raw["spec"]}
    spec["dataset"] = {"sources": [{"path": source.get("path")} for source in raw["spec"]["dataset"]["sources"]]}
    spec["workers"] = {name: value for name, value in raw["spec"].get("workers", {}).items() if name in _RANKS}
    try:
        return parse_job({**raw, "metadata": {"name": observed.owner.name, "namespace": observed.owner.namespace}, "spec": spec})
    except InvalidSpec:
        return None


def is_settled(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether an attempt's RayJob was seen and the spec is the planned one: what comes before training is fixed then.

    A spec that was planned once may be one that this operator's models refuse: another version of them planned it.
    """
    attempt, planned = last_attempt(status), find(status.conditions, ConditionType.PLANNED)
    if observed.job is None or attempt is None or attempt.outcome is not None or attempt.ray_job is None or planned is None:
        return False
    return planned.status == "True" and planned.observed_generation == observed.generation
