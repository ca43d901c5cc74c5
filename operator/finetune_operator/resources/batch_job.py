"""The frame of a Kubernetes Job that runs one pod to its end: how often it is tried, and when trying again is pointless."""

from typing import Final

from finetune_api.finetunejob import PodSettings
from finetune_api.pod_result import EXIT_INVALID_INPUT, EXIT_STOPPED
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.resources.pods import labels

# Pods after the first one. The Job controller waits 10 s, 20 s, 40 s between them.
RETRIES: Final = 3


def batch_job(name: str, stage: str, template: Manifest, owner: Owner, settings: PodSettings) -> Manifest:
    """A Job around the template. The operator deletes it; it has no deadline or TTL, and Kueue alone may suspend it."""
    metadata = owner.metadata(name, stage)
    queue = settings.queue_name
    metadata["labels"] = labels(settings, metadata["labels"]) | ({keys.QUEUE_LABEL: queue} if queue else {})
    spec = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {"rules": _failure_rules()},
        # A second pod begins when the first has ended: both would write to the same places.
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _failure_rules() -> list[Manifest]:
    """The first rule that matches counts: wrong input stays wrong on another node; a pod that was drained may exit as stopped.

    Pods that are evicted for what they use match the second one, too; stages/pod_job.py counts those.
    """
    return [
        _fails_on(EXIT_INVALID_INPUT),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _fails_on(EXIT_STOPPED),
    ]


def _fails_on(exit_code: int) -> Manifest:
    return {"action": "FailJob", "onExitCodes": {"containerName": keys.MAIN_CONTAINER, "operator": "In", "values": [exit_code]}}
