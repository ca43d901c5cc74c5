"""Small objects for the runtime's tests."""

from finetune_operator.runtime.api import Json, Resource

NAMESPACE = "runtime"
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
JOBS = Resource("batch", "v1", "jobs", "Job")


def config_map(name: str, value: str = "", **labels: str) -> Json:
    """A ConfigMap whose `data.value` is `value`."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"value": value}}
