"""The kinds of objects that the operator reads and makes."""

from typing import Final

from finetune_api.keys import KIND
from finetune_api.report import REPORT_KIND, REPORTS
from finetune_operator import keys
from finetune_operator.runtime.api import Resource

FINETUNEJOBS: Final = Resource(keys.GROUP, "v1alpha1", "finetunejobs", KIND)
FINETUNEREPORTS: Final = Resource(keys.GROUP, "v1alpha1", REPORTS, REPORT_KIND)
JOBS: Final = Resource("batch", "v1", "jobs", "Job")
RAYJOBS: Final = Resource("ray.io", "v1", "rayjobs", "RayJob")
PODS: Final = Resource("", "v1", "pods", "Pod")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
# Kueue's: what it says of a RayJob or a Job. Asked for where one is held back, and not watched.
WORKLOADS: Final = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")

# What is watched beside the jobs, by the label that names the job.
CHILDREN: Final = (FINETUNEREPORTS, JOBS, RAYJOBS, PODS)
# What is made, by kind.
MADE: Final = {
    resource.kind: resource
    for resource in (FINETUNEJOBS, FINETUNEREPORTS, JOBS, RAYJOBS, CONFIG_MAPS, SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, NETWORK_POLICIES)
}
