"""Why pods don't run, in the cluster's own words, with the remedy where there is one.

In: pods. Out: text for a condition. The words are those of the scheduler and the kubelet; this room only finds them and says what
usually helps.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from finetune_api.bounded_text import shortened
from finetune_api.times import seconds_between
from finetune_operator.pods import LONGEST_WORDS, Pod

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
# How long a registry may fail to answer, or a Secret be on its way, until a person is asked for.
_MENDED_SECONDS: Final = 120.0
# Waiting reasons of every pod's first seconds.
_USUAL: Final = ("ContainerCreating", "PodInitializing", "")


def waits_for(pods: Sequence[Pod]) -> str:
    """What the first pods that don't run wait for, each with its name; "" when none of them says anything.

    Pods that say the same are told once, with their number.
    """
    told: dict[str, list[str]] = {}
    for pod in pods:
        if pod.phase == "Pending" and (words := next(_words(pod), "")):
            told.setdefault(words, []).append(pod.name)
    return shortened("; ".join(f"{_who(names)}: {words}" for words, names in told.items()), LONGEST_WORDS)


def needs_person(pods: Sequence[Pod], now: datetime) -> tuple[str, float | None]:
    """What pods wait for that doesn't come by itself, as an image of that name; "" and seconds until it would count, where it is new."""
    stuck = [pod for pod in pods if pod.phase == "Pending" and any(reason in _REMEDIES for reason in _waiting_reasons(pod))]
    waits = [_MENDED_SECONDS - (seconds_between(pod.bound_time or pod.created, now) or 0.0) for pod in stuck]
    if not waits:
        return "", None
    over = [pod for pod, wait in zip(stuck, waits, strict=True) if wait <= 0]
    return waits_for(over), None if over else min(waits)


def _waiting_reasons(pod: Pod) -> Iterator[str]:
    for container in (*pod.init_containers, *pod.containers):
        if container.waiting is not None:
            yield container.waiting[0]


def _who(names: Sequence[str]) -> str:
    return f"pod {names[0]}" if len(names) == 1 else f"pod {names[0]} and {len(names) - 1} more"


def _words(pod: Pod) -> Iterator[str]:
    """What a pending pod says, the most telling first."""
    scheduled = pod.conditions.get("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        yield f"{scheduled.reason or 'Unschedulable'}: {scheduled.message}"
    for container in (*pod.init_containers, *pod.containers):
        reason, message = container.waiting or ("", "")
        if reason not in _USUAL:
            remedy = _REMEDIES.get(reason)
            yield f"{reason}: {message or 'no message'}" + (f"; {remedy}" if remedy else "")
    if pod.message:
        yield f"{pod.reason or 'Pending'}: {pod.message}"
    ready_to_start = pod.conditions.get("PodReadyToStartContainers")
    if ready_to_start is not None and ready_to_start.status == "False":
        missing = f"; it needs {', '.join(pod.needs)}: make what is missing, in the job's namespace" if pod.needs else ""
        yield f"its volumes and network are being set up{missing}; `kubectl describe pod` tells more if this takes long"
