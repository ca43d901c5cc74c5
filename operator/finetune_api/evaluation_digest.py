"""The digest that names an evaluation: what is measured, and of which checkpoint of which training.

Operator and pods make it of the same fields, so that each finds what the other left. Where and how fast it is measured is no part of it,
nor is what may change of a run without another result: an evaluation that is done stays done when a gate is eased or a Secret is renewed.
"""

import hashlib
import json

from finetune_api.field_use import selected
from finetune_api.finetunejob import FineTuneJob


def evaluation_digest(identity: str, job: FineTuneJob) -> str:
    """SHA-256 (hex). `identity`: the frozen run's `identity` (`TrainingRun.identity`), which storage belongs to, and not its digest."""
    value = {"identity": identity, "evaluation": selected(job.spec, lambda use: use.figures)}
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
