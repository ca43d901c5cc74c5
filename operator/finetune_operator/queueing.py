"""What Kueue says of an object that it holds back, in its own words. Pure.

In: a RayJob or a Job that somebody else suspended, and the Workload that Kueue keeps for it, where there is one that we may read. Out:
the words of a condition, and whether Kueue has given the object up.
"""

from dataclasses import dataclass
from typing import Any, Final

from finetune_api.reasons import Reason

Json = dict[str, Any]

# Kueue 0.17.0 doesn't take up again what it gave up for `backoffLimitCount`, also when somebody sets its Workload's `active`.
_REMEDY: Final = "mend the cause, then suspend the job and resume it: it gets another place in the queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Why an object is held back. `evicted`: why what had been admitted was taken back. `given_up`: no quota will help, but a person."""

    words: str
    evicted: str | None = None
    given_up: bool = False

    @property
    def reason(self) -> Reason:
        return Reason.DEACTIVATED if self.given_up else Reason.QUEUED

    @property
    def stalled(self) -> tuple[str, str] | None:
        """Reason and message of what only a person can mend."""
        return (self.reason, self.words) if self.given_up else None


def held(kind: str, name: str, workload: Json | None) -> Held:
    """Why the object of that kind and name is held back."""
    if workload is None:
        return Held(words=f"{kind} {name} is suspended by others, as Kueue does until there is quota")
    spec, conditions = workload.get("spec") or {}, _conditions(workload)
    evicted = conditions["Evicted"].get("message") if conditions.get("Evicted", {}).get("status") == "True" else None
    requeued = conditions.get("Requeued", {})
    left = requeued.get("status") == "False" and str(requeued.get("reason")).startswith("DeactivatedDueTo")
    if spec.get("active") is False or left:
        return Held(words=f"{kind} {name}: {evicted or 'its Workload is deactivated'}; {_REMEDY}", evicted=evicted, given_up=True)
    queue = spec.get("queueName")
    where = f"{kind} {name} waits in queue {queue}" if queue else f"{kind} {name} has no queue, and Kueue lets it wait"
    told = _checks(workload) or conditions.get("QuotaReserved", {}).get("message")
    return Held(words=f"{where}: {told}" if told else where, evicted=evicted)


def _conditions(workload: Json) -> dict[str, Json]:
    return {one.get("type", ""): one for one in (workload.get("status") or {}).get("conditions") or []}


def _checks(workload: Json) -> str:
    """What is awaited besides quota, such as nodes that an autoscaler makes."""
    checks = (workload.get("status") or {}).get("admissionChecks") or []
    awaited = [f"{one.get('name')} is {one.get('state')}: {one.get('message') or '-'}" for one in checks if one.get("state") != "Ready"]
    return "; ".join(awaited)
