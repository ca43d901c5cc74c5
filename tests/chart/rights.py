"""What rendered roles grant, as (group, resource, verb)."""

from collections.abc import Iterable, Iterator
from typing import Any

Right = tuple[str, str, str]

# The operator's rights over the objects of jobs, in full: one more or one less is a decision, not an accident.
OF_JOBS = {
    ("finetune.dev", "finetunejobs"): {"get", "list", "watch", "delete"},
    ("finetune.dev", "finetunejobs/status"): {"patch"},
    ("finetune.dev", "finetunereports"): {"get", "list", "watch", "create", "patch"},
    ("finetune.dev", "finetunereports/status"): {"patch", "update"},
    ("", "configmaps"): {"get", "create"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("ray.io", "rayjobs"): {"get", "list", "watch", "create", "delete"},
    ("kueue.x-k8s.io", "workloads"): {"list"},
    ("", "pods"): {"list", "watch"},
    ("", "serviceaccounts"): {"get", "create"},
    ("rbac.authorization.k8s.io", "roles"): {"get", "create"},
    ("rbac.authorization.k8s.io", "rolebindings"): {"get", "create"},
    ("events.k8s.io", "events"): {"create"},
}
# With networkPolicy.jobs.enabled, beside those.
OF_THE_FENCE = {("networking.k8s.io", "networkpolicies"): {"get", "create", "patch"}}
OF_THE_LEASE = {("coordination.k8s.io", "leases"): {"get", "create", "update"}}


def rights(role: dict[str, Any]) -> set[Right]:
    """Every right that a Role or ClusterRole gives."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def flat(table: dict[tuple[str, str], set[str]]) -> set[Right]:
    """The same of a table."""
    return {(group, resource, verb) for (group, resource), verbs in table.items() for verb in verbs}


def bound_to(objects: Iterable[dict[str, Any]], account: str) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """(namespace, or None for everywhere; role) of each role that a binding gives to the service account."""
    objects = list(objects)
    for binding in (o for o in objects if o["kind"] in {"RoleBinding", "ClusterRoleBinding"}):
        if account in {subject["name"] for subject in binding["subjects"]}:
            namespace = binding["metadata"].get("namespace")
            yield namespace, _role(objects, binding["roleRef"], namespace)


def _role(objects: list[dict[str, Any]], reference: dict[str, str], namespace: str | None) -> dict[str, Any]:
    [role] = [
        o
        for o in objects
        if o["kind"] == reference["kind"]
        and o["metadata"]["name"] == reference["name"]
        and (o["kind"] == "ClusterRole" or o["metadata"].get("namespace") == namespace)
    ]
    return role
