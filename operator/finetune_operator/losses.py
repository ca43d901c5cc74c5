"""What an attempt has lost under it: a pod that ran and is gone, a node that no longer answers, a Ray that ended in its pod. Pure.

In: an attempt, its RayJob and the RayCluster's pods. Out: the attempt with its pods recorded once all ran, and with what was lost since,
as pod, node and why. Recorded, because KubeRay puts another pod where one is gone, and nothing else remembers that there was one. Pods that
are told to stop commit a checkpoint first and are not lost; memory that ran out is the job's own affair.
"""

from collections.abc import Sequence
from typing import Any, Final

from finetune_api.bounded_text import shortened
from finetune_api.report import ReportOutcome
from finetune_api.status import LONGEST_MESSAGE, MOST_PODS, AttemptPod, AttemptStatus
from finetune_api.times import is_ahead, timestamp
from finetune_operator import keys
from finetune_operator.observation import Observed, RayJob
from finetune_operator.waiting import crash, disruption, is_unreachable, phase

Json = dict[str, Any]

# Reasons for which a pod is taken away after its node was lost: no checkpoint comes first.
OF_LOST_NODES: Final = ("DeletionByTaintManager", "DeletionByPodGC", "NodeLost")
_RAY_CONTAINERS: Final = (keys.HEAD_CONTAINER, keys.WORKER_CONTAINER)


def noted(observed: Observed, attempt: AttemptStatus, rayjob: RayJob | None, pods: Sequence[Json], *, submitted: bool) -> dict[str, object]:
    """Changes of the attempt: its pods, as they are when Ray gets the driver; what is lost of them, and since when.

    Before Ray has the driver, a pod in another's place is as good. What has come back isn't lost.
    """
    if attempt.running_time is None or rayjob is None or rayjob.terminal or rayjob.deleting or rayjob.queued:
        return {}
    before = observed.status.attempts[-1]
    if not submitted or before.running_time is None:
        return {"pods": running(pods)}
    report = observed.report_of(attempt)
    if report is not None and report.outcome not in (None, ReportOutcome.RUNNING):
        return {}  # its pods go because it has ended, which the watch of RayJobs may be late to tell
    # Seen once is enough: KubeRay deletes the pod within seconds, and what is gone says nothing.
    if (words := attempt.out_of_memory or out_of_memory(pods)) is not None:
        return {"out_of_memory": words, "lost": None, "lost_time": None}
    found = lost(attempt, pods)
    if found is None:
        return {} if attempt.lost is None else {"lost": None, "lost_time": None}
    # A step since tells that what looks lost still works, as when a node's kubelet alone is gone, or a pod commits its checkpoint.
    since = attempt.lost_time if attempt.last_step == before.last_step and not is_ahead(attempt.lost_time, observed.now) else None
    return {"lost": shortened(found, LONGEST_MESSAGE), "lost_time": since or timestamp(observed.now)}


def running(pods: Sequence[Json]) -> list[AttemptPod]:
    """The pods that run, with their nodes."""
    alive = [pod for pod in pods if phase(pod) == "Running" and "deletionTimestamp" not in pod["metadata"]]
    return [AttemptPod(name=pod["metadata"]["name"], node=(pod.get("spec") or {}).get("nodeName")) for pod in alive][:MOST_PODS]


def out_of_memory(pods: Sequence[Json]) -> str | None:
    """Which pod's Ray the kernel ended for its memory, in the node's words. That is the job's own affair, and charged."""
    for pod in pods:
        for container in _RAY_CONTAINERS:
            if (found := crash(pod, container)) is not None and found.reason == "OOMKilled":
                return f"pod {pod['metadata']['name']}: {found.message}"
    return None


def lost(attempt: AttemptStatus, pods: Sequence[Json]) -> str | None:
    """The first of the attempt's pods that is lost: which, where and why."""
    there = {pod["metadata"]["name"]: pod for pod in pods}
    # Gone or unreachable says more than a Ray that ended: the loss of one pod ends the Ray of others.
    recorded = attempt.pods or []
    found = [why for one in recorded if (why := _lost(one, there.get(one.name)))]
    found += [why for one in recorded if one.name in there and (why := _ended(one, there[one.name]))]
    return found[0] if found else None


def _lost(recorded: AttemptPod, pod: Json | None) -> str | None:
    node = f"node {recorded.node}" if recorded.node else "its node"
    if pod is None:
        return f"pod {recorded.name} on {node} is gone: somebody deleted it, or its node"
    if is_unreachable(pod):
        return f"{node} no longer answers; pod {recorded.name} ran there"
    taken = disruption(pod)
    if taken is not None and taken[0] in OF_LOST_NODES:
        return f"pod {recorded.name} on {node}: {taken[0]}: {taken[1]}"
    return None


def _ended(recorded: AttemptPod, pod: Json) -> str | None:
    if "deletionTimestamp" in pod["metadata"] or disruption(pod) is not None:
        return None
    found = next(filter(None, (crash(pod, container) for container in _RAY_CONTAINERS)), None)
    if found is None or found.reason == "OOMKilled":
        return None
    node = f" on node {recorded.node}" if recorded.node else ""
    return f"Ray in pod {recorded.name}{node} ended: {found.message}"
