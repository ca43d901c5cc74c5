"""Digests of jobs that run: another digest after an upgrade would begin their preparation anew, or refuse their storage."""

import json
from hashlib import sha256
from typing import Any

import pytest

from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import run_identity
from finetune_operator.resources.digests import preparation_digest, publication_digest
from finetune_operator.stages.freezing import executed

from .. import builders

RICH: dict[str, Any] = {
    "model": {"name": "org/model", "revision": "v1", "tokenSecret": {"name": "hub"}, "cache": {"claimName": "models"}},
    "dataset": {
        "sources": [
            {"path": "org/data", "weight": 0.5, "tokenSecret": {"name": "hub"}},
            {"path": "s3://bucket/more.jsonl", "limit": 10, "credentialsSecret": {"name": "s3"}},
        ],
        "evaluation": {"fraction": 0.1},
        "processes": 4,
    },
    "training": {"epochs": None, "maxSteps": 100, "microBatchSize": 2, "globalBatchSize": None, "optimizer": {"warmupSteps": 5}},
    "workers": {"image": "registry.example/own:1", "serviceAccountName": "gpu", "nodeSelector": {"pool": "gpu"}},
    "cpuPods": {"nodeSelector": {"pool": "cpu"}, "queueName": "cpu"},
    "checkpoints": {"endpoint": "https://s3.example", "region": "eu", "keep": 5, "every": {"steps": 10}},
    "evaluation": {"everyEpochs": 1},
    "generation": {"temperature": 0.5},
    "publish": {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}},
    "failurePolicy": {"maxFailures": 5},
    "budget": {"gpuHours": 10},
    "suspend": True,
    "retry": 2,
    "ttlSecondsAfterFinished": 60,
}


def frozen(job: FineTuneJob) -> str:
    spec = executed(job).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"training": {"globalBatchSize": None}}, ("aa7a2160", "9ace4f30", "828780f4", "8b7844dc")),
        (RICH, ("7c999c1d", "41ea192b", "ecd0fbab", "3762bf89")),
    ],
    ids=["few fields", "many fields"],
)
def test_they_are_what_they_were(spec: dict[str, Any], expected: tuple[str, ...]) -> None:
    """As of 29 November 2026."""
    job = builders.finetunejob(**spec)
    found = run_identity(job), preparation_digest(job), publication_digest("0" * 64, job), frozen(job)
    assert tuple(digest[:8] for digest in found) == expected
