"""`spec.workers` and `spec.cpuPods`: what a job's pods are given."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.finetunejob.pod_env import EnvFrom, EnvVar
from finetune_api.finetunejob.pod_placement import Affinity, Labels, Toleration, TopologySpreadConstraint
from finetune_api.finetunejob.pod_volumes import LocalObject, Volume
from finetune_api.finetunejob.types import DnsLabel, Image, Natural, ObjectName, Positive, Quantity, Spec, Word

Quantities = Annotated[dict[str, Quantity], Field(max_length=32)]
Annotations = Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)]
GpuResource = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=317)]
# What a GPU is called among a node's resources when the job doesn't say.
GPU_RESOURCE: Final = "nvidia.com/gpu"


class Resources(Spec):
    """Kubernetes resources of a container."""

    requests: Quantities = Field(default={}, description='Quantities asked for, for example `cpu: "8"`, `memory: 64Gi`.')
    limits: Quantities = Field(default={}, description="Quantities never passed.")


class PodSettings(Spec):
    """The pod fields that a user may set. Anything else of a pod is ours; init containers and sidecars are not offered."""

    image: Image | None = Field(default=None, description="Image; absent uses the operator's trainer image.")
    image_pull_secrets: Annotated[list[LocalObject], Field(max_length=16)] = Field(
        default=[], description="Secrets of the image's registry, beside the operator's."
    )
    labels: Labels = Field(default={}, description="Labels of the pods and of what makes them, for example for cost reports.")
    annotations: Annotations = Field(default={}, description="Annotations of the pods, for example `karpenter.sh/do-not-disrupt`.")
    resources: Resources = Field(default=Resources(), description="Resources of the main container.")
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(default=[], description="Environment variables; ours win.")
    env_from: Annotated[list[EnvFrom], Field(max_length=16)] = Field(
        default=[], description="Secrets and ConfigMaps whose keys are environment variables; `env` and ours win."
    )
    node_selector: Labels = Field(default={}, description="Labels that nodes must have.")
    affinity: Affinity | None = Field(default=None, description="A Kubernetes affinity.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default=[], description="Taints that are tolerated.")
    scheduler_name: ObjectName | None = Field(default=None, description="Scheduler of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    service_account_name: ObjectName | None = Field(default=None, description="ServiceAccount of the pods, for example for IRSA.")
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default=[], description="Volumes mounted in the pods.")
    queue_name: DnsLabel | None = Field(
        default=None,
        description="Kueue LocalQueue: of the workers that of the RayJob, of cpuPods that of preparation, evaluation and publication.",
    )


class Workers(PodSettings):
    """The training workers."""

    nodes: Positive = Field(default=1, description="Worker pods, one a node.")
    min_nodes: Positive | None = Field(
        default=None,
        description="Fewest worker pods that the job may go on with where not all of nodes are to be had within startDeadlineSeconds; the "
        "steps are the same. From time to time it tries all of them again, after a checkpoint. Absent: nodes is exact.",
    )
    gpus_per_node: Natural = Field(default=8, description="GPUs of each worker pod; one Ray Train worker each.")
    gpu_resource: GpuResource | None = Field(
        default=None,
        description="What nodes call a GPU: absent is nvidia.com/gpu; for example nvidia.com/mig-1g.10gb or amd.com/gpu.",
    )
    workers_per_node: Positive | None = Field(
        default=None, description="Ray Train workers per node, for `device: cpu`; absent is gpusPerNode."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="`auto` is gpu when gpusPerNode is above 0, else cpu.")
    accelerator: Word | None = Field(
        default=None,
        description="GPU model, for example nvidia-a100-80gb: for planning, and for the nodes' labels where the operator knows them.",
    )
    peak_teraflops: Annotated[float, Field(gt=0.0, le=1e6)] | None = Field(
        default=None,
        description="Dense peak of one Ray Train worker in the run's arithmetic, in 10^12 operations a second, which time and MFU are "
        "counted from; absent is the accelerator's in bf16. For a GPU that we don't know, a slice of one, or CPUs.",
    )
    topology_spread_constraints: Annotated[list[TopologySpreadConstraint], Field(max_length=16)] = Field(
        default=[], description="How evenly the workers are spread over zones or racks."
    )
    start_deadline_seconds: Positive = Field(
        default=1800,
        description="All pods must run within this time, or the attempt gives its GPUs back. It covers new nodes and the image.",
    )
    collective_timeout_seconds: Positive = Field(
        default=600,
        description="How long a worker waits for the others in a collective operation (NCCL on GPUs, gloo on CPUs); then the attempt ends.",
    )

    @model_validator(mode="after")
    def _the_fewest_are_no_more_than_all(self) -> Self:
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise FieldErrors([("minNodes", f"{self.min_nodes} is more than nodes ({self.nodes})", "lower it, or raise nodes")])
        return self

    @property
    def is_elastic(self) -> bool:
        """Whether the job may go on with fewer nodes."""
        return self.min_nodes is not None and self.min_nodes < self.nodes

    @property
    def world_size(self) -> int:
        """Ray Train workers in all."""
        return self.nodes * (self.workers_per_node or self.gpus_per_node)

    @property
    def gpu(self) -> str:
        """What nodes call a GPU."""
        return self.gpu_resource or GPU_RESOURCE
