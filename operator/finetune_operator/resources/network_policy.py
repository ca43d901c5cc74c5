"""The NetworkPolicy of a job: its pods talk with one another and with what the chart's values name; nobody else reaches their Ray ports.

A policy of the whole namespace couldn't say "pods of the same job", so there is one a job. Whether the cluster's network enforces
it is the cluster's affair.
"""

from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import NetworkRules


def network_policy(owner: Owner, rules: NetworkRules) -> Manifest:
    """The policy over every pod of the job, of all stages."""
    pods = {"podSelector": {"matchLabels": {keys.JOB_LABEL: owner.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(keys.access_name(owner.name)),
        "spec": pods
        | {
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [pods]}, *rules.ingress],
            "egress": [{"to": [pods]}, *rules.egress],
        },
    }
