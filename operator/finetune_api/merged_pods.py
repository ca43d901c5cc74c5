"""Settings of pods laid over others: a platform's defaults below a job's, a job's CPU pods below its evaluation's pod.

In: settings, and others that fill in what they leave out. Out: the settings of both. Objects are merged by key, `env` and `volumes` by
name, tolerations and pull Secrets added up; an affinity is one value.
"""

from typing import Any, TypeVar

from finetune_api.finetunejob import EvaluationPod, FineTuneJobSpec, PodSettings, Resources

Settings = TypeVar("Settings", bound=PodSettings)


def evaluation_pod(spec: FineTuneJobSpec) -> EvaluationPod:
    """The evaluation's pod, with what it leaves out as `cpuPods` has it."""
    return merged(spec.evaluation.pod or EvaluationPod(), spec.cpu_pods)


def merged(own: Settings, other: PodSettings) -> Settings:
    """The settings with the other's where they have none."""
    names = type(own).model_fields.keys() & other.model_fields_set
    return own.model_copy(update={name: _one(name, getattr(own, name), getattr(other, name)) for name in names}) if names else own


def _one(name: str, own: Any, other: Any) -> Any:
    if name == "env":
        return [*own, *(variable for variable in other if variable.name not in {one.name for one in own})]
    if name == "volumes":
        taken = {one.name for one in own} | {one.mount_path for one in own}
        return [*own, *(volume for volume in other if not {volume.name, volume.mount_path} & taken)]
    if name == "env_from":  # of two that have a key, Kubernetes takes the later one
        return [*(source for source in other if source not in own), *own]
    if isinstance(own, Resources):
        given = own.requests.keys() | own.limits.keys()
        rest = {kind: {key: value for key, value in getattr(other, kind).items() if key not in given} for kind in ("requests", "limits")}
        return Resources(requests=own.requests | rest["requests"], limits=own.limits | rest["limits"])
    if isinstance(own, list):
        return [*own, *(one for one in other if one not in own)]
    if isinstance(own, dict):
        return {**other, **own}
    return other if own is None else own
