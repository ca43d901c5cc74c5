"""A FineTuneJob as the API server has it, read once into what people ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.conditions import ConditionType, find, is_true
from finetune_api.status import AttemptStatus, FineTuneJobStatus, parse_status

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One FineTuneJob. `stage` is the word that `kubectl get` shows; `status` is what the operator records."""

    name: str
    namespace: str
    uid: str
    created: str
    spec: Json
    status: FineTuneJobStatus

    @property
    def stage(self) -> str:
        """Where the job is: Planning to Publishing, Succeeded, Failed, Suspended or Stalled; Pending before the operator has seen it."""
        return self.status.stage or "Pending"

    @property
    def is_finished(self) -> bool:
        """Whether it succeeded or failed."""
        return any(is_true(self.status.conditions, kind) for kind in (ConditionType.SUCCEEDED, ConditionType.FAILED))

    @property
    def attempt(self) -> AttemptStatus | None:
        """The newest attempt at training."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def gpu_hours(self) -> float:
        """GPU hours used so far, as the operator counts them."""
        return self.status.usage.gpu_hours if self.status.usage else 0.0

    def has(self, status: str) -> bool:
        """Whether the condition of that type is True, or the job's stage is that word."""
        return self.stage == status or any(found.type == status and found.status == "True" for found in self.status.conditions)

    def why(self) -> str:
        """What a person should know now: the failure's, the stall's or else the running stage's message."""
        for kind in (ConditionType.FAILED, ConditionType.STALLED):
            found = find(self.status.conditions, kind)
            if found is not None and found.status == "True":
                return found.message or found.reason
        waiting = (ConditionType.PLANNED, ConditionType.PREPARED, ConditionType.TRAINED, ConditionType.EVALUATED, ConditionType.PUBLISHED)
        open_stage = next((found for kind in waiting if (found := find(self.status.conditions, kind)) and found.status != "True"), None)
        return open_stage.message if open_stage else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job. `count`: how often, up to `time`."""

    time: str
    kind: str  # Normal or Warning
    reason: str
    message: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A Ray dashboard that is forwarded to this machine. `token` opens it; None where nobody asked for it."""

    url: str
    token: str | None
    head: str  # the pod that serves it


def job_of(item: Mapping[str, Any]) -> Job:
    """The job in an object of the API server. Raises UnreadableStatus."""
    metadata = item["metadata"]
    return Job(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        created=metadata["creationTimestamp"],
        spec=dict(item.get("spec") or {}),
        status=parse_status(item.get("status")),
    )


def event_of(item: Mapping[str, Any]) -> JobEvent:
    """An event of core/v1, which shows those of events.k8s.io too."""
    series = item.get("series") or {}
    return JobEvent(
        time=series.get("lastObservedTime") or item.get("lastTimestamp") or item.get("eventTime") or item["metadata"]["creationTimestamp"],
        kind=item.get("type") or "Normal",
        reason=item.get("reason") or "",
        message=item.get("message") or "",
        count=series.get("count") or item.get("count") or 1,
    )
