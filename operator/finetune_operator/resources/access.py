"""What the head may do with the API server: read its own job's report and write its status. Nothing else, nobody else."""

from finetune_api.finetunejob import FineTuneJob
from finetune_api.report import REPORTS
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.resources.pods import head_service_account

_RBAC = "rbac.authorization.k8s.io"


def service_account(owner: Owner) -> Manifest:
    """Ours, for workers, and for the head where the job names none. Its token is mounted on purpose or not at all."""
    metadata = owner.metadata(keys.access_name(owner.name), keys.TRAINING)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False}


def role(owner: Owner) -> Manifest:
    """Rights on one named object. The operator must hold each of them itself, or the API server refuses this Role."""
    names = [keys.report_name(owner.name)]
    rules = [
        {"apiGroups": [keys.GROUP], "resources": [REPORTS], "resourceNames": names, "verbs": ["get"]},
        {"apiGroups": [keys.GROUP], "resources": [f"{REPORTS}/status"], "resourceNames": names, "verbs": ["patch"]},
    ]
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": owner.metadata(keys.access_name(owner.name), keys.TRAINING),
        "rules": rules,
    }


def role_binding(job: FineTuneJob, owner: Owner) -> Manifest:
    """Gives the Role to whoever the head runs as."""
    account = head_service_account(job, owner)
    subject = {"kind": "ServiceAccount", "name": account, "namespace": owner.namespace}
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": owner.metadata(keys.binding_name(owner.name, account), keys.TRAINING),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": keys.access_name(owner.name)},
        "subjects": [subject],
    }
