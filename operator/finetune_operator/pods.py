"""A pod, read once: who controls it, where it is, how far it has come, and how its containers ended.

In: a pod as the API server gives it. Out: a frozen value; nobody else looks into the JSON of a pod. Whose pod it is, is decided in
`observation`; what its state means to an attempt or to a person, in `failures`, `losses` and `waiting`. What a pod says is untrusted input.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_api.bounded_text import shortened
from finetune_api.pod_result import PodResult, parse_pod_result

Json = dict[str, Any]

LONGEST_WORDS: Final = 600
# Reasons in the status of a pod, set where no condition tells of the disruption.
_DISRUPTED: Final = ("Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated", "NodeLost")
# Exit codes of a shell that can't run a command, or can't find it.
_NOT_FOUND: Final = (126, 127)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The object whose controller made the pod."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCondition:
    """A condition of a pod. `since`: its last transition."""

    status: str
    reason: str = ""
    message: str = ""
    since: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a container ended. `message` is fit for a person, `result` what our own program said."""

    exit_code: int
    result: PodResult | None
    reason: str
    message: str
    finished: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container, as its node tells of it. `waiting` is reason and message; `ended_before` the end before the kubelet started it again."""

    name: str
    image: str = ""
    image_id: str = ""
    waiting: tuple[str, str] | None = None
    ended: Ended | None = None
    ended_before: Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What is read of a pod. `needs`: the Secrets and claims that it mounts; `devices`: GPUs and the like that its containers hold."""

    name: str
    uid: str
    labels: Mapping[str, str]
    controller: Controller | None
    created: str | None
    deletion_time: str | None
    phase: str
    node: str | None
    reason: str
    message: str
    conditions: Mapping[str, PodCondition] = field(default_factory=dict)
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    devices: Mapping[str, int] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether it holds nothing any more: all of its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_gone(self) -> bool:
        """Whether it has ended or is about to."""
        return self.has_ended or self.deletion_time is not None

    @property
    def bound_time(self) -> str | None:
        """When the scheduler gave it a node, and with it what it asks for; None while it hasn't."""
        scheduled = self.conditions.get("PodScheduled")
        return scheduled.since if scheduled is not None and scheduled.status == "True" else None

    @property
    def is_unreachable(self) -> bool:
        """Whether its node no longer answers."""
        ready = self.conditions.get("Ready")
        # The node lifecycle controller (1.34) sets Ready to False and gives no reason; a kubelet gives one, such as ContainersNotReady.
        lost = ready is not None and ready.status != "True" and not ready.reason
        return lost or self.phase == "Unknown"

    @property
    def disruption(self) -> tuple[str, str] | None:
        """Why others took it away: reason and message of its DisruptionTarget condition, or of an eviction."""
        target = self.conditions.get("DisruptionTarget")
        if target is not None and target.status == "True":
            return target.reason or "Disrupted", target.message or "the pod was evicted"
        if self.reason in _DISRUPTED:
            return self.reason, self.message or "the pod was evicted"
        return None

    @property
    def eviction(self) -> str | None:
        """The node's words, where the pod used more memory or disk than there was. A pod that is drained or preempted has none."""
        if self.phase != "Failed" or self.reason != "Evicted":
            return None
        return shortened(self.message or "the node gave no reason", LONGEST_WORDS)

    def container(self, name: str) -> Container | None:
        """The container of that name, once the pod's node has told of it. Init containers don't count."""
        return next((container for container in self.containers if container.name == name), None)

    def ended(self, container: str) -> Ended | None:
        """How the container of that name ended; None while it hasn't. A pod that was evicted says so itself."""
        found = self.container(container)
        if found is not None and found.ended is not None:
            return found.ended
        if self.phase == "Failed":
            message = shortened(self.message or "the pod failed", LONGEST_WORDS)
            return Ended(exit_code=1, result=None, reason=self.reason or "Failed", message=message)
        return None

    def crash(self, container: str) -> Ended | None:
        """How the container of that name ended, now or before the kubelet started it again; None when it never has."""
        if (now := self.ended(container)) is not None:
            return now
        found = self.container(container)
        return found.ended_before if found is not None else None


def read_pod(raw: Json) -> Pod:
    """The pod, from its JSON."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    words = status.get("message") or ""
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        labels=metadata.get("labels") or {},
        controller=_controller(metadata),
        created=metadata.get("creationTimestamp"),
        deletion_time=metadata.get("deletionTimestamp"),
        phase=status.get("phase") or "Pending",
        node=spec.get("nodeName"),
        reason=status.get("reason") or "",
        message=words,
        conditions={found.get("type") or "": _condition(found) for found in status.get("conditions") or []},
        init_containers=tuple(_container(found, words) for found in status.get("initContainerStatuses") or []),
        containers=tuple(_container(found, words) for found in status.get("containerStatuses") or []),
        devices=_devices(spec),
        needs=tuple(sorted(set(_mounted(spec)))),
    )


def _controller(metadata: Json) -> Controller | None:
    owner = next((owner for owner in metadata.get("ownerReferences") or [] if owner.get("controller") is True), None)
    return Controller(kind=owner["kind"], name=owner["name"], uid=owner["uid"]) if owner else None


def _condition(found: Json) -> PodCondition:
    return PodCondition(
        status=found.get("status") or "",
        reason=found.get("reason") or "",
        message=found.get("message") or "",
        since=found.get("lastTransitionTime"),
    )


def _container(found: Json, words: str) -> Container:
    """`words`: the pod's own message, which says more of a container's end than its exit code."""
    state = found.get("state") or {}
    waiting, former = state.get("waiting"), (found.get("lastState") or {}).get("terminated")
    return Container(
        name=found.get("name") or "",
        image=found.get("image") or "",
        image_id=found.get("imageID") or "",
        waiting=(waiting.get("reason") or "", waiting.get("message") or "") if waiting else None,
        ended=_ended(state["terminated"], words) if state.get("terminated") else None,
        ended_before=_ended(former, "") if former else None,
    )


def _ended(terminated: Json, words: str) -> Ended:
    code = int(terminated.get("exitCode", 1))
    return Ended(
        exit_code=code,
        result=parse_pod_result(terminated.get("message")),
        reason=terminated.get("reason") or "",
        message=shortened(words or _described(code, terminated.get("reason") or ""), LONGEST_WORDS),
        finished=terminated.get("finishedAt"),
    )


def _described(code: int, reason: str) -> str:
    """An end that our own program didn't describe. Its text is not shown: anything may have written it."""
    if reason == "OOMKilled":
        return "the container ran out of memory; raise its memory limit"
    if code in _NOT_FOUND:
        return f"the container ended with code {code}: the image lacks a command that the pod runs; is it a trainer image of this product?"
    return f"the container ended with code {code} ({reason or 'no reason'})"


def _devices(spec: Json) -> dict[str, int]:
    """Whole devices by resource name, as `nvidia.com/gpu: 8`; memory and CPUs are none."""
    held: dict[str, int] = {}
    for container in spec.get("containers") or []:
        for name, quantity in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in name and str(quantity).isdecimal():
                held[name] = held.get(name, 0) + int(quantity)
    return held


def _mounted(spec: Json) -> Iterator[str]:
    """The Secrets and claims that a pod waits for. Whether they exist is not for the operator to know: it has no right to look."""
    for volume in spec.get("volumes") or []:
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            secret = source.get("secret") or {}
            if name := secret.get("secretName") or secret.get("name"):
                yield f"Secret {name}"
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield f"PersistentVolumeClaim {claim}"
