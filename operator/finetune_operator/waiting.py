"""Why pods don't run, in the cluster's own words, with the remedy where there is one.

In: pods as the API server gives them. Out: text for a condition, or what a pod said when it ended. The words are those of the
scheduler and the kubelet; this room only finds them and says what usually helps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.bounded_text import shortened
from finetune_api.pod_result import PodResult, parse_pod_result

Json = dict[str, Any]

_LONGEST_WORDS: Final = 600
# A container's waiting reason -> what usually helps.
_REMEDIES: Final = {
    "ErrImagePull": "check the image's name and tag, and the registry's pull Secret",
    "ImagePullBackOff": "check the image's name and tag, and the registry's pull Secret",
    "InvalidImageName": "correct the image's name",
    "ErrImageNeverPull": "the image is not on the node, and its pull policy is Never",
    "CreateContainerConfigError": "make the Secret or ConfigMap that it names, in the job's namespace",
    "CreateContainerError": "see `kubectl describe pod`",
    "CrashLoopBackOff": "see `kubectl logs --previous`",
    "RunContainerError": "see `kubectl describe pod`",
}
# Waiting reasons of every pod's first seconds.
_USUAL: Final = ("ContainerCreating", "PodInitializing", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a pod's main container ended."""

    exit_code: int
    result: PodResult | None
    reason: str
    message: str


def phase(pod: Json) -> str:
    """Pending, Running, Succeeded, Failed or Unknown."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_gone(pod: Json) -> bool:
    """Whether the pod has ended or is about to."""
    return phase(pod) in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]


def waits_for(pods: Sequence[Json]) -> str:
    """What the first pods that don't run wait for, each with its name; "" when none of them says anything.

    Pods that say the same are told once, with their number.
    """
    told: dict[str, list[str]] = {}
    for pod in pods:
        if phase(pod) == "Pending" and (words := next(_words(pod), "")):
            told.setdefault(words, []).append(pod["metadata"]["name"])
    return shortened("; ".join(f"{_who(names)}: {words}" for words, names in told.items()), _LONGEST_WORDS)


def _who(names: Sequence[str]) -> str:
    return f"pod {names[0]}" if len(names) == 1 else f"pod {names[0]} and {len(names) - 1} more"


def _words(pod: Json) -> Iterator[str]:
    """What a pending pod says, the most telling first."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or ""
        if reason not in _USUAL:
            remedy = _REMEDIES.get(reason)
            yield f"{reason}: {waiting.get('message') or 'no message'}" + (f"; {remedy}" if remedy else "")
    if status.get("message"):
        yield f"{status.get('reason', 'Pending')}: {status['message']}"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodReadyToStartContainers" and condition.get("status") == "False":
            wanted = sorted(set(_mounted(pod)))
            missing = f"; it needs {', '.join(wanted)}: make what is missing, in the job's namespace" if wanted else ""
            yield f"its volumes and network are being set up{missing}; `kubectl describe pod` tells more if this takes long"


def _mounted(pod: Json) -> Iterator[str]:
    """The Secrets and claims that a pod waits for. Whether they exist is not for the operator to know: it has no right to look."""
    for volume in (pod.get("spec") or {}).get("volumes") or []:
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            secret = source.get("secret") or {}
            if name := secret.get("secretName") or secret.get("name"):
                yield f"Secret {name}"
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield f"PersistentVolumeClaim {claim}"


def _containers(status: Json) -> list[Json]:
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def ended(pod: Json, container: str) -> Ended | None:
    """How the container of that name ended; None while it hasn't. A pod that was evicted says so itself."""
    status = pod.get("status") or {}
    for found in status.get("containerStatuses") or []:
        terminated = (found.get("state") or {}).get("terminated")
        if found.get("name") == container and terminated:
            text = terminated.get("message")
            return Ended(
                exit_code=int(terminated.get("exitCode", 1)),
                result=parse_pod_result(text),
                reason=terminated.get("reason") or "",
                message=shortened(status.get("message") or _described(terminated), _LONGEST_WORDS),
            )
    if phase(pod) == "Failed":
        message = shortened(status.get("message") or "the pod failed", _LONGEST_WORDS)
        return Ended(exit_code=1, result=None, reason=status.get("reason") or "Failed", message=message)
    return None


def crash(pod: Json, container: str) -> Ended | None:
    """How the container of that name ended, now or before the kubelet started it again; None when it never has."""
    if (found := ended(pod, container)) is not None:
        return found
    for one in (pod.get("status") or {}).get("containerStatuses") or []:
        former = (one.get("lastState") or {}).get("terminated")
        if one.get("name") == container and former:
            code = int(former.get("exitCode", 1))
            return Ended(exit_code=code, result=None, reason=former.get("reason") or "", message=_described(former))
    return None


def _described(terminated: Json) -> str:
    """An end that our own program didn't describe. Its text is not shown: anything may have written it."""
    code = int(terminated.get("exitCode", 1))
    if terminated.get("reason") == "OOMKilled":
        return "the container ran out of memory; raise its memory limit"
    return f"the container ended with code {code} ({terminated.get('reason') or 'no reason'})"


def disruption(pod: Json) -> tuple[str, str] | None:
    """Why others took the pod away: reason and message of its DisruptionTarget condition, or of an eviction."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return condition.get("reason") or "Disrupted", condition.get("message") or "the pod was evicted"
    if status.get("reason") in ("Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated", "NodeLost"):
        return status["reason"], status.get("message") or "the pod was evicted"
    return None


def evicted(pod: Json) -> str | None:
    """The node's words about a pod that used more memory or disk than there was. One that others take away says nothing of the kind."""
    status = pod.get("status") or {}
    if phase(pod) != "Failed" or status.get("reason") != "Evicted":
        return None
    return shortened(status.get("message") or "the node gave no reason", _LONGEST_WORDS)


def is_unreachable(pod: Json) -> bool:
    """Whether the pod's node no longer answers."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    # The node lifecycle controller (1.34) sets Ready to False and gives no reason; a kubelet gives one, such as ContainersNotReady.
    lost = any(c.get("type") == "Ready" and c.get("status") != "True" and not c.get("reason") for c in conditions)
    return lost or phase(pod) == "Unknown"
