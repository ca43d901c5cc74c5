"""What is kept of the objects that a job owns: the caches of a cluster with thousands of jobs would mostly be pod templates.

In: an object as a watch gives it. Out: the part of it that somebody here reads. Objects that are asked of the API server itself are whole.
"""

from typing import Any, Final

Json = dict[str, Any]

# Who else set what, and our own copies of the job on pods.
_NOT_READ: Final = ("managedFields", "annotations")
# Of a RayJob, of a report, and of a pod.
_READ_OF_SPEC: Final = ("nodeName", "suspend", "stop", "serviceAccount", "volumes")


def trimmed(item: Json) -> Json:
    """The object, changed in place: its status whole, of its spec only what is read.

    >>> trimmed({"metadata": {"name": "a", "annotations": {}}, "spec": {"suspend": True, "rayClusterSpec": {}}, "status": {}})
    {'metadata': {'name': 'a'}, 'spec': {'suspend': True}, 'status': {}}
    """
    for name in _NOT_READ:
        item["metadata"].pop(name, None)
    if "spec" in item:
        item["spec"] = {name: item["spec"][name] for name in _READ_OF_SPEC if name in item["spec"]}
    return item
