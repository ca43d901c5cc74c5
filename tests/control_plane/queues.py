"""Kueue's objects as an administrator writes them, and what its Workloads say."""

from typing import Any

from tests.control_plane.played import eventually

from finetune_operator.runtime.api import Api, ApiError, Resource

Json = dict[str, Any]

GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
API = f"{GROUP}/{VERSION}"

CLUSTER_QUEUES = Resource(GROUP, VERSION, "clusterqueues", "ClusterQueue")
_PLURALS = {
    "ResourceFlavor": "resourceflavors",
    "ClusterQueue": "clusterqueues",
    "LocalQueue": "localqueues",
    "WorkloadPriorityClass": "workloadpriorityclasses",
    "Topology": "topologies",
}


def flavor(name: str, **spec: Any) -> Json:
    """Nodes of one kind."""
    return {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}, "spec": spec}


def cluster_queue(name: str, quotas: dict[str, str], *, flavor: str, preemption: Json | None = None, cohort: str = "") -> Json:
    """A queue with these quotas, for every namespace. Jobs of a lower priority give way to those of a higher one."""
    resources = [{"name": resource, "nominalQuota": quota} for resource, quota in quotas.items()]
    spec = {
        "namespaceSelector": {},
        "preemption": preemption or {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": list(quotas), "flavors": [{"name": flavor, "resources": resources}]}],
        **({"cohortName": cohort} if cohort else {}),
    }
    return {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}


def local_queue(name: str, namespace: str, cluster_queue: str) -> Json:
    """What the jobs of a namespace name."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "LocalQueue", "metadata": metadata, "spec": {"clusterQueue": cluster_queue}}


def topology(name: str, *labels: str) -> Json:
    """The labels of nodes that say where they are, the widest first."""
    return {"apiVersion": API, "kind": "Topology", "metadata": {"name": name}, "spec": {"levels": [{"nodeLabel": one} for one in labels]}}


def priority(name: str, value: int) -> Json:
    """Of jobs; their pods' priority is another thing."""
    return {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}


def conditions(workload: Json) -> dict[str, tuple[str, str]]:
    """Status and reason of each."""
    return {one["type"]: (one["status"], one["reason"]) for one in workload.get("status", {}).get("conditions", [])}


def make(api: Api, manifest: Json) -> None:
    """Create it, as soon as Kueue serves its kind."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    resource = Resource(GROUP, VERSION, _PLURALS[kind], kind)

    def made() -> bool:
        try:
            api.create(resource, metadata.get("namespace"), manifest)
        except ApiError as error:
            errors.append(str(error))
            return False
        return True

    errors: list[str] = []
    eventually(f"{kind} {metadata['name']} is made", made, seconds=30, say=lambda: errors[-1])
