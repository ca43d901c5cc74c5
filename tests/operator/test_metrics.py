"""Metrics about jobs: bounded labels, and nothing counted twice."""

import re

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


def test_jobs_by_stage(registry: CollectorRegistry) -> None:
    metrics = JobMetrics(registry)
    new, training = builders.raw_job(), builders.raw_job(status={"stage": "Training"})
    metrics.seen(None, new)
    metrics.seen(None, training)
    metrics.seen(new, training)
    metrics.seen(training, None)
    assert registry.get_sample_value("finetune_jobs", {"stage": "Planning"}) == 0
    assert registry.get_sample_value("finetune_jobs", {"stage": "Training"}) == 1


def test_a_word_that_is_no_stage_makes_no_series(registry: CollectorRegistry) -> None:
    JobMetrics(registry).seen(None, builders.raw_job(status={"stage": "Something"}))
    assert registry.get_sample_value("finetune_jobs", {"stage": "Something"}) is None


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
    assert registry.get_sample_value("finetune_gpu_hours_total") == 2
    assert registry.get_sample_value("finetune_status_writes_total") == 5


def test_the_documentation_names_every_metric(registry: CollectorRegistry) -> None:
    JobMetrics(registry)
    RuntimeMetrics(registry)
    page = (ROOT / "docs/operator.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    made = {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}
    assert set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", page)) & made == made
