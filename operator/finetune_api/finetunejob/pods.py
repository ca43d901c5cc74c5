"""`spec.workers` and `spec.cpuPods`: what a job's pods are given."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.finetunejob.types import (
    DnsLabel,
    Image,
    LabelValue,
    Natural,
    ObjectName,
    Positive,
    Prose,
    Quantity,
    Spec,
    Word,
    at_most_one,
)

Quantities = Annotated[dict[str, Quantity], Field(max_length=32)]


class Resources(Spec):
    """Kubernetes resources of a container."""

    requests: Quantities = Field(default={}, description='Quantities asked for, for example `cpu: "8"`, `memory: 64Gi`.')
    limits: Quantities = Field(default={}, description="Quantities never passed.")


class EnvVar(Spec):
    """An environment variable of a container. Ours win over it. For secret values use the Secret fields."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256, description="Name of the variable.")
    value: Prose = Field(default="", description="Value of the variable.")


class Toleration(Spec):
    """A Kubernetes toleration."""

    key: Word | None = Field(default=None, description="Taint key; absent with `operator: Exists` tolerates all.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: LabelValue | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; absent matches all."
    )
    toleration_seconds: Natural | None = Field(default=None, description="How long a NoExecute taint is tolerated.")

    @model_validator(mode="after")
    def _one_meaning(self) -> "Toleration":
        if self.operator == "Exists" and self.value:
            raise ValueError("operator: Exists takes no value; remove value, or use operator: Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator: Equal needs a key; give key, or use operator: Exists for every taint")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect: NoExecute; set it, or remove tolerationSeconds")
        return self


class EmptyDir(Spec):
    """Node-local scratch space."""

    medium: Literal["", "Memory"] = Field(default="", description="`Memory` is a tmpfs.")
    size_limit: Quantity | None = Field(default=None, description="Largest size, a quantity.")


class ClaimVolume(Spec):
    """An existing PersistentVolumeClaim."""

    claim_name: ObjectName = Field(description="Name of the claim.")


class EphemeralVolume(Spec):
    """A claim made for the pod and deleted with it."""

    storage_class_name: ObjectName | None = Field(default=None, description="Storage class; absent is the cluster's default.")
    size: Quantity = Field(description="Size, a quantity.")


class NamedVolume(Spec):
    """A ConfigMap or Secret as files."""

    name: ObjectName = Field(description="Name of the object.")


class Volume(Spec):
    """A volume and where it is mounted. Exactly one kind of source; hostPath is not offered."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: str = Field(pattern=r"^/[^:]*$", max_length=1024, description="Absolute path inside the containers.")
    read_only: bool = Field(default=False, description="Mount read-only.")
    persistent_volume_claim: ClaimVolume | None = Field(default=None, description="An existing claim.")
    ephemeral: EphemeralVolume | None = Field(default=None, description="A claim of the pod's own.")
    empty_dir: EmptyDir | None = Field(default=None, description="Scratch space.")
    config_map: NamedVolume | None = Field(default=None, description="Files from a ConfigMap.")
    secret: NamedVolume | None = Field(default=None, description="Files from a Secret.")

    @model_validator(mode="after")
    def _one_source(self) -> "Volume":
        kinds = ("persistent_volume_claim", "ephemeral", "empty_dir", "config_map", "secret")
        at_most_one(self, *kinds)
        if all(getattr(self, kind) is None for kind in kinds):
            raise ValueError(f"a volume needs one of {', '.join(map(to_camel, kinds))}; give one")
        return self


FreeObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class PodSettings(Spec):
    """The pod fields that a user may set. Anything else of a pod is ours."""

    image: Image | None = Field(default=None, description="Image; absent uses the operator's trainer image.")
    resources: Resources = Field(default=Resources(), description="Resources of the main container.")
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(default=[], description="Environment variables; ours win.")
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(default={}, description="Labels that nodes must have.")
    affinity: FreeObject | None = Field(default=None, description="A Kubernetes affinity.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default=[], description="Taints that are tolerated.")
    scheduler_name: ObjectName | None = Field(default=None, description="Scheduler of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    service_account_name: ObjectName | None = Field(default=None, description="ServiceAccount of the pods, for example for IRSA.")
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default=[], description="Volumes mounted in the pods.")
    queue_name: DnsLabel | None = Field(
        default=None, description="Kueue LocalQueue: of the workers that of the RayJob, of cpuPods that of preparation and publication."
    )


class Workers(PodSettings):
    """The training workers."""

    nodes: Positive = Field(default=1, description="Worker pods, one a node.")
    gpus_per_node: Natural = Field(default=8, description="GPUs of each worker pod; one Ray Train worker each.")
    workers_per_node: Positive | None = Field(
        default=None, description="Ray Train workers per node, for `device: cpu`; absent is gpusPerNode."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="`auto` is gpu when gpusPerNode is above 0, else cpu.")
    accelerator: Word | None = Field(default=None, description="GPU model for planning, for example nvidia-a100-80gb.")
    topology_spread_constraints: Annotated[list[FreeObject], Field(max_length=16)] = Field(
        default=[], description="Kubernetes topologySpreadConstraints."
    )
    start_deadline_seconds: Positive = Field(
        default=600, description="All pods must run within this time, or the attempt gives its GPUs back."
    )

    @property
    def world_size(self) -> int:
        """Ray Train workers in all."""
        return self.nodes * (self.workers_per_node or self.gpus_per_node)
