"""Events: what `kubectl describe` tells of a job, once per transition.

In: the status before and after. Out: events with names that the transition decides, so that the same one is never there
twice: they are made before the status is written, and again by whoever comes after a process that died in between. They are
for people; nothing reads them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from finetune_api.bounded_text import shortened
from finetune_api.conditions import Condition, ConditionType, find
from finetune_api.keys import API_VERSION, KIND
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus
from finetune_operator import keys
from finetune_operator.observation import Refusal
from finetune_operator.resources.avoidance import WHY_AVOIDED
from finetune_operator.resources.owner import Owner

REPORTING_CONTROLLER: Final = f"{keys.GROUP}/{keys.MANAGED_BY}"
# events.k8s.io/v1 allows 1 KiB: bytes, not characters.
_LONGEST_NOTE_BYTES: Final = 1024

# Conditions whose turning True is told.
_GOOD: Final = (
    ConditionType.PLANNED,
    ConditionType.PREPARED,
    ConditionType.TRAINED,
    ConditionType.EVALUATED,
    ConditionType.PUBLISHED,
    ConditionType.SUCCEEDED,
    ConditionType.SUSPENDED,
)
_STAGES: Final = (ConditionType.PREPARED, ConditionType.TRAINED, ConditionType.EVALUATED, ConditionType.PUBLISHED)
# Reasons of a stage that isn't done yet which are no news.
_USUAL: Final = (
    Reason.WAITING,
    Reason.PREPARING,
    Reason.STARTING,
    Reason.TRAINING,
    Reason.EVALUATING,
    Reason.PUBLISHING,
    Reason.SUSPENDED,
    Reason.STOPPING,
    Reason.BACKING_OFF,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One transition. `action` is what the operator was doing, `moment` makes it another transition than the last of its kind."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str
    moment: str


def transitions(old: FineTuneJobStatus, new: FineTuneJobStatus) -> tuple[Event, ...]:
    """What happened between two statuses, in the order of the pipeline."""
    return (*_of_attempts(old, new), *_of_conditions(old, new))


def _of_attempts(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[Event]:
    before = {attempt.number: attempt for attempt in old.attempts}
    for attempt in new.attempts:
        known = before.get(attempt.number)
        if known is None and attempt.number > max(old.attempt, 1):  # the first one begins with what made it ready
            note = f"attempt {attempt.number} begins" + (f" from step {attempt.first_step}" if attempt.first_step else "")
            note += f"; it avoids {', '.join(attempt.avoided_nodes)}, {WHY_AVOIDED}" if attempt.avoided_nodes else ""
            yield Event(type="Normal", reason="AttemptStarted", action="Training", note=note, moment=str(attempt.number))
        if known is not None and known.running_time is None and attempt.running_time is not None:
            note = f"attempt {attempt.number}: all pods run"
            yield Event(type="Normal", reason="AttemptRunning", action="Training", note=note, moment=str(attempt.number))
        if known is not None and attempt.restarts is not None and attempt.restarts.count > (known.restarts.count if known.restarts else 0):
            count = attempt.restarts.count
            note = f"attempt {attempt.number}: its workers started again in place: {attempt.restarts.message}"
            yield Event(type="Warning", reason="WorkersRestarted", action="Training", note=note, moment=f"{attempt.number}/{count}")
        if attempt.outcome is not None and (known is None or known.outcome is None):
            yield _ended(attempt)


def _ended(attempt: AttemptStatus) -> Event:
    fine = attempt.outcome in (AttemptOutcome.FINISHED, AttemptOutcome.STOPPED)
    note = f"attempt {attempt.number}: {attempt.outcome}" + (f": {attempt.message}" if attempt.message else "")
    reason = f"Attempt{attempt.outcome}"
    return Event(type="Normal" if fine else "Warning", reason=reason, action="Training", note=note, moment=str(attempt.number))


def _of_conditions(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[Event]:
    for condition in new.conditions:
        known = find(old.conditions, condition.type)
        if known is not None and (known.status, known.reason) == (condition.status, condition.reason):
            continue
        since = known.last_transition_time if known else ""
        if condition.status == "True" and condition.reason != Reason.NOT_REQUESTED and condition.type in _GOOD:
            yield _told("Normal", condition.type.value, condition, since)
        elif condition.status == "True" and condition.type in (ConditionType.FAILED, ConditionType.STALLED):
            yield from _bad(condition, new, since)
        elif condition.status == "False" and condition.type in _STAGES and condition.reason not in _USUAL and not _ends(condition, new):
            yield _told("Warning" if condition.reason != Reason.QUEUED else "Normal", condition.reason, condition, since)


def _bad(condition: Condition, new: FineTuneJobStatus, since: str) -> Iterator[Event]:
    """A failed job is stalled with its failure's words, which are told once."""
    failed = find(new.conditions, ConditionType.FAILED)
    if condition.type is ConditionType.FAILED:
        yield _told("Warning", ConditionType.FAILED.value, condition, since, prefix=f"{condition.reason}: ")
    elif failed is None or failed.status != "True":
        yield _told("Warning", condition.reason, condition, since)


def _ends(condition: Condition, new: FineTuneJobStatus) -> bool:
    """Whether Failed or Stalled tells the same."""
    others = [find(new.conditions, kind) for kind in (ConditionType.FAILED, ConditionType.STALLED)]
    return any(other is not None and other.status == "True" and other.reason == condition.reason for other in others)


def not_cleaned_up(refusal: Refusal) -> Event:
    """What is left of a job that is over can't be deleted: told once for each object, for no condition changes any more."""
    return Event(type="Warning", reason=refusal.reason, action="CleaningUp", note=f"{refusal.name}: {refusal.message}", moment=refusal.name)


def status_unreadable(words: str) -> Event:
    """The job is left as it is: told once for each thing that can't be read."""
    note = f"the operator can't read {words}; nothing is done for this job until it is upgraded, or the status is mended"
    return Event(type="Warning", reason="StatusUnreadable", action="Reconciling", note=note, moment=words)


def _told(kind: Literal["Normal", "Warning"], reason: str, condition: Condition, since: str, prefix: str = "") -> Event:
    """`since`: when the condition's former status began, which is the same to whoever sees the transition, at any time."""
    return Event(
        type=kind,
        reason=reason,
        action=condition.type.value,
        note=prefix + (condition.message or condition.reason),
        moment=f"{since}/{condition.observed_generation}",
    )


def manifest(event: Event, owner: Owner, *, at: str, instance: str) -> dict[str, Any]:
    """The event as an object; `at` is RFC 3339 with microseconds, `instance` the operator's identity."""
    identity = f"{owner.uid}/{event.reason}/{event.action}/{event.moment}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{owner.name}.{digest}", "namespace": owner.namespace},
        "eventTime": at,
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": instance[:128],
        "action": event.action,
        "reason": event.reason[:128],
        "type": event.type,
        "note": shortened(event.note, _LONGEST_NOTE_BYTES, in_bytes=True),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": owner.name,
            "namespace": owner.namespace,
            "uid": owner.uid,
        },
    }
