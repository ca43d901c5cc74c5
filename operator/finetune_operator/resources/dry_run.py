"""What the API server is asked about before an attempt's RayJob is made: that RayJob, and a Job with its workers' pods.

KubeRay's definition knows the types of a pod's fields alone, and pods are made by KubeRay, one by one, long afterwards. A Job's pods are
validated with the Job, as pods are: so it tells which of their fields no API server would take. Neither object is ever made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from finetune_api.finetunejob import FineTuneJob
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.resources.rayjob import rayjob
from finetune_operator.settings import Settings

# The run is frozen later; nobody looks into its ConfigMap to judge a RayJob.
_ANY_RUN: Final = "0" * 64


def asked_about(job: FineTuneJob, attempt: int, owner: Owner, settings: Settings) -> tuple[Manifest, Manifest]:
    """The RayJob and the Job."""
    made = rayjob(job, _ANY_RUN, attempt, owner, settings)
    return made, _workers_as_job(made, owner)


def alike(job: FineTuneJob, owner: Owner, settings: Settings) -> str:
    """SHA-256 (hex) over both, without names of the job and of its objects, and without the text of it that the head reads."""
    made = rayjob(job, _ANY_RUN, 1, replace(owner, name="job", uid=""), settings)
    del made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["annotations"][keys.JOB_SPEC_ANNOTATION]
    return hashlib.sha256(json.dumps(made, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _workers_as_job(made: Mapping[str, Any], owner: Owner) -> Manifest:
    [workers] = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    metadata = owner.metadata(made["metadata"]["name"], keys.TRAINING)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"backoffLimit": 0, "template": workers["template"]}}
