"""`volumes` of a job's pods: of the kinds that the `restricted` Pod Security Standard lets a pod mount, and no hostPath."""

import re
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.finetunejob.types import DnsLabel, ObjectName, Prose, Quantity, Spec, Word, at_most_one

# `..` as a part of a path, in the words of Python's and Go's regular expressions alike.
UPWARDS: Final = "(^|/)[.][.](/|$)"


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


class LocalObject(Spec):
    """An object of the job's namespace, by name."""

    name: ObjectName = Field(description="Name of the object.")


class CsiVolume(Spec):
    """Storage that a CSI driver makes for the pod, such as a bucket (`gcsfuse.csi.storage.gke.io`) or a store of secrets."""

    driver: ObjectName = Field(description="Name of the driver.")
    fs_type: Word | None = Field(default=None, description="File system; absent is the driver's own choice.")
    volume_attributes: Annotated[dict[str, Prose], Field(max_length=32)] = Field(default={}, description="What the driver is told.")
    node_publish_secret_ref: LocalObject | None = Field(default=None, description="A Secret for the driver.")


class Volume(Spec):
    """A volume and where it is mounted. Exactly one kind of source; hostPath is not offered."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: str = Field(pattern=r"^/[^:]*$", max_length=1024, description="Absolute path inside the containers.")
    sub_path: str | None = Field(
        default=None, pattern=r"^[^/:][^:]*$", max_length=1024, description="Path inside the volume to mount; absent is all of it."
    )
    read_only: bool = Field(default=False, description="Mount read-only.")
    persistent_volume_claim: ClaimVolume | None = Field(default=None, description="An existing claim.")
    ephemeral: EphemeralVolume | None = Field(default=None, description="A claim of the pod's own.")
    empty_dir: EmptyDir | None = Field(default=None, description="Scratch space.")
    config_map: NamedVolume | None = Field(default=None, description="Files from a ConfigMap.")
    secret: NamedVolume | None = Field(default=None, description="Files from a Secret.")
    csi: CsiVolume | None = Field(default=None, description="Storage that a CSI driver makes for the pod.")

    @model_validator(mode="after")
    def _one_source(self) -> "Volume":
        at_most_one(self, *VOLUME_SOURCES)
        if all(getattr(self, kind) is None for kind in VOLUME_SOURCES):
            raise ValueError(f"a volume needs one of {', '.join(map(to_camel, VOLUME_SOURCES))}; give one")
        if self.sub_path is not None and re.search(UPWARDS, self.sub_path):
            raise ValueError("subPath leads out of the volume; give a path inside it")
        return self


VOLUME_SOURCES: Final = ("persistent_volume_claim", "ephemeral", "empty_dir", "config_map", "secret", "csi")
