"""What is kept of jobs and of what they own: the caches of a cluster with thousands of jobs would mostly be pod templates and copies.

In: an object as a watch gives it. Out: the part of it that somebody here reads. Objects that are asked of the API server itself are whole.
"""

from typing import Any, Final

Json = dict[str, Any]

# kubectl's copy of the whole spec: as long as it.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
# Who else set what, and our own copies of the job on pods.
_NOT_READ: Final = ("managedFields", "annotations")
# Of a RayJob, of a report, and of a pod; of a pod's containers, what they hold.
_READ_OF_SPEC: Final = ("nodeName", "suspend", "stop", "serviceAccount", "volumes")


def transform(item: Json) -> Json:
    """The object, changed in place: its status whole, of its spec only what is read.

    >>> transform({"metadata": {"name": "a", "annotations": {}}, "spec": {"suspend": True, "rayClusterSpec": {}}, "status": {}})
    {'metadata': {'name': 'a'}, 'spec': {'suspend': True}, 'status': {}}
    """
    for name in _NOT_READ:
        item["metadata"].pop(name, None)
    if "spec" in item:
        containers = item["spec"].get("containers")
        item["spec"] = {name: item["spec"][name] for name in _READ_OF_SPEC if name in item["spec"]}
        if containers:
            item["spec"]["containers"] = [{"resources": container.get("resources") or {}} for container in containers]
    return item


def transform_job(item: Json) -> Json:
    """The job, changed in place: all of it but for who set what, and kubectl's copy.

    >>> copy = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "ml"}
    >>> transform_job({"metadata": {"name": "a", "managedFields": [], "annotations": copy}, "spec": {}})
    {'metadata': {'name': 'a', 'annotations': {'team': 'ml'}}, 'spec': {}}
    """
    item["metadata"].pop("managedFields", None)
    (item["metadata"].get("annotations") or {}).pop(_LAST_APPLIED, None)
    return item
