"""What jobs get where they say nothing: a platform's proxies, tolerations, queue and storage, said once in the chart or for a namespace.

In: text of YAML, and a job. Out: the job with what it leaves out filled in. What the job says wins: over its Kueue labels, those over
its namespace's defaults, those over the chart's; merged_pods.py says how.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from finetune_api.accelerators import accelerator
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import Checkpoints, Evaluation, FineTuneJob, NamedVolume, PodSettings, SecretName, Spec, Workers
from finetune_api.finetunejob.pod_placement import Labels
from finetune_api.finetunejob.pods import GpuResource
from finetune_api.finetunejob.types import Place, Word
from finetune_api.merged_pods import merged
from finetune_api.pod_checks import QUEUE_LABEL, Pods, settings_problems
from finetune_api.spec_problems import by_field, problem
from finetune_api.yaml_text import yaml_value

# Read by Kueue on what it queues; on a FineTuneJob both hold for all that the job makes.
PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"
# They are kept in the status of each job that takes them.
LARGEST_BYTES: Final = 16 * 1024
# What a platform says of workers for the nodes' sake, and holds for every pod with GPUs.
_OF_NODES_WITH_GPUS: Final = ("node_selector", "tolerations", "runtime_class_name")


class WorkerDefaults(PodSettings):
    """For the training workers."""

    gpu_resource: GpuResource | None = Field(default=None, description="What nodes call a GPU.")


class StorageDefaults(Spec):
    """For the storage of checkpoints."""

    storage: Place | None = Field(
        default=None, description="A prefix for all jobs: each gets NAMESPACE/NAME below it, and the settings beside it with it."
    )
    endpoint: str | None = Field(default=None, pattern=r"^https?://", max_length=1024, description="Where the storage answers.")
    region: Word | None = Field(default=None, description="S3 region.")
    credentials_secret: SecretName | None = Field(default=None, description="Secret of the job's namespace.")
    ca_bundle: NamedVolume | None = Field(default=None, description="ConfigMap of the job's namespace.")


class JobDefaults(Spec):
    """Defaults of jobs."""

    workers: WorkerDefaults = Field(default=WorkerDefaults(), description="The training workers.")
    cpu_pods: PodSettings = Field(default=PodSettings(), description="Head, preparation and publication pods.")
    checkpoints: StorageDefaults = Field(default=StorageDefaults(), description="Where the state is saved.")
    accelerators: Annotated[dict[str, Labels], Field(max_length=64)] = Field(
        default={}, description="Labels of the nodes that have a GPU model: what workers.accelerator becomes as a nodeSelector."
    )

    def to_json(self) -> dict[str, Any]:
        """What differs from nothing, in camelCase."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


NO_DEFAULTS: Final = JobDefaults()


def parse_defaults(text: str, where: str) -> JobDefaults:
    """The defaults in a YAML text. Raises InvalidSpec with every problem, `where` before each field."""
    if len(text.encode()) > LARGEST_BYTES:
        raise InvalidSpec([Problem(where, f"has {len(text.encode())} bytes", f"use at most {LARGEST_BYTES}")])
    data = yaml_value(text, where) if text.strip() else {}
    if not isinstance(data, dict):
        raise InvalidSpec([Problem(where, "holds no mapping", "its keys are workers, cpuPods, checkpoints, accelerators")])
    try:
        found = JobDefaults.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        errors = [one for each in error.errors(include_url=False) for one in by_field(each)]
        raise InvalidSpec([_of(where, problem(one, JobDefaults)) for one in errors]) from None
    kinds: tuple[tuple[Pods, PodSettings], ...] = (("workers", found.workers), ("cpuPods", found.cpu_pods))
    if problems := [_of(where, one) for name, settings in kinds for one in settings_problems(name, name, settings)]:
        raise InvalidSpec(problems)
    return found


def _of(where: str, one: Problem) -> Problem:
    return Problem(f"{where}: {one.field}", one.message, one.remedy)


def over(first: JobDefaults, other: JobDefaults) -> JobDefaults:
    """Both, where they differ the first."""
    storage = first.checkpoints if first.checkpoints.storage is not None else _filled(first.checkpoints, other.checkpoints)
    return JobDefaults(
        workers=merged(first.workers, other.workers),
        cpu_pods=merged(first.cpu_pods, other.cpu_pods),
        checkpoints=storage,
        accelerators={**other.accelerators, **first.accelerators},
    )


def with_defaults(job: FineTuneJob, defaults: JobDefaults) -> FineTuneJob:
    """The job with what it leaves out: by its Kueue labels first, then from the defaults."""
    spec = job.spec
    workers, cpu_pods = (merged(settings, _of_labels(job.metadata.labels)) for settings in (spec.workers, spec.cpu_pods))
    workers = merged(workers, defaults.workers)
    nodes = _nodes_with(spec.workers, defaults.accelerators)
    workers = workers.model_copy(update={"node_selector": {**nodes, **workers.node_selector}})
    spec = spec.model_copy(
        update={
            "workers": workers,
            "cpu_pods": merged(cpu_pods, defaults.cpu_pods),
            "checkpoints": _stored(job, spec.checkpoints, defaults.checkpoints),
            "evaluation": _on_nodes_with_gpus(spec.evaluation, nodes, defaults.workers),
        }
    )
    return job.model_copy(update={"spec": spec})


def _on_nodes_with_gpus(evaluation: Evaluation, nodes: Labels, workers: WorkerDefaults) -> Evaluation:
    """An evaluation that has GPUs runs where the workers' are: by the labels of such nodes, and past their taints."""
    pod = evaluation.pod
    if pod is None or pod.gpus == 0:
        return evaluation
    told = {name: getattr(workers, name) for name in _OF_NODES_WITH_GPUS if name in workers.model_fields_set}
    placed = merged(pod, PodSettings.model_construct(**told))
    placed = placed.model_copy(update={"node_selector": {**nodes, **placed.node_selector}})
    return evaluation.model_copy(update={"pod": placed})


def _of_labels(labels: Mapping[str, str]) -> PodSettings:
    """What a FineTuneJob's labels say of everything that it makes."""
    told: dict[str, Any] = {}
    if QUEUE_LABEL in labels:
        told["queue_name"] = labels[QUEUE_LABEL]
    if PRIORITY_LABEL in labels:
        told["labels"] = {PRIORITY_LABEL: labels[PRIORITY_LABEL]}
    return PodSettings.model_construct(**told)


def _nodes_with(workers: Workers, accelerators: Mapping[str, Labels]) -> Labels:
    """Labels of nodes that have the workers' GPU model, however it is spelt."""

    def plain(name: str) -> str:
        known = accelerator(name)
        return known.name if known else name

    wanted = plain(workers.accelerator) if workers.accelerator and workers.device != "cpu" and workers.gpus_per_node else None
    return next((labels for name, labels in accelerators.items() if plain(name) == wanted), {})


def _stored(job: FineTuneJob, own: Checkpoints, defaults: StorageDefaults) -> Checkpoints:
    """The job's storage; a server's settings go with the storage that they are for."""
    if own.storage is not None or defaults.storage is None:
        return own
    storage = f"{defaults.storage.rstrip('/')}/{job.metadata.namespace or 'default'}/{job.metadata.name}"
    return _filled(own, defaults).model_copy(update={"storage": storage})


Object = TypeVar("Object", bound=BaseModel)


def _filled(own: Object, other: BaseModel) -> Object:
    """The object with the other's fields where it has none."""
    absent = {name: getattr(other, name) for name in type(other).model_fields if getattr(own, name) is None}
    return own.model_copy(update=absent)
