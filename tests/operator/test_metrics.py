"""Metrics about jobs: bounded labels, and nothing counted twice."""

import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.conftest import ROOT

from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus, ProgressStatus, UsageStatus
from finetune_operator.metrics import JobMetrics
from finetune_operator.runtime.metrics import RuntimeMetrics

from . import builders


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def at(stage: str, kind: str, reason: str) -> dict[str, Any]:
    """A job at a stage, which a condition of that type explains."""
    others = {"type": "Planned", "status": "True", "reason": "Planned"}
    return builders.raw_job(status={"stage": stage, "conditions": [others, {"type": kind, "status": "False", "reason": reason}]})


def test_jobs_by_stage_and_reason(registry: CollectorRegistry) -> None:
    metrics = JobMetrics(registry)
    new, training, stalled = builders.raw_job(), at("Training", "Trained", "Starting"), at("Stalled", "Stalled", "NameTaken")
    metrics.seen(None, new)
    metrics.seen(None, training)
    metrics.seen(new, training)
    metrics.seen(training, stalled)
    metrics.seen(stalled, None)
    jobs = {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "finetune_jobs"
    }
    assert jobs == {("Planning", "New"): 0, ("Training", "Starting"): 1, ("Stalled", "NameTaken"): 0}


def test_words_of_others_make_no_series_of_their_own(registry: CollectorRegistry) -> None:
    """A pod names its failure, and a newer operator may know other stages."""
    metrics = JobMetrics(registry)
    metrics.seen(None, builders.raw_job(status={"stage": "Something"}))
    metrics.seen(None, at("Failed", "Failed", "x" * 60))
    assert registry.get_sample_value("finetune_jobs", {"stage": "Planning", "reason": "New"}) == 1
    assert registry.get_sample_value("finetune_jobs", {"stage": "Failed", "reason": "Other"}) == 1


def test_every_stage_has_a_condition_that_explains_it() -> None:
    """All words that `stage` gives, whatever is True."""
    from finetune_api.conditions import STAGES, ConditionType, condition, stage
    from finetune_operator.metrics import _CONDITIONS

    def true(*kinds: ConditionType) -> str:
        return stage([condition(kind, "True", "Any", at="2026-11-23T10:00:00Z", generation=1) for kind in kinds])

    words = {true(*(kind for kind, _ in STAGES[:number])) for number in range(len(STAGES) + 1)} | {true(kind) for kind in ConditionType}
    assert words == set(_CONDITIONS)


def test_a_status_that_cannot_be_read_is_counted_until_it_can_or_is_gone(registry: CollectorRegistry) -> None:
    metrics = JobMetrics(registry)
    for name in ("a", "b"):
        metrics.read((builders.NAMESPACE, name), readable=False)
        metrics.read((builders.NAMESPACE, name), readable=False)
    assert registry.get_sample_value("finetune_unreadable_statuses") == 2
    metrics.read((builders.NAMESPACE, "a"), readable=True)
    metrics.seen(builders.raw_job("b"), None)
    assert registry.get_sample_value("finetune_unreadable_statuses") == 0


def test_an_attempt_is_counted_when_it_begins_steps_and_ends(registry: CollectorRegistry) -> None:
    metrics = JobMetrics(registry)
    empty = FineTuneJobStatus()
    begun = AttemptStatus(number=1, start_time="2026-11-23T10:00:00Z", first_step=0)
    entered = FineTuneJobStatus(attempt=1, attempts=[begun])
    stepped = FineTuneJobStatus(
        attempt=1,
        attempts=[begun.model_copy(update={"last_step": 1})],
        progress=ProgressStatus(step=1, reported_at="2026-11-23T10:01:30Z"),
    )
    ended = stepped.model_copy(
        update={
            "attempts": [stepped.attempts[0].model_copy(update={"outcome": AttemptOutcome.FAILED})],
            "usage": UsageStatus(gpu_hours=2.0),
        }
    )
    for old, new in ((empty, entered), (entered, stepped), (stepped, stepped), (stepped, ended), (ended, ended)):
        metrics.written(old, new)
    assert registry.get_sample_value("finetune_attempts_started_total") == 1
    assert registry.get_sample_value("finetune_attempts_total", {"outcome": "Failed"}) == 1
    assert registry.get_sample_value("finetune_seconds_to_first_step_count") == 1
    assert registry.get_sample_value("finetune_seconds_to_first_step_sum") == 90
    assert registry.get_sample_value("finetune_gpu_seconds_total") == 7200
    assert registry.get_sample_value("finetune_status_writes_total") == 5


def test_the_documentation_names_every_metric(registry: CollectorRegistry) -> None:
    JobMetrics(registry)
    RuntimeMetrics(registry)
    page = (ROOT / "docs/operator.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    made = {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}
    assert set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", page)) & made == made
