"""What it means to a person when the API server doesn't let us make or delete an object: reason, words and remedy. Pure."""

from finetune_api.reasons import Reason
from finetune_operator import kinds
from finetune_operator.observation import Refusal
from finetune_operator.runtime.api import ApiError, Forbidden, Invalid, NotFound, Resource


def refusal(resource: Resource, name: str, error: ApiError) -> Refusal:
    """What a refused creation or deletion means to a person."""
    name = f"{resource.kind} {name}"
    words, for_ray = error.message, resource == kinds.RAYJOBS
    if isinstance(error, NotFound):
        reason = Reason.KUBERAY_ABSENT if for_ray else Reason.FORBIDDEN
        return Refusal(reason=reason, name=name, message=f"its kind or namespace isn't there: {words}", needs_person=True)
    if isinstance(error, Forbidden) and any(verb in words for verb in ("cannot create", "cannot patch", "cannot delete")):
        reason = Reason.KUBERAY_FORBIDDEN if for_ray else Reason.FORBIDDEN
        return Refusal(reason=reason, name=name, message=f"give the operator's role the right: {words}", needs_person=True)
    if for_ray and ("unknown field" in words or "Unsupported value" in words):
        told = f"KubeRay's CRDs lack what we need; upgrade KubeRay to 1.6 or newer: {words}"
        return Refusal(reason=Reason.KUBERAY_TOO_OLD, name=name, message=told, needs_person=True)
    return Refusal(reason=Reason.REJECTED, name=name, message=words, needs_person=isinstance(error, Invalid))


def taken(resource: Resource, name: str) -> Refusal:
    """What it means that somebody else's object has a name that we need."""
    told = f"{resource.kind} {name} exists and isn't this job's; delete or rename it, or apply the job under another name"
    return Refusal(reason=Reason.NAME_TAKEN, name=f"{resource.kind} {name}", message=told, needs_person=True)


def of_former(resource: Resource, name: str) -> Refusal:
    """What it means that an object of a deleted job of the same name doesn't go."""
    told = f"{resource.kind} {name} of the job before is still being deleted; see its finalizers, and whether their controller runs"
    return Refusal(reason=Reason.REJECTED, name=f"{resource.kind} {name}", message=told, needs_person=False)
