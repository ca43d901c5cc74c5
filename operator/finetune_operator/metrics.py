"""Prometheus metrics about FineTuneJobs. Labels are few and bounded: no job's name is ever one.

The runtime's own (queue, reconciles, calls, leadership) are in runtime/metrics.py.
"""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finetune_api.conditions import STAGES, ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_api.times import moment

Json = dict[str, Any]
Key = tuple[str, str]  # namespace, name

# The word of a stage -> the condition whose reason says why a job is there.
_CONDITIONS: Final = {
    **{word: kind.value for kind, word in STAGES},
    "Finishing": ConditionType.RECONCILING.value,
    **{kind.value: kind.value for kind in (ConditionType.SUSPENDED, ConditionType.STALLED, ConditionType.SUCCEEDED, ConditionType.FAILED)},
}
# Reasons of a job that nobody looked at yet, and of what isn't one of our words, as failures that pods name may be.
_NEW: Final = "New"
_OTHER: Final = "Other"
_REASONS: Final = frozenset(Reason)
# From a tiny model on idle nodes to hours in a queue.
_START_BUCKETS: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)


class JobMetrics:
    """Made once per registry. `seen` is told of every change of a job, `written` of every status that this process wrote.

    `read` is told whether a job's status could be read.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge("finetune_jobs", "FineTuneJobs by stage and reason.", ["stage", "reason"], registry=registry)
        self._unreadable: set[Key] = set()
        unreadable = Gauge("finetune_unreadable_statuses", "FineTuneJobs whose status this operator can't read.", registry=registry)
        unreadable.set_function(self._unreadable.__len__)
        self._attempts = Counter("finetune_attempts_total", "Attempts that ended.", ["outcome"], registry=registry)
        self._started = Counter("finetune_attempts_started_total", "Attempts begun.", registry=registry)
        self._writes = Counter("finetune_status_writes_total", "Statuses written.", registry=registry)
        self._gpu_seconds = Counter("finetune_gpu_seconds_total", "Time for which GPUs were held, added up over GPUs.", registry=registry)
        self._first_step = Histogram(
            "finetune_seconds_to_first_step",
            "From an attempt's entry to its first reported step.",
            buckets=_START_BUCKETS,
            registry=registry,
        )
        for outcome in AttemptOutcome:
            self._attempts.labels(outcome.value)

    def seen(self, old: Json | None, new: Json | None) -> None:
        """A job appeared, changed or went."""
        if new is None and old is not None:
            self._unreadable.discard((old["metadata"]["namespace"], old["metadata"]["name"]))
        before, after = _place(old), _place(new)
        if before == after:
            return
        if before is not None:
            self._jobs.labels(*before).dec()
        if after is not None:
            self._jobs.labels(*after).inc()

    def read(self, key: Key, readable: bool) -> None:
        """A job was looked at."""
        if readable:
            self._unreadable.discard(key)
        else:
            self._unreadable.add(key)

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
        self._gpu_seconds.inc(max(hours, 0.0) * 3600.0)


def _place(raw: Json | None) -> tuple[str, str] | None:
    """Stage and reason of a job's object; one that nobody looked at yet is planned first."""
    if raw is None:
        return None
    status = raw.get("status") or {}
    stage = status.get("stage")
    if stage not in _CONDITIONS:
        return "Planning", _NEW
    found: Json = next((c for c in status.get("conditions") or [] if c.get("type") == _CONDITIONS[stage]), {})
    return stage, found["reason"] if found.get("reason") in _REASONS else _OTHER


def _seconds(start: str | None, end: str | None) -> float:
    first, last = moment(start), moment(end)
    return max((last - first).total_seconds(), 0.0) if first and last else 0.0
