"""GPU hours by pod: what each pod of an attempt or an evaluation holds, from its binding to a node until it has ended or is gone. Pure.

In: attempts with the pods of their RayClusters, and the pods of evaluations. Out: attempts whose pods are entered when they are bound, and
counted up to a time that is recorded with the sum: hours that stand in the status were added in one write with the time up to which they
count, so that nothing is counted twice, and a restart loses nothing. Between two writes what is held now is worked out (`used_gpu_hours`).
Pods that go after their attempt has ended are counted, too: they hold their GPUs while they commit a checkpoint. An evaluation's pods are
added once, when they have ended, however their Job came to its end: done, failed, or deleted midway.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from finetune_api.checks import device
from finetune_api.finetunejob import GPU_RESOURCE, FineTuneJob
from finetune_api.status import MOST_PODS, AttemptPod, AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_api.times import moment, timestamp
from finetune_operator import keys
from finetune_operator.observation import HEAD, Observed
from finetune_operator.pods import Pod

# How long after a driver's last report its pods count that nobody saw go: it reports each minute as long as they are there.
_SILENT_SECONDS: Final = 120.0
# How long pods may take to go that nobody saw go after their attempt had ended: a checkpoint's time, and what Ray's end takes.
_GOING_SECONDS: Final = 600.0


def gpus(job: FineTuneJob) -> int:
    """What the job's workers hold."""
    workers = job.spec.workers
    return workers.nodes * workers.gpus_per_node if device(job.spec) == "gpu" else 0


# ---- who holds what


def joined(attempt: AttemptStatus, pods: Sequence[Pod], *, submitted: bool) -> list[AttemptPod] | None:
    """The attempt's pods, with those that were bound since. Until Ray has the driver, those that don't run are spare."""
    there = {pod.name: pod for pod in pods}
    # An operator of before entered no binding.
    known = [one if one.since or one.name not in there else _bound(attempt, there[one.name]) for one in attempt.pods or ()]
    names = {one.name for one in known}
    new = [_bound(attempt, pod) for pod in pods if pod.node is not None and pod.name not in names]
    if submitted and known:
        found = [*known, *(one.model_copy(update={"spare": True}) for one in new)]
    else:
        found = [one.model_copy(update={"spare": None if _runs(there.get(one.name)) else True}) for one in (*known, *new)]
    if len(found) > MOST_PODS:  # those that are gone, and weren't Ray's, say nothing any more
        found = [one for one in found if one.until is None or not one.spare][:MOST_PODS]
    return found or None


def _runs(pod: Pod | None) -> bool:
    return pod is not None and pod.phase == "Running" and pod.deletion_time is None


def _bound(attempt: AttemptStatus, pod: Pod) -> AttemptPod:
    held = 0 if pod.labels.get(keys.NODE_TYPE_LABEL) == HEAD else (attempt.gpus or 0) // (attempt.worker_pods or 1)
    # What an API server tells of a pod that ran long before its attempt was entered isn't of this attempt.
    entered = moment(attempt.start_time)
    since = moment(pod.bound_time) or max(filter(None, (moment(pod.created), entered)), default=None)
    return AttemptPod(name=pod.name, node=pod.node, gpus=held or None, since=timestamp(since) if since else None)


# ---- for how long


def counted(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with hours up to now, where an attempt or an evaluation has news: a report, a pod that came or went, its end."""
    status = _with_evaluations(observed, status)
    before = {attempt.number: attempt for attempt in observed.status.attempts}
    reported = _reported_at(status) != _reported_at(observed.status)
    found, added = [], 0.0
    for attempt in status.attempts:
        fresh = _recounted(observed, attempt)
        is_news = _pods(fresh) != _pods(attempt) or attempt != before.get(attempt.number) or (reported and attempt is status.attempts[-1])
        if not is_news or not _pods(attempt):
            found.append(attempt)
            continue
        fresh = fresh.model_copy(update={"gpu_hours": round(fresh.gpu_hours or 0.0, 6)})
        added += (fresh.gpu_hours or 0.0) - (attempt.gpu_hours or 0.0)
        found.append(_without_gone(fresh))
    if found == status.attempts:
        return status
    usage = status.usage or UsageStatus()
    usage = usage.model_copy(update={"gpu_hours": round(usage.gpu_hours + added, 6)})
    return status.model_copy(update={"attempts": found, "usage": usage if added else status.usage})


def _reported_at(status: FineTuneJobStatus) -> str | None:
    return status.progress.reported_at if status.progress is not None else None


def _pods(attempt: AttemptStatus) -> list[AttemptPod]:
    """What is counted of the attempt."""
    return (attempt.pods if attempt.outcome is None else attempt.leaving) or []


def _without_gone(attempt: AttemptStatus) -> AttemptStatus:
    """Of an attempt that has ended, the pods that still hold something."""
    if attempt.outcome is None:
        return attempt
    return attempt.model_copy(update={"leaving": [one for one in attempt.leaving or () if one.until is None] or None})


@dataclass(frozen=True, slots=True)
class _Held:
    """A pod's entry as of now, and the hours that it adds."""

    entry: AttemptPod
    gpu_hours: float


def _with_evaluations(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with the pods of evaluations: those that have ended since are in the sum, those that are gone are forgotten."""
    usage = status.usage or UsageStatus()
    held, there = _evaluations(observed, status), _evaluation_pods(observed)
    entries = [one.entry for one in held if one.entry.until is None or one.entry.name in there][-MOST_PODS:] or None
    if entries == usage.evaluation_pods:
        return status
    hours = usage.gpu_hours + sum(one.gpu_hours for one in held if one.entry.until is not None)
    return status.model_copy(update={"usage": usage.model_copy(update={"gpu_hours": round(hours, 6), "evaluation_pods": entries})})


def _evaluations(observed: Observed, status: FineTuneJobStatus) -> list[_Held]:
    """Pods of evaluations as of now: those that are entered, with what they hold that isn't in the sum, and those that were bound since."""
    gpu = observed.job.spec.workers.gpu if observed.job else GPU_RESOURCE
    there = _evaluation_pods(observed)
    known = (status.usage or UsageStatus()).evaluation_pods or []
    names = {one.name for one in known}
    new = [
        AttemptPod(name=pod.name, node=pod.node, gpus=held, since=since)
        for pod in there.values()
        if pod.name not in names and (held := pod.devices.get(gpu)) and (since := pod.bound_time)
    ]
    return [_held_until_now(one, there.get(one.name), observed.now) for one in (*known, *new)]


def _evaluation_pods(observed: Observed) -> dict[str, Pod]:
    """The newest pods of evaluations by name: nodes may evict any number, and those of before have ended."""
    return {pod.name: pod for pod in observed.pods_of_stage(keys.EVALUATION)[-MOST_PODS:]}


def _held_until_now(entry: AttemptPod, pod: Pod | None, now: datetime) -> _Held:
    """A pod that is gone went when it was missed: pods are watched."""
    since = moment(entry.since)
    if entry.until is not None or since is None:
        return _Held(entry, 0.0)
    over = now if pod is None else _seen_end(pod, since, now)
    hours = max(((over or now) - since).total_seconds(), 0.0) * (entry.gpus or 0) / 3600
    return _Held(entry.model_copy(update={"until": timestamp(over)}) if over else entry, hours)


def used_gpu_hours(observed: Observed, status: FineTuneJobStatus) -> float:
    """GPU hours of all attempts and evaluations, up to now."""
    recorded = (status.usage or UsageStatus()).gpu_hours
    of_attempts = sum((_recounted(observed, one).gpu_hours or 0.0) - (one.gpu_hours or 0.0) for one in status.attempts if _pods(one))
    return recorded + of_attempts + sum(one.gpu_hours for one in _evaluations(observed, status))


def held_gpus(observed: Observed, status: FineTuneJobStatus) -> int:
    """GPUs that pods hold now."""
    of_attempts = [one for attempt in status.attempts for one in _pods(_recounted(observed, attempt))]
    of_evaluations = [one.entry for one in _evaluations(observed, status)]
    return sum(one.gpus or 0 for one in (*of_attempts, *of_evaluations) if not one.until)


def next_release_seconds(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """Seconds until a pod that is being deleted counts no longer, though nothing may announce it; None when there is none."""
    entered = [one for attempt in status.attempts for one in _pods(attempt)] + ((status.usage or UsageStatus()).evaluation_pods or [])
    names = {one.name for one in entered if one.until is None and one.gpus}
    times = [moment(pod.deletion_time) for pod in observed.pods if pod.name in names]
    return min((max((time - observed.now).total_seconds(), 1.0) for time in times if time is not None), default=None)


def _recounted(observed: Observed, attempt: AttemptStatus) -> AttemptStatus:
    """The attempt as it would be recorded now."""
    if not _pods(attempt):
        return attempt
    held = list(_held(observed, attempt))
    hours = (attempt.gpu_hours or 0.0) + sum(one.gpu_hours for one in held)
    now = max(filter(None, (moment(timestamp(observed.now)), moment(attempt.counted_time))))
    place = "pods" if attempt.outcome is None else "leaving"
    return attempt.model_copy(update={place: [one.entry for one in held], "gpu_hours": hours, "counted_time": timestamp(now)})


def _held(observed: Observed, attempt: AttemptStatus) -> Iterator[_Held]:
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    there = {pod.name: pod for pod in observed.pods_of_cluster(cluster)} if cluster else {}
    now = datetime.fromisoformat(timestamp(observed.now)).astimezone(UTC)
    until_now = moment(attempt.counted_time)
    for one in _pods(attempt):
        since = moment(one.since)
        if one.until is not None or since is None:
            yield _Held(one, 0.0)
            continue
        begun = max(filter(None, (since, until_now)))
        pod = there.get(one.name)
        over = _seen_end(pod, since, now) if pod is not None else _unseen_end(observed, attempt, begun, now)
        end = max(min(over or now, now), begun)
        seconds = (end - begun).total_seconds() if begun < end else 0.0
        yield _Held(one.model_copy(update={"until": timestamp(end)}) if over else one, seconds * (one.gpus or 0) / 3600)


def _seen_end(pod: Pod, since: datetime, now: datetime) -> datetime | None:
    """When the pod gave its GPUs back, and at the latest when it should have; None while it holds them."""
    if pod.has_ended:
        ended = max(filter(None, (moment(container.ended.finished) for container in pod.containers if container.ended)), default=None)
        return ended if ended is not None and ended > since else now
    due = moment(pod.deletion_time)
    return due if due is not None and due <= now else None


def _unseen_end(observed: Observed, attempt: AttemptStatus, begun: datetime, now: datetime) -> datetime:
    """When a pod went that is gone. An operator that was away knows only by when it must have gone."""
    was_over = any(one.number == attempt.number and one.outcome is not None for one in observed.status.attempts)
    if was_over and (completed := moment(attempt.completion_time)) is not None:
        return min(now, completed + timedelta(seconds=_GOING_SECONDS))
    rayjob = observed.rayjob_of(attempt)
    if rayjob is not None and rayjob.terminal and (ended := moment(rayjob.ended)) is not None:
        return max(min(now, ended), begun)
    report = observed.report_of(attempt)
    said = moment(report.reported_at) if report is not None else None
    return now if said is None else max(min(now, said + timedelta(seconds=_SILENT_SECONDS)), begun)
