"""What an attempt has lost under it: a pod that ran and is gone, a node that no longer answers, a Ray that ended in its pod. Pure.

In: an attempt with the pods that it recorded, its RayJob and the RayCluster's pods. Out: what was lost since Ray got the driver, as pod,
node and why. Recorded, because KubeRay puts another pod where one is gone, and nothing else remembers that there was one. Pods that
are told to stop commit a checkpoint first and are not lost; memory that ran out is the job's own affair.
"""

from collections.abc import Sequence
from typing import Final

from finetune_api.bounded_text import shortened
from finetune_api.status import LONGEST_MESSAGE, AttemptPod, AttemptStatus, EndedPods
from finetune_api.times import is_ahead, timestamp
from finetune_operator import keys
from finetune_operator.observation import Observed, RayJob
from finetune_operator.pods import Ended, Pod

# Reasons for which a pod is taken away after its node was lost: no checkpoint comes first.
OF_LOST_NODES: Final = ("DeletionByTaintManager", "DeletionByPodGC", "NodeLost")
_RAY_CONTAINERS: Final = (keys.HEAD_CONTAINER, keys.WORKER_CONTAINER)
_NOTHING_LOST: Final = {"lost": None, "lost_time": None, "failed_node": None}


def noted(observed: Observed, attempt: AttemptStatus, rayjob: RayJob | None, pods: Sequence[Pod], *, submitted: bool) -> dict[str, object]:
    """Changes of the attempt: what is lost of the pods that Ray had when it got the driver, where, and since when.

    Before Ray has the driver, a pod in another's place is as good. What has come back isn't lost.
    """
    if attempt.running_time is None or rayjob is None or rayjob.terminal or rayjob.deleting or rayjob.queued:
        return {}
    before = observed.status.attempts[-1]
    if not submitted or before.running_time is None:
        return {}
    report = observed.report_of(attempt)
    if report is not None and report.is_over:
        return {}  # its pods go because it has ended, which the watch of RayJobs may be late to tell
    # Seen once is enough: KubeRay deletes the pod within seconds, and what is gone says nothing.
    if (words := attempt.out_of_memory or out_of_memory(pods)) is not None:
        of_ranks = attempt.ranks_out_of_memory or ranks_out_of_memory(pods) or None
        return {"out_of_memory": words, "ranks_out_of_memory": of_ranks, **_NOTHING_LOST}
    found = lost(attempt, pods)
    if found is None:
        return {} if attempt.lost is None else dict(_NOTHING_LOST)
    # A step since tells that what looks lost still works, as when a node's kubelet alone is gone, or a pod commits its checkpoint.
    since = attempt.lost_time if attempt.last_step == before.last_step and not is_ahead(attempt.lost_time, observed.now) else None
    node, words = found
    return {"lost": shortened(words, LONGEST_MESSAGE), "lost_time": since or timestamp(observed.now), "failed_node": node}


def ended_at_start(known: EndedPods | None, pods: Sequence[Pod]) -> EndedPods | None:
    """`known` with a pod that ended since. Recorded, because KubeRay puts another pod in its place at once, which tells of nothing."""
    for pod in sorted(pods, key=lambda pod: pod.created or ""):
        found = _ray_end(pod)
        if found is None or pod.deletion_time is not None or pod.disruption is not None:
            continue
        if known is None or (pod.created or "") > (known.created_time or ""):
            words = shortened(f"Ray in pod {pod.name} ended before it had the driver: {found.message}", LONGEST_MESSAGE)
            known = EndedPods(count=known.count + 1 if known else 1, created_time=pod.created, message=words)
    return known


def out_of_memory(pods: Sequence[Pod]) -> str | None:
    """Which pod's Ray the kernel ended for its memory, in the node's words. That is the job's own affair, and charged."""
    for pod in pods:
        for container in _RAY_CONTAINERS:
            if (found := pod.crash(container)) is not None and found.reason == "OOMKilled":
                return f"pod {pod.name}: {found.message}"
    return None


def ranks_out_of_memory(pods: Sequence[Pod]) -> bool:
    """Whether it was the Ray of a worker, where the ranks run."""
    return any((found := pod.crash(keys.WORKER_CONTAINER)) is not None and found.reason == "OOMKilled" for pod in pods)


def lost(attempt: AttemptStatus, pods: Sequence[Pod]) -> tuple[str | None, str] | None:
    """The first of the attempt's pods that is lost: its node; which, where and why in words."""
    there = {pod.name: pod for pod in pods}
    # Gone or unreachable says more than a Ray that ended: the loss of one pod ends the Ray of others.
    recorded = [one for one in attempt.pods or () if not one.spare]
    found = [(one.node, why) for one in recorded if (why := _lost(one, there.get(one.name)))]
    found += [(one.node, why) for one in recorded if one.name in there and (why := _ended(one, there[one.name]))]
    return found[0] if found else None


def _lost(recorded: AttemptPod, pod: Pod | None) -> str | None:
    node = f"node {recorded.node}" if recorded.node else "its node"
    if pod is None:
        return f"pod {recorded.name} on {node} is gone: somebody deleted it, or its node"
    if pod.is_unreachable:
        return f"{node} no longer answers; pod {recorded.name} ran there"
    disrupted = pod.disruption
    if disrupted is not None and disrupted[0] in OF_LOST_NODES:
        return f"pod {recorded.name} on {node}: {disrupted[0]}: {disrupted[1]}"
    return None


def _ended(recorded: AttemptPod, pod: Pod) -> str | None:
    if pod.deletion_time is not None or pod.disruption is not None:
        return None
    found = _ray_end(pod)
    if found is None or found.reason == "OOMKilled":
        return None
    node = f" on node {recorded.node}" if recorded.node else ""
    return f"Ray in pod {recorded.name}{node} ended: {found.message}"


def _ray_end(pod: Pod) -> Ended | None:
    """How the pod's Ray ended, now or before the kubelet started it again; None while it hasn't."""
    return next(filter(None, (pod.crash(container) for container in _RAY_CONTAINERS)), None)
