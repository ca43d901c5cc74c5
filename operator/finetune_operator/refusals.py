"""What it means to a person when the API server doesn't let us make or delete an object: reason, words and remedy. Pure."""

import re
from dataclasses import replace
from typing import Final

from finetune_api.reasons import Reason
from finetune_operator import kinds
from finetune_operator.observation import Refusal
from finetune_operator.runtime.api import ApiError, Forbidden, Invalid, NotFound, Resource

# Where pods lie in the objects that we make, and the part of a spec that they are made from.
_IN_RAYJOB: Final = {"headGroupSpec": "cpuPods", "workerGroupSpecs[0]": "workers"}
_POD_PATHS: Final = re.compile(r"""(?<![\w.])spec\.(?:rayClusterSpec\.(headGroupSpec|workerGroupSpecs\[0\])\.)?template\.([^\s:",]+)""")
# Fields of pods that are written as the spec has them, entry by entry; of the others the name alone leads to the spec's.
_AS_WRITTEN: Final = ("affinity", "tolerations", "topologySpreadConstraints", "nodeSelector", "resources", "labels", "annotations")
_RENAMED: Final = {"volumeMounts": "volumes"}
_BY_NAME: Final = (
    *("env", "envFrom", "image", "imagePullSecrets", "priorityClassName", "runtimeClassName", "schedulerName"),
    *("serviceAccountName", "volumes"),
)


def is_refusal(error: ApiError) -> bool:
    """Whether the API server has answered that it won't have it: trying at once again wouldn't help."""
    return isinstance(error, Forbidden | Invalid | NotFound) or error.status == 400


def refusal(resource: Resource, name: str, error: ApiError, *, pods: str = "cpuPods") -> Refusal:
    """What a refused creation or deletion means to a person. `pods`: the part of the spec that a Job's pods are made from."""
    name = f"{resource.kind} {name}"
    words, for_ray = error.message, resource == kinds.RAYJOBS
    if isinstance(error, NotFound):
        reason = Reason.KUBERAY_ABSENT if for_ray else Reason.FORBIDDEN
        return Refusal(reason=reason, name=name, message=f"its kind or namespace isn't there: {words}", needs_person=True)
    if isinstance(error, Forbidden) and any(verb in words for verb in ("cannot create", "cannot patch", "cannot delete")):
        reason = Reason.KUBERAY_FORBIDDEN if for_ray else Reason.FORBIDDEN
        return Refusal(reason=reason, name=name, message=f"give the operator's role the right: {words}", needs_person=True)
    if for_ray and (field := re.search(r'unknown field "spec[^"]*[.]template[.]spec[.]([^"]+)"', words)):
        # Our schema has Kubernetes' fields and no others, so the job has no typo: KubeRay's definition is of an older Kubernetes.
        told = f"KubeRay's definition of a RayJob doesn't know the pod's field {field[1]}; leave it out, or use one that does: {words}"
        return Refusal(reason=Reason.REJECTED, name=name, message=told, needs_person=True)
    if for_ray and ("unknown field" in words or "Unsupported value" in words):
        told = f"KubeRay's CRDs lack what we need; upgrade KubeRay to 1.6 or newer: {words}"
        return Refusal(reason=Reason.KUBERAY_TOO_OLD, name=name, message=told, needs_person=True)
    fields = ", ".join(fields_of_spec(words, pods))
    told = f"{fields}: {words}" if fields else words
    return Refusal(reason=Reason.REJECTED, name=name, message=told, needs_person=isinstance(error, Invalid))


def of_dry_run(resource: Resource, name: str, error: ApiError) -> Refusal | None:
    """What it means that the API server wouldn't take an object; None where that says nothing of the real one.

    A Job that is asked about has the workers' pods, which no Job will make: what is wrong with their fields counts, and nothing that is
    said of Jobs. That KubeRay is missing, or a webhook that may not be asked so, is told when the time has come.
    """
    if not is_refusal(error) or isinstance(error, NotFound) or "does not support dry run" in error.message:
        return None
    of_pods = isinstance(error, Invalid) and "denied request" not in error.message and fields_of_spec(error.message, "workers")
    if resource == kinds.JOBS and not of_pods:
        return None
    return replace(refusal(resource, name, error, pods="workers"), needs_person=True, planning=True)


def fields_of_spec(words: str, pods: str) -> tuple[str, ...]:
    """The fields of a FineTuneJob's spec that the API server's words are about, each once. `pods`: where a Job's pods are from.

    >>> fields_of_spec('Job.batch "x" is invalid: spec.template.spec.tolerations[0].operator: Invalid value', "workers")
    ('spec.workers.tolerations[0].operator',)
    """
    found = (_field(path, _IN_RAYJOB[group] if group else pods) for group, path in _POD_PATHS.findall(words))
    return tuple(dict.fromkeys(filter(None, found)))


def _field(path: str, part: str) -> str | None:
    """Of a pod template's path, `spec.containers[0].resources.limits`, the field of that part of the spec."""
    inside = re.sub(r"^(spec\.containers\[0\]|spec|metadata)\.", "", path)
    first = re.split(r"[.\[]", inside, maxsplit=1)[0]
    if first in _AS_WRITTEN:
        return f"spec.{part}.{inside}"
    name = _RENAMED.get(first, first)
    return f"spec.{part}.{name}" if name in _BY_NAME else None


def name_taken(resource: Resource, name: str) -> Refusal:
    """What it means that somebody else's object has a name that we need."""
    told = f"{resource.kind} {name} exists and isn't this job's; delete or rename it, or apply the job under another name"
    return Refusal(reason=Reason.NAME_TAKEN, name=f"{resource.kind} {name}", message=told, needs_person=True)


def of_former(resource: Resource, name: str) -> Refusal:
    """What it means that an object of a deleted job of the same name doesn't go."""
    told = f"{resource.kind} {name} of the job before is still being deleted; see its finalizers, and whether their controller runs"
    return Refusal(reason=Reason.REJECTED, name=f"{resource.kind} {name}", message=told, needs_person=False)
