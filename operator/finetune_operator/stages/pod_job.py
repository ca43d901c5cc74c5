"""What a Job of one pod has come to: preparation, evaluation and publication are read the same way.

In: the Job and its pods. Out: whether it is done, failed for good, or what it waits for. The Job's controller tries failed
pods again; the newest pod's words are shown meanwhile. What the pod says is untrusted input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from finetune_api.pod_result import EXIT_INVALID_INPUT, PodResult
from finetune_api.reasons import Reason
from finetune_api.status import LONGEST_MESSAGE
from finetune_api.times import is_ahead, seconds_between
from finetune_api.unknown_keys import NO_SUCH_FIELD
from finetune_operator import keys
from finetune_operator.observation import Observed, is_held
from finetune_operator.pods import Pod
from finetune_operator.queueing import held
from finetune_operator.resources.batch_job import RETRIES
from finetune_operator.resources.images import image_that_ran
from finetune_operator.stages.decision import Action, Delete
from finetune_operator.waiting import needs_person, waits_for

Json = dict[str, Any]

# Job and pods come by two watches: how long the pods' last words may come after the Job's end.
_LAST_WORDS_SECONDS: Final = 30.0
ABOUT_TO_START: Final = "the pod is about to start"
# A Job's controller makes the pod within a second or two; who doesn't let it says so only in the Job's events.
_NO_POD_SECONDS: Final = 60.0
# After so long a person is told: a new node and its image take less.
_LONG_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodJob:
    """`active`: it goes on, `reason` and `message` say how; `stalled` is what only a person can mend, as of a StageDecision.

    `lost`: it ended well, and its result is gone. `evicted` and `overdue`: it has failed, and yet its controller `goes_on` for ever: who
    reads this deletes the Job.
    """

    state: Literal["active", "done", "failed", "evicted", "overdue", "lost"]
    reason: str = ""
    message: str = ""
    result: PodResult | None = None
    image_that_ran: str | None = None
    stalled: tuple[str, str] | None = None

    @property
    def goes_on(self) -> bool:
        """Whether its controller would go on, although it has failed."""
        return self.state in ("evicted", "overdue")


def pod_job(observed: Observed, job: Json, *, active: str, failed: str, settings: str = "spec.cpuPods") -> PodJob:
    """What the Job has come to. `active` and `failed` are the reasons for when the pods gave none; `settings`: where the pod's are."""
    pods = observed.pods_of_job(job)
    end, moment = _end(job)
    if end == "Complete":
        return _completed(observed, pods, moment, active)
    newest = _newest_result(pods)
    if newest is not None and newest.permanent:
        return PodJob(state="failed", reason=newest.reason or failed, message=_by_its_image(newest.message or "", settings))
    if end == "Failed":
        if newest is None and _is_recent(moment, observed):
            return PodJob(state="active", reason=active, message="it failed; its last words are awaited")
        reason, message = _told(pods, newest, failed)
        return PodJob(state="failed", reason=reason, message=message or _job_message(job))
    if (words := _evicted_too_often(pods, settings)) is not None:
        return PodJob(state="evicted", reason=Reason.EVICTED, message=words)
    if is_held(job) and all(pod.has_ended for pod in pods):
        return _held(observed, job, settings)
    words = None if pods else _without_pod(observed, job, settings)
    found = PodJob(state="active", reason=active, message=words) if words else _active(pods, newest, active, failed)
    late = _overdue(observed, job, found.message)
    return replace(found, stalled=_stalled(observed, job, pods, found.message)) if late is None else late


def _overdue(observed: Observed, job: Json, words: str) -> PodJob | None:
    """What a Job has come to that has taken longer than a stage may."""
    allowed = observed.job.spec.budget.stage_deadline_seconds if observed.job else None
    waited = _active_seconds(job, observed)
    if allowed is None or waited is None or waited < allowed:
        return None
    remedy = "mend what it says or raise the deadline, then raise spec.retry"
    told = f"not done after {allowed} s (budget.stageDeadlineSeconds): {words}; {remedy}"
    return PodJob(state="overdue", reason=Reason.DEADLINE_EXCEEDED, message=told)


def _stalled(observed: Observed, job: Json, pods: Sequence[Pod], words: str) -> tuple[str, str] | None:
    """Reason and message, where the pod can't start, or hasn't for so long that nobody should wait in silence."""
    told, _ = needs_person(pods, observed.now)
    waited = _active_seconds(job, observed)
    starts = all(pod.phase == "Pending" for pod in pods)
    late = starts and waited is not None and waited >= _LONG_SECONDS
    return (Reason.PODS_WAIT, told or words) if told or late else None


def _active_seconds(job: Json, observed: Observed) -> float | None:
    """How long the Job has had; None while Kueue holds it back, which sets its start time anew when it lets it go."""
    if is_held(job):
        return None
    return seconds_between((job.get("status") or {}).get("startTime") or job["metadata"].get("creationTimestamp"), observed.now)


def unfinished(observed: Observed) -> tuple[Action, ...]:
    """Deletions of a stage's Jobs that would go on; one whose pod failed for good ends by itself, and keeps its log."""
    return tuple(
        Delete(kind="Job", name=job["metadata"]["name"], uid=job["metadata"]["uid"])
        for stage in (keys.PREPARATION, keys.EVALUATION, keys.PUBLICATION)
        for job in observed.batch_jobs(stage)
        if "deletionTimestamp" not in job["metadata"] and goes_on(observed, job)
    )


def goes_on(observed: Observed, job: Json) -> bool:
    """Whether the Job has a pod that may run, or will make one."""
    newest = _newest_result(observed.pods_of_job(job))
    return _end(job)[0] is None and not (newest is not None and newest.permanent)


def _end(job: Json) -> tuple[str | None, str | None]:
    """Complete or Failed and when; a Job that will be one of them when its pods are gone counts, too."""
    conditions = {c["type"]: c for c in (job.get("status") or {}).get("conditions") or [] if c.get("status") == "True"}
    for kinds, end in ((("Complete", "SuccessCriteriaMet"), "Complete"), (("Failed", "FailureTarget"), "Failed")):
        for kind in kinds:
            if kind in conditions:
                return end, conditions[kind].get("lastTransitionTime")
    return None, None


def _is_recent(moment: str | None, observed: Observed) -> bool:
    """Whether the pods' last words may still be on their way."""
    waited = seconds_between(moment, observed.now)
    return waited is not None and waited < _LAST_WORDS_SECONDS and not is_ahead(moment, observed.now)


def _completed(observed: Observed, pods: Sequence[Pod], moment: str | None, active: str) -> PodJob:
    for pod in reversed(pods):
        found = pod.ended(keys.MAIN_CONTAINER)
        if found is not None and found.exit_code == 0:
            if found.result is None or found.result.outcome != "Done":
                told = "the pod ended well, but its termination message is not a result; is spec.workers.image of another version?"
                return PodJob(state="failed", reason=Reason.RESULT_UNREADABLE, message=told)
            return PodJob(state="done", result=found.result, image_that_ran=_image(pod))
    if _is_recent(moment, observed):
        return PodJob(state="active", reason=active, message="it is done; its result is awaited")
    return PodJob(state="lost", reason=active, message="its pod was deleted before its result was read; it runs again")


def _image(pod: Pod) -> str | None:
    """The image that the pod's main container ran, by digest, where the node told it."""
    main = pod.container(keys.MAIN_CONTAINER)
    found = image_that_ran(main.image, main.image_id) if main is not None else None
    return found if found and len(found) <= LONGEST_MESSAGE else None


def _newest_result(pods: Sequence[Pod]) -> PodResult | None:
    """What the newest pod that has failed said."""
    for pod in reversed(pods):
        found = pod.ended(keys.MAIN_CONTAINER)
        if found is not None and found.exit_code != 0:
            if found.result is not None and found.result.outcome == "Failed":
                return found.result
            permanent = found.exit_code == EXIT_INVALID_INPUT and found.result is None
            return PodResult(outcome="Failed", message=found.message, permanent=permanent)
    return None


def _evicted_too_often(pods: Sequence[Pod], settings: str) -> str | None:
    """Why another pod would fare no better, when nodes have evicted as many as may fail.

    The Job's controller doesn't count them: it can't tell them from pods that were drained or preempted, of which there may be any number.
    """
    told = [words for pod in pods if (words := pod.eviction) is not None]
    if len(told) <= RETRIES:
        return None
    remedy = f"give {settings}.resources requests and limits for what was short, and raise spec.retry"
    return f"nodes evicted {len(told)} pods, the last: {told[-1].rstrip('. ')}; {remedy}"


def _told(pods: Sequence[Pod], newest: PodResult | None, failed: str) -> tuple[str, str]:
    return (failed, "") if newest is None else (newest.reason or failed, newest.message or "")


def _by_its_image(message: str, settings: str) -> str:
    """What a pod says, with the remedy where its image has no field that this operator's models know."""
    if NO_SUCH_FIELD not in message:
        return message
    return (
        f"{message}; the pod's image is older than the operator, which knows it: name a newer one in {settings}.image, and raise spec.retry"
    )


def _job_message(job: Json) -> str:
    conditions = (job.get("status") or {}).get("conditions") or []
    words = [f"{c.get('reason', '')}: {c.get('message', '')}" for c in conditions if c.get("type") in ("Failed", "FailureTarget")]
    return words[0] if words else "the Job failed"


def _held(observed: Observed, job: Json, settings: str) -> PodJob:
    """It is held back by others."""
    metadata = job["metadata"]
    found = held("Job", metadata["name"], observed.workloads.get(metadata["uid"]))
    queue = (metadata.get("labels") or {}).get(keys.QUEUE_LABEL)
    remedy = "" if queue else f"; a Kueue that manages all Jobs wants {settings}.queueName"
    return PodJob(state="active", reason=found.reason, message=f"{found.words}{remedy}", stalled=found.stalled)


def _without_pod(observed: Observed, job: Json, settings: str) -> str | None:
    """Why there is no pod, where there should be one by now."""
    name, waited = job["metadata"]["name"], _active_seconds(job, observed)
    if waited is None or waited < _NO_POD_SECONDS:
        return None
    return (
        f"no pod could be made: see `kubectl describe job {name}`; usual causes: the account that {settings}.serviceAccountName names "
        f"is missing, a quota that wants {settings}.resources.limits, a policy"
    )


def _active(pods: Sequence[Pod], newest: PodResult | None, active: str, failed: str) -> PodJob:
    """A pod runs, waits, or failed and will be followed by another."""
    if pods and pods[-1].phase == "Running":
        again = f"; the pod before it failed: {newest.message}" if newest else ""
        return PodJob(state="active", reason=active, message=f"pod {pods[-1].name} runs{again}")
    if words := waits_for(pods):
        return PodJob(state="active", reason=active, message=words)
    if newest is not None:
        reason, message = _told(pods, newest, failed)
        return PodJob(state="active", reason=reason, message=f"{message}; it will be tried again")
    return PodJob(state="active", reason=active, message=ABOUT_TO_START)
