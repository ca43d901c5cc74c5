"""The FineTuneJob that everything else belongs to: the owner reference and the labels of its objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.keys import API_VERSION, KIND
from finetune_operator import keys

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A FineTuneJob as its objects see it."""

    name: str
    namespace: str
    uid: str

    def labels(self, stage: str | None = None) -> dict[str, str]:
        """Labels of an object or a pod; objects of all stages have no stage."""
        common = {keys.JOB_LABEL: self.name, keys.MANAGED_BY_LABEL: keys.MANAGED_BY}
        return common | ({keys.STAGE_LABEL: stage} if stage else {})

    def metadata(self, name: str, stage: str | None = None) -> Manifest:
        """Metadata of an object that goes when the job goes."""
        # Nothing has to wait for its objects when a job is deleted, and blocking would need a right on finalizers.
        reference = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
        return {"name": name, "namespace": self.namespace, "labels": self.labels(stage), "ownerReferences": [reference]}


def owner_of(raw_job: Mapping[str, Any]) -> Owner:
    """The owner, from the FineTuneJob as the API server gives it."""
    metadata = raw_job["metadata"]
    return Owner(name=metadata["name"], namespace=metadata["namespace"], uid=metadata["uid"])


def is_owned(manifest: Mapping[str, Any], owner: Owner) -> bool:
    """Whether the object's controller is this job: the same uid, so that a job of the same name that was deleted is another one."""
    references = manifest.get("metadata", {}).get("ownerReferences") or []
    return any(reference.get("controller") is True and reference.get("uid") == owner.uid for reference in references)


def is_of_former(manifest: Mapping[str, Any], owner: Owner) -> bool:
    """Whether the object's controller is a deleted job of the same name, with which it will go."""
    references = manifest.get("metadata", {}).get("ownerReferences") or []
    wanted = {"controller": True, "kind": KIND, "name": owner.name}
    return any(wanted.items() <= reference.items() and reference.get("uid") != owner.uid for reference in references)
