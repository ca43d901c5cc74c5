"""What goes wrong with a job's pods only when they are made, and what in them is the operator's.

In: a job whose spec is well formed. Out: problems with field, value and remedy. The API server would refuse such a pod long after the
job was accepted; or it would run with a variable or a volume of the user's where ours has to be.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from finetune_api.errors import Problem
from finetune_api.finetunejob import GPU_RESOURCE, FineTuneJob, PodSettings, Volume, Workers
from finetune_api.finetunejob.pod_env import is_exposed
from finetune_api.former_words import in_words_of
from finetune_api.keys import API_VERSION, KIND
from finetune_api.merged_pods import Settings, evaluation_pod
from finetune_api.quantity import number
from finetune_api.training_run import CONTRACT_VERSION

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
# Labels and annotations that others write on our pods and go by: the operator, KubeRay, the Job controller, Kueue.
_OTHERS_KEYS: Final = ("finetune.dev/", "ray.io/", "batch.kubernetes.io/", "app.kubernetes.io/managed-by", "app.kubernetes.io/created-by")
_JOB_CONTROLLER_KEYS: Final = ("job-name", "controller-uid")
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# Kubernetes refuses more than 256 KiB of annotations, and the pod has others beside the job and the user's.
LARGEST_JOB_BYTES: Final = 224 * 1024
# Of a job's pods, what only the making of them reads: neither the frozen run nor the job inside a pod has it. Variables may hold what
# nobody should read who may see ConfigMaps and pods.
_OF_PODS_ALONE: Final = ("env", "env_from", "image_pull_secrets", "labels", "annotations")

# A pod has settings of one of these, which are below spec.
Pods = Literal["workers", "cpuPods", "evaluation.pod"]
# What says how many GPUs a pod gets.
_GPUS_BY: Final[dict[Pods, str]] = {
    "workers": "workers.gpusPerNode says how many, workers.gpuResource of what",
    "cpuPods": "CPU pods hold no GPU",
    "evaluation.pod": "evaluation.pod.gpus says how many, workers.gpuResource of what",
}


def pod_problems(job: FineTuneJob) -> Iterator[Problem]:
    """Everything about a job's pods that can't be made."""
    yield from _size_problems(job)
    pods: list[tuple[Pods, PodSettings]] = [("workers", job.spec.workers), ("cpuPods", job.spec.cpu_pods)]
    if job.spec.evaluation.pod is not None:
        pods.append(("evaluation.pod", job.spec.evaluation.pod))
    for name, settings in pods:
        yield from settings_problems(name, f"spec.{name}", settings)


def settings_problems(pods: Pods, field: str, settings: PodSettings) -> Iterator[Problem]:
    """Everything about the settings of one kind of pod that can't be made; they are at `field`."""
    yield from _volume_problems(f"{field}.volumes", settings.volumes)
    yield from _resource_problems(pods, f"{field}.resources", settings)
    yield from _variable_problems(f"{field}.env", settings)
    yield from _key_problems(f"{field}.labels", settings.labels)
    yield from _key_problems(f"{field}.annotations", settings.annotations)


def is_reserved(variable: str) -> bool:
    """Whether a user can't set this variable in any pod."""
    return variable.startswith(OUR_VARIABLES) or variable in KUBERAY_VARIABLES


def inside_pods(job: FineTuneJob) -> FineTuneJob:
    """The job as the frozen run and programs in pods have it: without what only the making of pods reads."""
    spec = job.spec
    changes: dict[str, Any] = {"workers": _inside(spec.workers), "cpu_pods": _inside(spec.cpu_pods)}
    if spec.evaluation.pod is not None:
        changes["evaluation"] = spec.evaluation.model_copy(update={"pod": _inside(spec.evaluation.pod)})
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _inside(settings: Settings) -> Settings:
    return settings.model_copy(update={name: type(settings).model_fields[name].default for name in _OF_PODS_ALONE})


def job_json(job: FineTuneJob, contract: int = CONTRACT_VERSION) -> str:
    """The job as pods get it and `parse_job` reads it: canonical JSON without defaults, for their image may be older than this program.

    Labels and annotations of the job are nobody's business there. `contract`: of the run that the image executes.
    """
    value = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": job.metadata.name, "namespace": job.metadata.namespace},
        "spec": inside_pods(job).spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    return json.dumps(in_words_of(contract, value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _size_problems(job: FineTuneJob) -> Iterator[Problem]:
    """The job travels in an annotation, beside those of the user."""
    pods = evaluation_pod(job.spec) if job.spec.evaluation.has_stage else job.spec.cpu_pods
    size = len(job_json(job).encode()) + sum(len(f"{key}{value}".encode()) for key, value in pods.annotations.items())
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


def _resource_problems(pods: Pods, field: str, settings: PodSettings) -> Iterator[Problem]:
    requests, limits = settings.resources.requests, settings.resources.limits
    gpus = {GPU_RESOURCE, settings.gpu} if isinstance(settings, Workers) else {GPU_RESOURCE}
    for kind, quantities in (("requests", requests), ("limits", limits)):
        for gpu in sorted(gpus & quantities.keys()):
            yield Problem(f"{field}.{kind}", f"{gpu} is set by the operator", f"remove it; {_GPUS_BY[pods]}")
    for name, asked in requests.items():
        limit = limits.get(name)
        if limit is not None and number(asked) > number(limit):
            told = f"{name}: {asked} is more than the limit of {limit}"
            yield Problem(f"{field}.requests", told, f"use at most {limit}, or raise the limit")
        if "/" in name and name not in gpus and (limit is None or number(asked) != number(limit)):
            told = f"{name}: {asked} needs the same limit, since devices are not shared"
            yield Problem(f"{field}.requests", told, "set limits to the same, or remove it from requests")


def _variable_problems(field: str, settings: PodSettings) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, variable in enumerate(settings.env):
        if is_reserved(variable.name):
            yield Problem(f"{field}[{index}].name", f"{variable.name} is set by the operator or by KubeRay", "remove it")
        elif variable.name in seen:
            yield Problem(f"{field}[{index}].name", f"{variable.name} is there twice", "keep one")
        if is_exposed(variable):
            told = f"{variable.name} by its name is a secret, and everybody who may see the job could read it"
            remedy = "put it into a Secret, and name that in valueFrom.secretKeyRef, or in envFrom"
            yield Problem(f"{field}[{index}].value", told, remedy)
        seen.add(variable.name)


def _key_problems(field: str, keys: Iterable[str]) -> Iterator[Problem]:
    """Keys of labels and annotations."""
    for key in keys:
        if key == QUEUE_LABEL:
            yield Problem(field, f"{key} is set by the operator", f"remove it; {field.rpartition('.')[0]}.queueName names the queue")
        elif key in _JOB_CONTROLLER_KEYS or key.startswith(_OTHERS_KEYS):
            yield Problem(field, f"{key} is set by the operator, by KubeRay or by Kubernetes", "remove it, or use another key")
        elif not _KEY.fullmatch(key):
            told = f"{key} is no key of a label or annotation"
            yield Problem(field, told, "give it as name or as domain.example/name, of letters, digits, `-`, `_` and `.`")
