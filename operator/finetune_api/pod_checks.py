"""What goes wrong with a job's pods only when they are made, and what in them is the operator's.

In: a job whose spec is well formed. Out: problems with field, value and remedy. The API server would refuse such a pod long after the
job was accepted; or it would run with a variable or a volume of the user's where ours has to be.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from finetune_api.errors import Problem
from finetune_api.finetunejob import FineTuneJob, PodSettings, Volume
from finetune_api.keys import API_VERSION, KIND
from finetune_api.quantity import number

# Mounted in the job's pods by the operator. A volume of the user may lie inside one, but the first, and never above or in place of any.
OUR_MOUNTS: Final = ("/etc/finetune", "/var/lib/finetune/model-cache", "/var/lib/finetune", "/tmp", "/dev/shm", "/dev")
# Begins the name of each volume of ours.
OUR_VOLUMES: Final = "finetune-"
# Begins the name of each variable of ours.
OUR_VARIABLES: Final = "FINETUNE_"
# Written by KubeRay 1.6 on the pods of a RayCluster. A user's value would switch token authentication off, lead a pod to another
# cluster, or make KubeRay refuse the RayJob.
KUBERAY_VARIABLES: Final = frozenset(
    {
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ENABLE_K8S_TOKEN_AUTH",
        "RAY_ADDRESS",
        "RAY_PORT",
        "RAY_IP",
        "FQ_RAY_IP",
        "RAY_CLUSTER_NAME",
        "RAY_CLUSTER_NAMESPACE",
        "RAY_CLOUD_INSTANCE_ID",
        "RAY_NODE_TYPE_NAME",
        "KUBERAY_GEN_RAY_START_CMD",
        "RAY_REDIS_ADDRESS",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "RAY_enable_autoscaler_v2",
        "RAY_external_storage_namespace",
    }
)
GPU_RESOURCE: Final = "nvidia.com/gpu"
# Kubernetes refuses more than 256 KiB of annotations, and the pod has others beside the job.
LARGEST_JOB_BYTES: Final = 224 * 1024
_AFFINITIES: Final = ("nodeAffinity", "podAffinity", "podAntiAffinity")

# A pod has settings of one of the two.
Pods = Literal["workers", "cpuPods"]


def pod_problems(job: FineTuneJob) -> Iterator[Problem]:
    """Everything about a job's pods that can't be made."""
    yield from _size_problems(job)
    pods: tuple[tuple[Pods, PodSettings], ...] = (("workers", job.spec.workers), ("cpuPods", job.spec.cpu_pods))
    for name, settings in pods:
        yield from _volume_problems(f"spec.{name}.volumes", settings.volumes)
        yield from _resource_problems(name, settings)
        yield from _variable_problems(f"spec.{name}.env", settings)
        yield from _affinity_problems(f"spec.{name}.affinity", settings.affinity)


def is_reserved(variable: str) -> bool:
    """Whether a user can't set this variable in any pod."""
    return variable.startswith(OUR_VARIABLES) or variable in KUBERAY_VARIABLES


def job_json(job: FineTuneJob) -> str:
    """The job as pods get it and `parse_job` reads it: canonical JSON without defaults, for their image may be older than this program.

    Labels and annotations of the job are nobody's business there.
    """
    value = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": job.metadata.name, "namespace": job.metadata.namespace},
        "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _size_problems(job: FineTuneJob) -> Iterator[Problem]:
    """The job travels in an annotation."""
    size = len(job_json(job).encode())
    if size > LARGEST_JOB_BYTES:
        yield Problem("spec", f"has {size} bytes, and pods can be given {LARGEST_JOB_BYTES}", "shorten lists and free-form fields")


def _volume_problems(field: str, volumes: Sequence[Volume]) -> Iterator[Problem]:
    for index, volume in enumerate(volumes):
        before, path = volumes[:index], PurePosixPath(volume.mount_path)
        if any(other.name == volume.name for other in before):
            yield Problem(f"{field}[{index}].name", f"{volume.name} is the name of another volume too", "give it another name")
        if volume.name.startswith(OUR_VOLUMES):
            yield Problem(f"{field}[{index}].name", f"{volume.name} begins with {OUR_VOLUMES}, as ours do", "give it another name")
        if any(PurePosixPath(other.mount_path) == path for other in before):
            yield Problem(f"{field}[{index}].mountPath", f"{path} is where another volume is mounted", "mount it elsewhere")
        ours = next((mount for mount in OUR_MOUNTS if PurePosixPath(mount).is_relative_to(path)), None)
        ours = OUR_MOUNTS[0] if path.is_relative_to(OUR_MOUNTS[0]) else ours
        if ours is not None:
            yield Problem(f"{field}[{index}].mountPath", f"{path} would hide {ours}, which the operator mounts", "mount it elsewhere")


def _resource_problems(pods: Pods, settings: PodSettings) -> Iterator[Problem]:
    requests, limits = settings.resources.requests, settings.resources.limits
    for kind, quantities in (("requests", requests), ("limits", limits)):
        if GPU_RESOURCE in quantities:
            remedy = "remove it; workers.gpusPerNode says how many" if pods == "workers" else "remove it; CPU pods hold no GPU"
            yield Problem(f"spec.{pods}.resources.{kind}", f"{GPU_RESOURCE} is set by the operator", remedy)
    for name, asked in requests.items():
        limit = limits.get(name)
        if limit is not None and number(asked) > number(limit):
            told = f"{name}: {asked} is more than the limit of {limit}"
            yield Problem(f"spec.{pods}.resources.requests", told, f"use at most {limit}, or raise the limit")
        if "/" in name and name != GPU_RESOURCE and (limit is None or number(asked) != number(limit)):
            told = f"{name}: {asked} needs the same limit, since devices are not shared"
            yield Problem(f"spec.{pods}.resources.requests", told, "set limits to the same, or remove it from requests")


def _variable_problems(field: str, settings: PodSettings) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, variable in enumerate(settings.env):
        if is_reserved(variable.name):
            yield Problem(f"{field}[{index}].name", f"{variable.name} is set by the operator or by KubeRay", "remove it")
        elif variable.name in seen:
            yield Problem(f"{field}[{index}].name", f"{variable.name} is there twice", "keep one")
        seen.add(variable.name)


def _affinity_problems(field: str, affinity: dict[str, Any] | None) -> Iterator[Problem]:
    """Only the form of what the operator adds to: the API server looks at the rest."""
    for name, value in (affinity or {}).items():
        if name not in _AFFINITIES:
            yield Problem(f"{field}.{name}", "there is no such field", f"its keys are {', '.join(_AFFINITIES)}")
        elif not isinstance(value, dict):
            yield Problem(f"{field}.{name}", "is not an object", "write it as in a pod")
        elif name != "nodeAffinity" and any(not isinstance(terms, list) for terms in value.values()):
            yield Problem(f"{field}.{name}", "has terms that are no list", "write it as in a pod")
