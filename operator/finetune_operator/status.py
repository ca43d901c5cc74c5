"""The status as a whole: which conditions a job has at which time, when it is over, and when a failed one is reopened. Pure."""

from finetune_api.conditions import STAGES, ConditionType, find, is_true, stage, with_health
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, UsageStatus, passed_stages
from finetune_api.times import timestamp
from finetune_operator.observation import Observed, is_running
from finetune_operator.stages.decision import set_condition


def is_reopened(observed: Observed) -> bool:
    """Whether a failed job begins again: `retry` was raised, or the spec changed while nothing was fixed yet."""
    status = observed.status
    failed = find(status.conditions, ConditionType.FAILED)
    if failed is None or failed.status != "True":
        return False
    if observed.job is not None and observed.job.spec.retry > status.observed_retry:
        return True
    return status.attempt == 0 and observed.generation > failed.observed_generation


def begun(observed: Observed) -> FineTuneJobStatus:
    """The status that the stages start from: of this generation, and open again if it was reopened."""
    status = observed.status.model_copy(update={"observed_generation": observed.generation, "defaults": observed.defaults})
    retry = observed.job.spec.retry if observed.job else status.observed_retry
    if is_reopened(observed):
        usage = status.usage or UsageStatus()
        forgiven = usage.model_copy(update={"forgiven_failures": usage.charged_failures})
        changes = {"completion_time": None, "usage": forgiven if status.usage else None, "failed_starts": 0, "attempts_without_progress": 0}
        if status.attempt == 0:  # nothing is fixed yet: it begins with its whole time
            changes["active_time"] = None
        status = status.model_copy(update=changes)
    return status.model_copy(update={"observed_retry": max(status.observed_retry, retry)})


def looked_at(observed: Observed) -> FineTuneJobStatus:
    """The status of a job that is over: nothing of it changes any more, except which generation was looked at."""
    return observed.status.model_copy(update={"observed_generation": observed.generation})


def concluded(
    observed: Observed,
    status: FineTuneJobStatus,
    *,
    succeeded: bool,
    failed: tuple[str, str] | None,
    stalled: tuple[str, str] | None,
    at_rest: bool,
) -> FineTuneJobStatus:
    """The status with the conditions that aren't a stage's, and what is derived from all of them."""
    status = _unvisited(observed, status)
    status = _ends(observed, status, succeeded, failed)
    status = _suspended(observed, status, at_rest and not succeeded and failed is None)
    health = with_health(status.conditions, stalled, at=timestamp(observed.now), generation=observed.generation)
    completion = (status.completion_time or timestamp(observed.now)) if succeeded or failed else None
    word = stage(health, passed=passed_stages(status.evaluation))
    return status.model_copy(update={"conditions": list(health), "stage": word, "completion_time": completion})


def _unvisited(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Stages that weren't come to: what they were while an attempt exists, else they wait for the one before."""
    walking = True
    for kind, _ in STAGES:
        known = find(status.conditions, kind)
        if known is None or (not walking and status.attempt == 0):
            status = set_condition(observed, status, kind, "False", Reason.WAITING)
        walking = walking and is_true(status.conditions, kind)
    return status


def _ends(observed: Observed, status: FineTuneJobStatus, succeeded: bool, failed: tuple[str, str] | None) -> FineTuneJobStatus:
    """Succeeded and Failed: never both True."""
    good, bad = ConditionType.SUCCEEDED, ConditionType.FAILED
    status = set_condition(observed, status, good, "True" if succeeded else "False", Reason.SUCCEEDED if succeeded else Reason.NOT_FINISHED)
    reason, message = failed or (Reason.NOT_FINISHED, "")
    return set_condition(observed, status, bad, "True" if failed else "False", reason, message)


def _suspended(observed: Observed, status: FineTuneJobStatus, at_rest: bool) -> FineTuneJobStatus:
    """Suspended is what is observed: True once nothing of the training holds anything."""
    kind = ConditionType.SUSPENDED
    if observed.job is None or not observed.job.spec.suspend:
        return set_condition(observed, status, kind, "False", Reason.NOT_SUSPENDED)
    if at_rest:
        told = "no GPU is held; set spec.suspend to false to go on"
        return set_condition(observed, status, kind, "True", Reason.SUSPENDED, told)
    told = "a checkpoint is being committed" if is_running(status) else "pods are ending"
    return set_condition(observed, status, kind, "False", Reason.STOPPING, told)


def changed(old: FineTuneJobStatus, new: FineTuneJobStatus) -> dict[str, object]:
    """The merge patch from one status to the other; empty when they are equal. Lists are replaced, what went away is null."""
    return _difference(old.to_json(), new.to_json())


def _difference(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """
    >>> _difference({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"c": 3, "d": 2}})
    {'a': None, 'b': {'c': 3}}
    """
    patch: dict[str, object] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        patch[key] = _difference(before, after) if isinstance(before, dict) and isinstance(after, dict) else after
    return patch
