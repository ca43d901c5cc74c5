"""What Jobs of one pod come to, as a table."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.observation import Observed
from finetune_operator.pods import Pod
from finetune_operator.stages.pod_job import pod_job

from . import builders
from .fakes import START

JOB = builders.stored(
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "starchat-prepare-01234567", "namespace": builders.NAMESPACE},
        "spec": {},
    }
)
RETRIED = builders.failed("StorageFailed", "the bucket answers 503", permanent=False)


def pod(name: str = "one", **state: Any) -> Pod:
    return builders.pod(name, controller=JOB, **state)


def evicted(times: int) -> tuple[Pod, ...]:
    return tuple(pod("abcd"[n], phase="Failed", reason="Evicted", message="The node was low on resource: memory. ") for n in range(times))


def done(name: str) -> Pod:
    return pod(name, phase="Succeeded", exit_code=0, result=builders.prepared())


DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}


@dataclass(frozen=True)
class Case:
    name: str
    job: str
    pods: tuple[Pod, ...]
    state: str
    reason: str
    words: str = ""
    seconds: float = 60


CASES = [
    Case("no pod yet", "Running", (), "active", "Preparing", "about to start", seconds=59),
    Case("no pod, though it is time", "Running", (), "active", "Preparing", "kubectl describe job starchat-prepare-01234567"),
    Case("runs", "Running", (pod(),), "active", "Preparing", "pod one runs"),
    Case(
        "an image older than the operator",
        "Running",
        (
            pod(
                phase="Failed",
                exit_code=2,
                result=builders.failed("InvalidSpec", "spec.evaluation.tasks: there is no such field; remove it"),
            ),
        ),
        "failed",
        "InvalidSpec",
        "name a newer one in spec.cpuPods.image, and raise spec.retry",
    ),
    Case("waits", "Running", (pod(unschedulable="no nodes"),), "active", "Preparing", "no nodes"),
    Case(
        "will be tried again",
        "Running",
        (pod(phase="Failed", exit_code=1, result=RETRIED),),
        "active",
        "StorageFailed",
        "503; it will be tried again",
    ),
    Case(
        "is tried again",
        "Running",
        (pod("a", phase="Failed", exit_code=1, result=RETRIED), pod("b")),
        "active",
        "Preparing",
        "the pod before it failed: the bucket answers 503",
    ),
    Case("evicted as often as it may be", "Running", (*evicted(3), pod("d")), "active", "Preparing", "pod d runs"),
    Case(
        "evicted too often",
        "Running",
        evicted(4),
        "evicted",
        "Evicted",
        "4 pods, the last: The node was low on resource: memory; give spec.cpu",
    ),
    Case("evicted too often, and another pod was made", "Running", (*evicted(4), pod("e")), "evicted", "Evicted"),
    Case("evicted too often, and done at last", "Complete", (*evicted(4), done("e")), "done", ""),
    Case(
        "drained any number of times",
        "Running",
        tuple(pod(f"{n}", phase="Failed", conditions=(DRAINED,)) for n in range(9)),
        "active",
        "PreparationFailed",
    ),
    Case("wrong data", "Failed", (pod(phase="Failed", exit_code=2, result=builders.failed()),), "failed", "InvalidData", "row 3"),
    Case(
        "wrong data, the Job doesn't know yet",
        "Running",
        (pod(phase="Failed", exit_code=2, result=builders.failed()),),
        "failed",
        "InvalidData",
    ),
    Case("all tries used up", "Failed", (pod(phase="Failed", exit_code=1, result=RETRIED),), "failed", "StorageFailed", "503"),
    Case("said nothing", "Failed", (pod(phase="Failed", exit_code=1, result="Traceback"),), "failed", "PreparationFailed", "code 1"),
    Case("its pods are gone", "Failed", (), "failed", "PreparationFailed", "BackoffLimitExceeded"),
    Case("its pods' words may still come", "Failed", (), "active", "Preparing", "awaited", seconds=5),
    Case("done", "Complete", (pod(phase="Succeeded", exit_code=0, result=builders.prepared()),), "done", ""),
    Case(
        "done at the second try",
        "Complete",
        (pod("a", phase="Failed", exit_code=1, result=RETRIED), pod("b", phase="Succeeded", exit_code=0, result=builders.prepared())),
        "done",
        "",
    ),
    Case("done, in words that aren't ours", "Complete", (pod(phase="Succeeded", exit_code=0, result="{}"),), "failed", "ResultUnreadable"),
    Case("done, its words may still come", "Complete", (), "active", "Preparing", "awaited", seconds=5),
    Case("done, by a clock that is ahead", "Complete", (), "active", "Preparing", "awaited", seconds=-50),
    Case("done, and the clock was set back", "Complete", (), "lost", "Preparing", "runs again", seconds=-5 * 3600),
    Case("done, and its words are lost", "Complete", (), "lost", "Preparing", "runs again"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pod_jobs(case: Case) -> None:
    job = JOB | {"status": builders.kubernetes_job_status(case.job)}
    observed = Observed(raw=builders.raw_job(), now=START + timedelta(seconds=case.seconds), pods=case.pods)
    found = pod_job(observed, job, active="Preparing", failed="PreparationFailed")
    assert (found.state, str(found.reason)) == (case.state, case.reason)
    assert case.words in found.message


def test_a_job_that_others_suspend_has_no_pod_for_that_reason() -> None:
    held = JOB | {"spec": {"suspend": True}, "status": {}}
    observed = Observed(raw=builders.raw_job(), now=START + timedelta(days=1))
    found = pod_job(observed, held, active="Preparing", failed="PreparationFailed")
    assert (found.state, found.message) == (
        "active",
        "Job starchat-prepare-01234567 is suspended by others, as Kueue does until there is quota; "
        "a Kueue that manages all Jobs wants spec.cpuPods.queueName",
    )


def test_the_time_for_a_pod_counts_from_the_jobs_admission() -> None:
    admitted = JOB | {"status": {"startTime": "2026-11-24T10:00:00Z"}}
    observed = Observed(raw=builders.raw_job(), now=START + timedelta(days=1, seconds=59))
    assert "about to start" in pod_job(observed, admitted, active="Preparing", failed="PreparationFailed").message


def test_a_pod_of_another_job_says_nothing() -> None:
    other = builders.stored(JOB, uid="another")
    stranger = builders.pod("x", controller=other, phase="Succeeded", exit_code=0, result=builders.prepared())
    job = JOB | {"status": builders.kubernetes_job_status("Complete")}
    observed = Observed(raw=builders.raw_job(), now=START + timedelta(seconds=5), pods=(stranger,))
    assert pod_job(observed, job, active="Preparing", failed="PreparationFailed").state == "active"


def test_the_image_that_ran_is_known_by_its_digest() -> None:
    digest = f"@sha256:{'a' * 64}"
    told = {"image": "registry.example/trainer:1", "image_id": f"registry.example/trainer{digest}"}
    ran = pod(phase="Succeeded", exit_code=0, result=builders.prepared(), **told)
    job = JOB | {"status": builders.kubernetes_job_status("Complete")}
    observed = Observed(raw=builders.raw_job(), now=START, pods=(ran,))
    found = pod_job(observed, job, active="Preparing", failed="PreparationFailed")
    assert found.image_that_ran == f"registry.example/trainer:1{digest}"
