"""How attempts end, as a table; and when the next one begins."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.finetunejob import FailurePolicy
from finetune_api.pod_result import PodResult
from finetune_api.report import FineTuneReportStatus, ReportedCheckpoint, ReportOutcome
from finetune_api.status import AttemptOutcome, AttemptStatus, RayJobReference
from finetune_api.times import timestamp
from finetune_operator import keys
from finetune_operator.backing_off import next_start
from finetune_operator.failures import Ending, Evidence, ending, overdue
from finetune_operator.observation import RayJob, read_rayjob
from finetune_operator.pods import Ended, Pod

from . import builders
from .fakes import START

CLUSTER = "starchat-1-abcde"
LATER = START + timedelta(seconds=60)
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
TAINTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "taint manager"}
# What the node lifecycle controller of Kubernetes 1.34 leaves of a kubelet's "Ready: True".
UNREADY = {"type": "Ready", "status": "False"}


def rayjob(deployment: str = "Running", *, job: str = "RUNNING", cluster: str = CLUSTER, suspend: bool = False, **more: Any) -> RayJob:
    status = builders.rayjob_status(deployment, job=job, cluster=cluster) | more
    manifest = {"metadata": {"name": "starchat-1"}, "spec": {"suspend": suspend}}
    return read_rayjob(builders.stored(manifest, **status))


def report(outcome: str, **more: Any) -> FineTuneReportStatus:
    return FineTuneReportStatus(cluster=CLUSTER, outcome=ReportOutcome(outcome), **more)


def head(**state: Any) -> Pod:
    labels = {keys.NODE_TYPE_LABEL: "head"}
    return builders.pod("head", stage=keys.TRAINING, container=keys.HEAD_CONTAINER, labels=labels, **state)


def worker(**state: Any) -> Pod:
    labels = {keys.NODE_TYPE_LABEL: "worker"}
    return builders.pod("worker", stage=keys.TRAINING, container=keys.WORKER_CONTAINER, labels=labels, **state)


def out_of_memory(pod: Pod, *, before: bool = False) -> Pod:
    """The pod, whose container the kernel ended for its memory: now, or `before` the kubelet started it again."""
    (container,) = pod.containers
    end = Ended(exit_code=137, result=None, reason="OOMKilled", message="the container ran out of memory; raise its memory limit")
    ended = {"ended": None, "ended_before": end} if before else {"ended": end}
    return replace(pod, containers=(replace(container, **ended),))


def attempt(**changes: Any) -> AttemptStatus:
    reference = RayJobReference(name="starchat-1", uid="u", cluster=CLUSTER)
    return AttemptStatus(number=1, start_time=builders.CREATED, ray_job=reference).model_copy(update=changes)


FAILED = rayjob("Failed", job="FAILED", message="Job failed due to an application error")
SUCCEEDED = rayjob("Complete", job="SUCCEEDED")
STOPPED = rayjob("Complete", job="STOPPED")
REFUSED = rayjob("ValidationFailed", job="", cluster="", message="authOptions is not supported")
SUSPENDED = rayjob("Suspended", cluster="", suspend=True)
COMMITTED = ReportedCheckpoint(step=5, attempt=1)
GONE_AT = timestamp(START + timedelta(seconds=300))
OVERDUE = timestamp(LATER - timedelta(seconds=60))
FAILED_NOW = rayjob("Failed", job="FAILED", endTime=timestamp(LATER - timedelta(seconds=20)))
FAILED_BEFORE = rayjob("Failed", job="FAILED", endTime=timestamp(LATER - timedelta(seconds=60)))
LONG_AGO = timestamp(START - timedelta(seconds=300))


@dataclass(frozen=True)
class Case:
    name: str
    rayjob: RayJob | None
    outcome: AttemptOutcome | None
    reason: str = ""
    report: FineTuneReportStatus | None = None
    pods: tuple[Pod, ...] = ()
    stop: str | None = None
    words: str = ""


CASES = [
    Case("runs", rayjob(), None),
    Case("waits for admission", rayjob("Suspended", cluster="", suspend=True), AttemptOutcome.PREEMPTED, "Preempted"),
    Case("was readmitted unseen", rayjob("Initializing", cluster="starchat-1-fghij"), AttemptOutcome.PREEMPTED, "Preempted"),
    Case("is gone", None, AttemptOutcome.DELETED, "RayJobDeleted"),
    Case("is gone after it finished", None, AttemptOutcome.FINISHED, "Finished", report("Finished")),
    Case("is gone because we asked", None, AttemptOutcome.STOPPED, "StopRequested", stop="Suspended"),
    Case("is gone, and its pods still commit", None, None, report=report("Running"), pods=(head(deleted=GONE_AT),)),
    Case("is gone, and its pods aren't yet", None, None, report=report("Running", reported_at=timestamp(START)), pods=(head(),)),
    Case(
        "is gone, its pods stay and are silent",
        None,
        AttemptOutcome.DELETED,
        "RayJobDeleted",
        report("Running", reported_at=LONG_AGO),
        (head(),),
    ),
    Case(
        "is gone, its pods have ended",
        None,
        AttemptOutcome.DELETED,
        "RayJobDeleted",
        report("Running"),
        (head(phase="Failed", exit_code=137),),
    ),
    Case(
        "is gone, its node is lost",
        None,
        AttemptOutcome.DELETED,
        "RayJobDeleted",
        report("Running"),
        (head(deleted=GONE_AT, conditions=(UNREADY,)),),
    ),
    Case("is gone, and only a worker hangs", None, AttemptOutcome.DELETED, "RayJobDeleted", report("Running"), (worker(deleted=GONE_AT),)),
    Case("is gone, and its head hangs", None, AttemptOutcome.DELETED, "RayJobDeleted", report("Running"), (head(deleted=OVERDUE),)),
    Case("is gone, and it committed", None, AttemptOutcome.DELETED, "RayJobDeleted", report("Stopped"), (head(deleted=GONE_AT),)),
    Case(
        "is gone, and that made it fail",
        None,
        AttemptOutcome.DELETED,
        "RayJobDeleted",
        report("Failed", message="worker 1 died"),
        (head(deleted=GONE_AT),),
    ),
    Case("is gone, and nothing trained yet", None, AttemptOutcome.DELETED, "RayJobDeleted", pods=(head(deleted=GONE_AT),)),
    Case("suspended by others, and it still commits", SUSPENDED, None, report=report("Running"), pods=(head(deleted=GONE_AT),)),
    Case(
        "suspended by others, and it committed",
        SUSPENDED,
        AttemptOutcome.PREEMPTED,
        "Preempted",
        report("Stopped"),
        (head(deleted=GONE_AT),),
    ),
    Case(
        "suspended by others, and it was done", SUSPENDED, AttemptOutcome.FINISHED, "Finished", report("Finished"), (head(deleted=GONE_AT),)
    ),
    Case("finished", SUCCEEDED, AttemptOutcome.FINISHED, "Finished", report("Finished")),
    Case("finished, and could not report", SUCCEEDED, AttemptOutcome.FINISHED, "Finished"),
    Case("finished, and KubeRay lost its head", FAILED, AttemptOutcome.FINISHED, "Finished", report("Finished")),
    Case("KubeRay refuses it", REFUSED, AttemptOutcome.FAILED, "TrainingFailed", words="authOptions is not supported"),
    Case("stopped as asked", FAILED, AttemptOutcome.STOPPED, "StopRequested", report("Stopped"), stop="Suspended"),
    Case("stopped as asked, still running", rayjob(), AttemptOutcome.STOPPED, "StopRequested", report("Stopped"), stop="Suspended"),
    Case("stopped, and nobody of us asked", FAILED, AttemptOutcome.PREEMPTED, "Preempted", report("Stopped")),
    Case("stopped from outside", STOPPED, AttemptOutcome.PREEMPTED, "Preempted"),
    Case(
        "stopped by a drain",
        FAILED,
        AttemptOutcome.PREEMPTED,
        "Preempted",
        report("Stopped"),
        (head(conditions=(DRAINED,)),),
        words="evicting",
    ),
    Case(
        "a worker died",
        FAILED,
        AttemptOutcome.FAILED,
        "TrainingFailed",
        report("Failed", reason="TrainingFailed", message="rank 3 died"),
        words="rank 3",
    ),
    Case(
        "a worker's node died",
        FAILED,
        AttemptOutcome.NODE_LOST,
        "NodeLost",
        report("Failed", message="rank 3"),
        (head(conditions=(UNREADY,)),),
    ),
    Case("a worker died, and its node may have", FAILED_NOW, None, report=report("Failed", message="rank 3"), pods=(worker(),)),
    Case("it died, and its node lives", FAILED_BEFORE, AttemptOutcome.FAILED, "TrainingFailed", report("Failed"), (worker(),)),
    Case("it died, and all pods are gone", FAILED_NOW, AttemptOutcome.FAILED, "TrainingFailed", report("Failed")),
    Case(
        "a worker's pod was deleted without warning",
        FAILED_NOW,
        AttemptOutcome.PREEMPTED,
        "WorkerPreempted",
        report("Failed", reason="WorkerPreempted", message="the workers on w1 were taken away"),
        (worker(),),
        words="w1",
    ),
    Case("a worker is lost, before any checkpoint", FAILED, AttemptOutcome.FAILED, "WorkerLost", report("Failed", reason="WorkerLost")),
    Case(
        "a worker is lost, after a checkpoint",
        FAILED,
        AttemptOutcome.NODE_LOST,
        "WorkerLost",
        report("Failed", reason="WorkerLost", checkpoint=COMMITTED),
    ),
    Case(
        "a worker is lost for want of memory, after a checkpoint",
        FAILED,
        AttemptOutcome.FAILED,
        "OutOfMemory",
        report("Failed", reason="WorkerLost", checkpoint=COMMITTED),
        (out_of_memory(worker(phase="Failed", exit_code=137)),),
    ),
    Case("hangs, before any checkpoint", FAILED, AttemptOutcome.FAILED, "NoProgress", report("Failed", reason="NoProgress")),
    Case(
        "hangs, after a checkpoint",
        FAILED,
        AttemptOutcome.HUNG,
        "NoProgress",
        report("Failed", reason="NoProgress", checkpoint=COMMITTED, message="no step for 700 s"),
        words="700 s",
    ),
    Case(
        "hangs, since a node is lost",
        FAILED,
        AttemptOutcome.NODE_LOST,
        "NodeLost",
        report("Failed", reason="NoProgress"),
        (worker(conditions=(UNREADY,)),),
        words="node node-1, on which pod worker is, no longer answers",
    ),
    Case("a pod of a lost node was deleted", FAILED, AttemptOutcome.NODE_LOST, "NodeLost", None, (head(conditions=(TAINTED,)),)),
    Case("its node was drained", FAILED, AttemptOutcome.PREEMPTED, "Preempted", None, (head(phase="Failed", reason="Evicted"),)),
    Case(
        "wrong input",
        FAILED,
        AttemptOutcome.INVALID_INPUT,
        "RunConflict",
        report("Failed", reason="RunConflict", message="m", permanent=True),
    ),
    Case(
        "wrong input, told by the pod only",
        FAILED,
        AttemptOutcome.INVALID_INPUT,
        "InvalidModel",
        pods=(head(phase="Failed", exit_code=2, result=PodResult(outcome="Failed", reason="InvalidModel", message="m", permanent=True)),),
    ),
    Case(
        "stopped, told by the submitter's exit code only",
        FAILED,
        AttemptOutcome.PREEMPTED,
        "Preempted",
        pods=(builders.pod("head", container=keys.SUBMITTER_CONTAINER, phase="Failed", exit_code=3),),
    ),
    Case("nothing was told", FAILED, AttemptOutcome.FAILED, "TrainingFailed", words="application error"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_endings(case: Case) -> None:
    running = attempt(stop_requested=case.stop)
    found = ending(Evidence(attempt=running, rayjob=case.rayjob, report=case.report, pods=case.pods, now=LATER))
    if case.outcome is None:
        assert found is None
        return
    assert isinstance(found, Ending)
    assert (found.outcome, str(found.reason)) == (case.outcome, case.reason)
    assert case.words in found.message


def test_a_queued_rayjob_without_a_cluster_has_not_ended() -> None:
    queued = attempt(ray_job=RayJobReference(name="starchat-1", uid="u"))
    waiting = rayjob("Suspended", cluster="", suspend=True)
    assert ending(Evidence(attempt=queued, rayjob=waiting, report=None, pods=(), now=LATER)) is None


@pytest.mark.parametrize(("seconds", "ended"), [(0, False), (9, False), (10, True), (-30, False), (-3600, True)])
def test_the_drivers_last_words_have_ten_seconds(seconds: float, ended: bool) -> None:
    failed = rayjob("Failed", job="FAILED", endTime=timestamp(START))
    evidence = Evidence(attempt=attempt(), rayjob=failed, report=report("Running"), pods=(), now=START + timedelta(seconds=seconds))
    assert (ending(evidence) is not None) is ended


def test_a_former_attempts_checkpoint_is_none_of_this_one() -> None:
    """Else what hangs at its first step would begin anew for ever."""
    evidence = Evidence(
        attempt=attempt(first_step=5),
        rayjob=FAILED,
        report=report("Failed", reason="NoProgress", checkpoint=COMMITTED),
        pods=(),
        now=LATER,
    )
    found = ending(evidence)
    assert found is not None
    assert found.outcome is AttemptOutcome.FAILED


LOST = "pod worker on node node-7 is gone: somebody deleted it, or its node"


@pytest.mark.parametrize(
    ("said", "stop", "outcome"),
    [
        (None, None, AttemptOutcome.NODE_LOST),
        (report("Running"), None, AttemptOutcome.NODE_LOST),
        (report("Running"), "Suspended", AttemptOutcome.STOPPED),
    ],
    ids=["it never reported", "its driver lives and waits", "it was asked to stop"],
)
def test_a_loss_ends_an_attempt_that_does_not_end_by_itself(
    said: FineTuneReportStatus | None, stop: str | None, outcome: AttemptOutcome
) -> None:
    lost = attempt(lost=LOST, lost_time=timestamp(START), stop_requested=stop)

    def after(seconds: float) -> Evidence:
        return Evidence(attempt=lost, rayjob=rayjob(), report=said, pods=(head(),), now=START + timedelta(seconds=seconds))

    assert overdue(after(20)) == (None, 40.0)
    found, waits = overdue(after(60))
    assert found is not None
    assert (found.outcome, waits) == (outcome, None)
    assert outcome is AttemptOutcome.STOPPED or found.message == LOST


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        ("Finished", None, AttemptOutcome.FINISHED),
        ("Stopped", None, AttemptOutcome.PREEMPTED),
        ("Failed", "TrainingFailed", AttemptOutcome.FAILED),
    ],
)
def test_what_the_driver_told_ends_an_attempt_whose_rayjob_runs_for_ever(
    outcome: str, reason: str | None, expected: AttemptOutcome
) -> None:
    """KubeRay is known for it."""
    said = report(outcome, reason=reason, reported_at=timestamp(START))

    def after(seconds: float) -> Evidence:
        return Evidence(attempt=attempt(), rayjob=rayjob(), report=said, pods=(head(),), now=START + timedelta(seconds=seconds))

    assert overdue(after(119)) == (None, 1.0)
    found, _ = overdue(after(120))
    assert found is not None
    assert found.outcome is expected


@pytest.mark.parametrize("reason", ["WorkerLost", "NoProgress", "TrainingFailed"])
def test_a_failure_after_a_loss_is_nobodys_fault_and_names_pod_and_node(reason: str) -> None:
    """Also before the first checkpoint: that the pod went away is seen, not guessed."""
    failed = Evidence(attempt=attempt(lost=LOST), rayjob=FAILED_NOW, report=report("Failed", reason=reason), pods=(head(),), now=LATER)
    found = ending(failed)
    assert found is not None
    assert (found.outcome, found.message) == (AttemptOutcome.NODE_LOST, LOST)


def test_out_of_memory_is_told_of_a_container_that_was_started_again() -> None:
    pod = out_of_memory(worker(phase="Running"), before=True)
    found = ending(Evidence(attempt=attempt(), rayjob=FAILED, report=report("Failed", message="worker 1 died"), pods=(pod,), now=LATER))
    assert found is not None
    assert found.outcome is AttemptOutcome.FAILED
    assert found.message.startswith("worker 1 died; pod worker: the container ran out of memory")


def test_out_of_memory_is_told() -> None:
    pod = out_of_memory(head(phase="Failed", exit_code=137))
    found = ending(Evidence(attempt=attempt(), rayjob=FAILED, report=None, pods=(pod,), now=LATER))
    assert found is not None
    assert found.outcome is AttemptOutcome.FAILED
    assert "memory" in found.message


# ---- the next one


def ended(*outcomes: AttemptOutcome) -> list[AttemptStatus]:
    return [
        AttemptStatus(number=number, outcome=outcome, completion_time=timestamp(START)) for number, outcome in enumerate(outcomes, start=1)
    ]


@pytest.mark.parametrize(
    ("outcomes", "least", "most"),
    [
        ([AttemptOutcome.FAILED], 30, 30),
        ([AttemptOutcome.FAILED] * 2, 60, 60),
        ([AttemptOutcome.FAILED] * 3, 120, 120),
        ([AttemptOutcome.FAILED] * 19, 3600, 3600),
        ([AttemptOutcome.FAILED, AttemptOutcome.PREEMPTED], 5, 15),
        ([AttemptOutcome.NOT_STARTED] * 3, 20, 60),
        ([AttemptOutcome.NOT_STARTED] * 12, 300, 900),
        ([AttemptOutcome.PREEMPTED, AttemptOutcome.FAILED], 30, 30),
    ],
)
def test_backoff(outcomes: list[AttemptOutcome], least: float, most: float) -> None:
    start = next_start(ended(*outcomes), FailurePolicy(backoff_seconds=30), "uid", now=START)
    assert start is not None
    assert least <= (start - START).total_seconds() <= most


def test_storage_that_is_away_for_half_an_hour_ends_no_job() -> None:
    """It comes back by itself; with the default of three failures the fourth attempt begins then."""
    policy, waited = FailurePolicy(), 0.0
    for failures in range(1, policy.max_failures + 1):
        attempts = [one.model_copy(update={"reason": "StorageFailed"}) for one in ended(*[AttemptOutcome.FAILED] * failures)]
        start = next_start(attempts, policy, "uid", now=START)
        assert start is not None
        waited += (start - START).total_seconds()
    assert 1800 <= waited <= 3600


def test_another_failure_begins_its_back_off_anew() -> None:
    mixed = ended(AttemptOutcome.FAILED, AttemptOutcome.FAILED, AttemptOutcome.FAILED)
    mixed[-1] = mixed[-1].model_copy(update={"reason": "OutOfMemory"})
    start = next_start(mixed, FailurePolicy(backoff_seconds=30), "uid", now=START)
    assert start == START + timedelta(seconds=30)


@pytest.mark.parametrize("outcomes", [[], [AttemptOutcome.STOPPED], [AttemptOutcome.FAILED, AttemptOutcome.STOPPED]])
def test_nothing_to_wait_for(outcomes: list[AttemptOutcome]) -> None:
    assert next_start(ended(*outcomes), FailurePolicy(), "uid", now=START) is None


@pytest.mark.parametrize(("seconds", "waits"), [(0, True), (-59, True), (-61, False), (-5 * 3600, False)])
def test_a_clock_that_is_set_back_makes_nobody_wait(seconds: float, waits: bool) -> None:
    found = next_start(ended(AttemptOutcome.FAILED), FailurePolicy(), "uid", now=START + timedelta(seconds=seconds))
    assert (found is not None) is waits


def test_jobs_that_wait_for_the_same_gpus_come_back_apart() -> None:
    starts = {next_start(ended(AttemptOutcome.NOT_STARTED), FailurePolicy(), f"uid-{number}", now=START) for number in range(20)}
    assert len(starts) > 15


def test_pods_that_went_after_the_driver_had_told_its_failure_were_not_lost() -> None:
    """The watches of RayJobs and of reports may be later than that of pods."""
    told = report("Failed", reason="TrainingFailed", message="loss is nan", reported_at=timestamp(START))
    for seconds, outcome in ((-30, AttemptOutcome.NODE_LOST), (0, AttemptOutcome.FAILED), (5, AttemptOutcome.FAILED)):
        gone = attempt(lost="pod w1 is gone", lost_time=timestamp(START + timedelta(seconds=seconds)))
        found = ending(Evidence(attempt=gone, rayjob=FAILED, report=told, pods=(), now=LATER))
        assert found is not None
        assert found.outcome is outcome
