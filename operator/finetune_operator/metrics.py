"""Prometheus metrics about FineTuneJobs. Labels are few and bounded: no job's name is ever one.

The runtime's own (queue, reconciles, calls, leadership) are in runtime/metrics.py.
"""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finetune_api.conditions import STAGES
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_api.times import moment

Json = dict[str, Any]

_STAGES: Final = (*(word for _, word in STAGES), "Finishing", "Suspended", "Stalled", "Succeeded", "Failed")
# From a tiny model on idle nodes to hours in a queue.
_START_BUCKETS: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)


class JobMetrics:
    """Made once per registry. `seen` is told of every change of a job, `written` of every status that this process wrote."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge("finetune_jobs", "FineTuneJobs by stage.", ["stage"], registry=registry)
        self._attempts = Counter("finetune_attempts_total", "Attempts that ended.", ["outcome"], registry=registry)
        self._started = Counter("finetune_attempts_started_total", "Attempts begun.", registry=registry)
        self._writes = Counter("finetune_status_writes_total", "Statuses written.", registry=registry)
        self._gpu_hours = Counter("finetune_gpu_hours_total", "GPU hours of attempts that ended.", registry=registry)
        self._first_step = Histogram(
            "finetune_seconds_to_first_step",
            "From an attempt's entry to its first reported step.",
            buckets=_START_BUCKETS,
            registry=registry,
        )
        for stage in _STAGES:
            self._jobs.labels(stage)
        for outcome in AttemptOutcome:
            self._attempts.labels(outcome.value)

    def seen(self, old: Json | None, new: Json | None) -> None:
        """A job appeared, changed or went."""
        before, after = _stage(old), _stage(new)
        if before == after:
            return
        if before is not None:
            self._jobs.labels(before).dec()
        if after is not None:
            self._jobs.labels(after).inc()

    def written(self, old: FineTuneJobStatus, new: FineTuneJobStatus) -> None:
        """A status was written."""
        self._writes.inc()
        self._started.inc(max(new.attempt - old.attempt, 0))
        known = {attempt.number: attempt for attempt in old.attempts}
        for attempt in new.attempts:
            before = known.get(attempt.number)
            if attempt.outcome is not None and before is not None and before.outcome is None:
                self._attempts.labels(attempt.outcome.value).inc()
            first = before is not None and not (before.last_step or 0) > (before.first_step or 0)
            if first and (attempt.last_step or 0) > (attempt.first_step or 0):
                self._first_step.observe(_seconds(attempt.start_time, new.progress.reported_at if new.progress else None))
        hours = (new.usage.gpu_hours if new.usage else 0.0) - (old.usage.gpu_hours if old.usage else 0.0)
        self._gpu_hours.inc(max(hours, 0.0))


def _stage(raw: Json | None) -> str | None:
    """The stage of a job's object; one that nobody looked at yet is planned first."""
    if raw is None:
        return None
    word = (raw.get("status") or {}).get("stage")
    return word if word in _STAGES else "Planning"


def _seconds(start: str | None, end: str | None) -> float:
    first, last = moment(start), moment(end)
    return max((last - first).total_seconds(), 0.0) if first and last else 0.0
