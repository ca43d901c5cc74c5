"""Digests that name what a preparation or a publication was made from: another digest is another Job.

They cover the fields that a stage's result or its pod depends on, and none besides, so that a change elsewhere in the spec starts
nothing anew. An upgrade of the operator, and with it of the default image, doesn't either, nor do settings that come with it: defaults
are left out.
"""

import hashlib
import json
from typing import Any

from finetune_api.finetunejob import FineTuneJob

# How checkpoints are kept and how often they are made is the training's business alone.
_CHECKPOINTS_IN_TRAINING = {"keep", "every"}
# Of the workers, what CPU pods take over.
_SHARED_BY_CPU_PODS = {"image", "service_account_name"}


def preparation_digest(job: FineTuneJob) -> str:
    """SHA-256 (hex) over what preparation reads and runs with; `spec.retry` is in it, so that raising it tries again."""
    return _digest(
        {"preparation": _fields(job, {"model", "dataset", "template", "training", "cpu_pods", "retry", "publish"}), **_shared(job)}
    )


def publication_digest(run_digest: str, job: FineTuneJob) -> str:
    """The same for publication: the frozen run, and what may have changed since."""
    return _digest({"run": run_digest, "publication": _fields(job, {"publish", "generation", "cpu_pods", "retry"}), **_shared(job)})


def _shared(job: FineTuneJob) -> dict[str, Any]:
    spec = job.spec
    return {
        "checkpoints": spec.checkpoints.model_dump(mode="json", by_alias=True, exclude=_CHECKPOINTS_IN_TRAINING, exclude_defaults=True),
        "workers": spec.workers.model_dump(mode="json", by_alias=True, include=_SHARED_BY_CPU_PODS, exclude_defaults=True),
    }


def _fields(job: FineTuneJob, names: set[str]) -> dict[str, Any]:
    return job.spec.model_dump(mode="json", by_alias=True, include=names, exclude_defaults=True)


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
