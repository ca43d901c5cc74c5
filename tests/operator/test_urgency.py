"""How soon a change of one of a job's objects is looked at."""

import copy
from typing import Any

import pytest

from finetune_operator.urgency import Urgency, of_job, of_report

from . import builders
from .fakes import Kubelet, World
from .lives import running

Json = dict[str, Any]
REPORT: Json = {"metadata": {"name": "starchat"}, "spec": {}, "status": {"cluster": "a", "outcome": "Running", "step": 5, "loss": 1.0}}
STATUS: Json = {
    "observedGeneration": 1,
    "stage": "Training",
    "conditions": [{"type": "Trained", "status": "False", "reason": "Training"}],
    "progress": {"step": 5},
    "attempts": [{"number": 1, "lastStep": 5}],
}
JOB = builders.raw_job(status=STATUS)


def changed(item: Json, *path: str | int, to: Any) -> Json:
    """The item with the value at that path changed."""
    found = copy.deepcopy(item)
    place: Any = found
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return found


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (changed(REPORT, "status", "step", to=6), Urgency.PROGRESS),
        (changed(REPORT, "status", "reportedAt", to="2026-11-23T10:00:00Z"), Urgency.PROGRESS),
        (changed(REPORT, "status", "checkpoint", to={"step": 5, "attempt": 1}), Urgency.PROGRESS),
        (changed(REPORT, "status", "outcome", to="Failed"), Urgency.NOW),
        (changed(REPORT, "status", "cluster", to="b"), Urgency.NOW),
        (changed(REPORT, "status", "aFieldOfANewerImage", to=1), Urgency.NOW),
        (changed(REPORT, "spec", "stop", to={"reason": "Suspended"}), Urgency.NOW),
        (changed(REPORT, "metadata", "deletionTimestamp", to="2026-11-23T10:00:00Z"), Urgency.NOW),
        (None, Urgency.NOW),
    ],
)
def test_reports(new: Json | None, expected: Urgency) -> None:
    assert of_report(REPORT, new) is expected


def test_the_first_step_is_told_at_once() -> None:
    begins = changed(REPORT, "status", "step", to=0)
    assert of_report(begins, REPORT) is Urgency.NOW
    assert of_report(None, REPORT) is Urgency.NOW


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (changed(JOB, "status", "progress", "step", to=6), Urgency.NONE),
        (changed(JOB, "status", "attempts", 0, "lastStep", to=6), Urgency.NONE),
        (changed(JOB, "metadata", "resourceVersion", to="2"), Urgency.NONE),
        (changed(JOB, "metadata", "generation", to=2), Urgency.NOW),
        (changed(JOB, "metadata", "uid", to="another"), Urgency.NOW),
        (changed(JOB, "metadata", "labels", to={"kueue.x-k8s.io/queue-name": "a"}), Urgency.NOW),
        (changed(JOB, "metadata", "deletionTimestamp", to="2026-11-23T10:00:00Z"), Urgency.NOW),
        (changed(JOB, "status", "conditions", 0, "reason", to="Starting"), Urgency.NOW),
        (changed(JOB, "status", "attempts", 0, "outcome", to="Failed"), Urgency.NOW),
        (None, Urgency.NOW),
    ],
)
def test_jobs(new: Json | None, expected: Urgency) -> None:
    assert of_job(JOB, new) is expected


def test_progress_that_the_operator_wrote_is_no_news_to_itself(world: World, kubelet: Kubelet) -> None:
    """With all that it writes beside: GPU hours grow. Looked at again at once, a thousand jobs would never be done with."""
    running(world, kubelet)
    for step in (1, 50, 100):
        world.clock.advance(30)
        kubelet.report("starchat-1-abcde", outcome="Running", step=step, totalSteps=1000, goodputSeconds=30.0)
        before = copy.deepcopy(world.job)
        world.settle()
        assert world.status["progress"]["step"] == step
        assert world.status["usage"]["gpuHours"] > 0
        assert of_job(before, world.job) is Urgency.NONE
