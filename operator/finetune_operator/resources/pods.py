"""What all pod templates share: the container's frame under the `restricted` Pod Security Standard, environment, scheduling.

In: `PodParts`, what a kind of pod has of its own. Out: a pod template. Of a spec only the fields of PodSettings reach a pod, each
in its own place; none becomes part of a command. Names and images are chosen here once for all pods of a job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from finetune_api.finetunejob import EnvVar, FineTuneJob, PodSettings, Resources
from finetune_api.pod_checks import is_reserved
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.resources.volumes import Mounted
from finetune_operator.settings import Settings

USER_ID: Final = 1000
# Ray and torch ask who runs them; a user that a platform assigns has no name in the image. getpass looks here first.
USER_NAME: Final = {"USER": "finetune", "LOGNAME": "finetune"}

# A CPU pod that asks for nothing would be the first to be evicted, and the last to get a processor.
CPU_POD_REQUESTS: Final = {"cpu": "500m", "memory": "2Gi"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodParts:
    """What one kind of pod has of its own."""

    stage: str
    container: str
    image: str
    # None where KubeRay makes the command.
    command: tuple[str, ...] | None
    # The user's part.
    settings: PodSettings
    # Ours wins over the user's, the user's over defaults.
    environment: Mapping[str, str]
    defaults: Mapping[str, str]
    resources: Manifest
    volumes: tuple[Mounted, ...]
    service_account: str | None
    annotations: Mapping[str, str]
    affinity: Manifest | None
    # Beside the operator's.
    pull_secrets: tuple[str, ...]
    # Seconds between SIGTERM and SIGKILL; None is Kubernetes' 30.
    grace_seconds: int | None = None
    # Whether the pod asks for a checkpoint before it is stopped.
    checkpoint_before_stop: bool = False
    # A seccomp profile of the node's; None is the container runtime's own.
    seccomp_profile: str | None = None


def pod_template(parts: PodParts, owner: Owner, settings: Settings) -> Manifest:
    """The template of a pod with one container that runs once."""
    spec: Manifest = {
        "restartPolicy": "Never",
        # A token only where one is mounted on purpose; the service account is for a cloud's identity (IRSA) as well.
        "automountServiceAccountToken": False,
        # A Service called `ray` would otherwise put RAY_PORT into the environment.
        "enableServiceLinks": False,
        "securityContext": pod_security(settings, parts.seccomp_profile),
        "containers": [_container(parts, settings)],
        "volumes": [volume.volume() for volume in parts.volumes],
        **scheduling(parts.settings, parts.affinity),
        **pull_secrets(settings, *parts.pull_secrets),
    }
    if parts.service_account is not None:
        spec["serviceAccountName"] = parts.service_account
    if parts.grace_seconds is not None:
        spec["terminationGracePeriodSeconds"] = parts.grace_seconds
    return {"metadata": metadata(parts.settings, owner.labels(parts.stage), parts.annotations), "spec": spec}


def metadata(user: PodSettings, ours: Mapping[str, str], annotations: Mapping[str, str]) -> Manifest:
    """A pod's labels and annotations: ours win over the user's."""
    told = user.annotations | dict(annotations)
    return {"labels": labels(user, ours)} | ({"annotations": told} if told else {})


def labels(user: PodSettings, ours: Mapping[str, str]) -> dict[str, str]:
    """Labels of a pod, or of what makes it: ours win over the user's."""
    return user.labels | dict(ours)


def _container(parts: PodParts, settings: Settings) -> Manifest:
    container: Manifest = {
        "name": parts.container,
        "image": parts.image,
        **pull_policy(settings),
        **({"command": list(parts.command)} if parts.command is not None else {}),
        "env": environment(parts.defaults, parts.settings, parts.environment),
        **environment_objects(parts.settings),
        "resources": parts.resources,
        "securityContext": container_security(),
        "volumeMounts": [volume.mount() for volume in parts.volumes],
        # Not the log's end: it may hold anything, and a status must not.
        "terminationMessagePolicy": "File",
    }
    if parts.checkpoint_before_stop:
        container["lifecycle"] = {"preStop": {"exec": {"command": list(keys.BEFORE_STOP_COMMAND)}}}
    return container


# ---- security


def pod_security(settings: Settings, seccomp_profile: str | None = None) -> Manifest:
    """A pod's part of the `restricted` standard. Changing the group of a large volume's files once is enough."""
    seccomp = {"type": "Localhost", "localhostProfile": seccomp_profile} if seccomp_profile else {"type": "RuntimeDefault"}
    ids = {} if settings.assigned_ids else {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID}
    return {"runAsNonRoot": True, **ids, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": seccomp}


def container_security() -> Manifest:
    """A container's part of the `restricted` standard; these two can't be said for the whole pod."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


# ---- images


def worker_image(job: FineTuneJob, settings: Settings) -> str:
    """The workers' image."""
    return settings.image(job.spec.workers.image or settings.trainer_image)


def cpu_pod_image(job: FineTuneJob, settings: Settings) -> str:
    """The image of head, preparation and publication: the workers', unless said otherwise, for Ray must be the same everywhere."""
    return image_of(job.spec.cpu_pods, job, settings)


def image_of(pod: PodSettings, job: FineTuneJob, settings: Settings) -> str:
    """The image of a pod: the workers', unless it has one of its own."""
    return settings.image(pod.image) if pod.image else worker_image(job, settings)


def pull_policy(settings: Settings) -> Manifest:
    """The container's pull policy; absent is Kubernetes' default."""
    return {"imagePullPolicy": settings.image_pull_policy} if settings.image_pull_policy else {}


def pull_secrets(settings: Settings, *users: str) -> Manifest:
    """The pod's image pull Secrets: the operator's and the user's."""
    names = dict.fromkeys((*settings.image_pull_secrets, *users))
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def workers_pull(job: FineTuneJob) -> tuple[str, ...]:
    """Pull Secrets that the job has for its workers."""
    return tuple(secret.name for secret in job.spec.workers.image_pull_secrets)


def cpu_pods_pull(job: FineTuneJob) -> tuple[str, ...]:
    """The same for CPU pods."""
    return pull_of(job.spec.cpu_pods, job)


def pull_of(pod: PodSettings, job: FineTuneJob) -> tuple[str, ...]:
    """The same for a pod that runs the workers' image unless it has one of its own."""
    own = tuple(secret.name for secret in pod.image_pull_secrets)
    return own if pod.image else (*own, *workers_pull(job))


# ---- service accounts


def cpu_pod_service_account(job: FineTuneJob) -> str | None:
    """Whose identity preparation and publication have; None is the namespace's default."""
    return account_of(job.spec.cpu_pods, job)


def account_of(pod: PodSettings, job: FineTuneJob) -> str | None:
    """Whose identity a pod has: the workers', unless it has one of its own; None is the namespace's default."""
    return pod.service_account_name or job.spec.workers.service_account_name


def head_service_account(job: FineTuneJob, owner: Owner) -> str:
    """Whose identity the head has, and so who may write the report."""
    return cpu_pod_service_account(job) or keys.access_name(owner.name)


# ---- environment


def common_environment(owner: Owner) -> dict[str, str]:
    """What every pod of ours is told."""
    return {
        keys.JOB_ENV: owner.name,
        keys.NAMESPACE_ENV: owner.namespace,
        keys.SECRETS_ENV: keys.SECRETS_FOLDER,
        keys.SCRATCH_ENV: keys.SCRATCH_FOLDER,
        # Caches of libraries go where there is room.
        "HOME": keys.SCRATCH_FOLDER,
        **USER_NAME,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def environment(defaults: Mapping[str, str], user: PodSettings, ours: Mapping[str, str]) -> list[Manifest]:
    """The container's variables: ours win over the user's, and the user's over defaults."""
    wanted = {variable.name: _variable(variable) for variable in user.env if not is_reserved(variable.name)}
    merged = _values(defaults) | wanted | _values(ours)
    return list(merged.values())


def environment_objects(user: PodSettings) -> Manifest:
    """The container's Secrets and ConfigMaps whose keys are variables."""
    return {"envFrom": [as_written(source) for source in user.env_from]} if user.env_from else {}


def _variable(variable: EnvVar) -> Manifest:
    if variable.value_from is None:
        return {"name": variable.name, "value": variable.value}
    return {"name": variable.name, "valueFrom": as_written(variable.value_from)}


def _values(variables: Mapping[str, str]) -> dict[str, Manifest]:
    return {name: {"name": name, "value": value} for name, value in variables.items()}


# ---- resources


def resources(user: Resources, defaults: Mapping[str, str] | None = None) -> Manifest:
    """The container's resources: what the user asks for, and defaults for requests where nothing is asked for."""
    # A limit without a request is the request, too.
    requests = {name: quantity for name, quantity in (defaults or {}).items() if name not in user.limits} | user.requests
    given = {"requests": dict(sorted(requests.items())), "limits": dict(sorted(user.limits.items()))}
    return {name: quantities for name, quantities in given.items() if quantities}


def with_gpus(user: Resources, name: str, count: int) -> Resources:
    """The resources with so many GPUs: asked for and limited alike, as Kubernetes wants of devices."""
    gpus = {name: str(count)} if count else {}
    return user.model_copy(update={"requests": user.requests | gpus, "limits": user.limits | gpus})


# ---- scheduling


def as_written(value: BaseModel) -> Manifest:
    """An object of the spec that is an object of Kubernetes too, without what is its default in both."""
    return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def affinity(user: PodSettings) -> Manifest | None:
    """The user's affinity."""
    return as_written(user.affinity) if user.affinity else None


def beside_workers(job: FineTuneJob) -> PodSettings:
    """The settings of CPU pods without which the workers can't go on: who preempts one of them would end the workers' run."""
    cpu_pods = job.spec.cpu_pods
    return cpu_pods.model_copy(update={"priority_class_name": cpu_pods.priority_class_name or job.spec.workers.priority_class_name})


def scheduling(user: PodSettings, affinity: Manifest | None) -> Manifest:
    """Where the pod may run: the user's fields as they are, apart from `affinity`, to which we may have added."""
    given: dict[str, Any] = {
        "nodeSelector": user.node_selector,
        "affinity": affinity,
        "tolerations": [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in user.tolerations],
        "schedulerName": user.scheduler_name,
        "runtimeClassName": user.runtime_class_name,
        "priorityClassName": user.priority_class_name,
    }
    return {name: value for name, value in given.items() if value}
