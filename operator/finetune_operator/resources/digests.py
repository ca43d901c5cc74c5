"""Digests that name what a preparation, an evaluation or a publication was made from: another digest is another Job.

They cover the fields that a stage's result or its pod depends on, and none besides, so that a change elsewhere in the spec starts
nothing anew. An upgrade of the operator, and with it of the default image, doesn't either, nor do settings that come with it: defaults
are left out.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.field_use import Use, selected
from finetune_api.finetunejob import FineTuneJob


def preparation_digest(job: FineTuneJob) -> str:
    """SHA-256 (hex) over what preparation reads and runs with; `spec.retry` is in it, so that raising it tries again."""
    return _digest(_fields(job, "preparation", lambda use: use.preparation))


def evaluation_job_digest(identity: str, job: FineTuneJob) -> str:
    """The same for an evaluation: what is measured, of the training with that identity, and what its pod runs with."""
    return _digest({"figures": evaluation_digest(identity, job), **_fields(job, "evaluation", lambda use: use.evaluation)})


def publication_digest(run_digest: str, job: FineTuneJob) -> str:
    """The same for publication: the frozen run, and what may have changed since."""
    return _digest({"run": run_digest, **_fields(job, "publication", lambda use: use.publication)})


def _fields(job: FineTuneJob, stage: str, wanted: Callable[[Use], bool]) -> dict[str, Any]:
    """What the stage reads; what it shares with training stands apart, and is there even where it is empty."""
    fields = selected(job.spec, wanted)
    shared = {name: fields.pop(name, {}) for name in ("checkpoints", "workers")}
    return {stage: fields, **shared}


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
