"""How soon a job has to be looked at when one of its objects changes.

In: an object before and after. Out: now, with the next progress, or not at all. A thousand drivers that report every ten seconds say a
hundred times a second that training goes on, and once in a while that it has failed: the failure must not wait for the others' steps.
"""

from enum import Enum
from typing import Any, Final

Json = dict[str, Any]

# What a report says of a training that goes on.
_PROGRESS_IN_REPORT: Final = (
    "step",
    "totalSteps",
    "loss",
    "tokensPerSecond",
    "wallTokensPerSecond",
    "spread",
    "slowest",
    "etaSeconds",
    "evaluation",
    "checkpoint",
    "goodputSeconds",
    "reportedAt",
)
# What of that the operator writes into a job's status, and the hours that it counts with it. Both are in an attempt's entry, too.
_PROGRESS_IN_STATUS: Final = ("progress", "checkpoints", "evaluation", "usage")
_PROGRESS_IN_ATTEMPT: Final = ("lastStep", "gpuHours", "countedTime")


class Urgency(Enum):
    """When to look at the job."""

    NOW = "now"
    PROGRESS = "progress"  # with the next progress that is written
    NONE = "none"


def of_report(old: Json | None, new: Json | None) -> Urgency:
    """Of a FineTuneReport: its first step, its end, a request to it and another RayCluster are urgent; more steps aren't."""
    if old is None or new is None:
        return Urgency.NOW
    before, after = _without(old.get("status"), _PROGRESS_IN_REPORT), _without(new.get("status"), _PROGRESS_IN_REPORT)
    begins = not (old.get("status") or {}).get("step") and bool((new.get("status") or {}).get("step"))
    same = before == after and old.get("spec") == new.get("spec") and _is_deleted(old) == _is_deleted(new)
    return Urgency.PROGRESS if same and not begins else Urgency.NOW


def of_job(old: Json | None, new: Json | None) -> Urgency:
    """Of a FineTuneJob: a status in which the operator itself wrote progress alone says nothing new."""
    if old is None or new is None:
        return Urgency.NOW
    metadata = all(old["metadata"].get(name) == new["metadata"].get(name) for name in ("generation", "deletionTimestamp", "labels"))
    same = metadata and old["metadata"]["uid"] == new["metadata"]["uid"] and _but_progress(old) == _but_progress(new)
    return Urgency.NONE if same else Urgency.NOW


def _but_progress(job: Json) -> Json:
    status = job.get("status") or {}
    attempts = [_without(attempt, _PROGRESS_IN_ATTEMPT) for attempt in status.get("attempts") or []]
    return {**_without(status, _PROGRESS_IN_STATUS), "attempts": attempts}


def _without(item: Json | None, names: tuple[str, ...]) -> Json:
    return {name: value for name, value in (item or {}).items() if name not in names}


def _is_deleted(item: Json) -> bool:
    return "deletionTimestamp" in item["metadata"]
