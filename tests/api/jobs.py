"""Jobs and shapes for tests: small and valid, so that a case shows only what matters to it."""

from collections.abc import Mapping
from typing import Any

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob, ModelShape
from finetune_api.jobfile import parse_job
from finetune_api.training_run import DataShape, SplitShape

STARCODERBASE = ModelShape(
    architecture="GPTBigCodeForCausalLM",
    layers=40,
    hidden_size=6144,
    intermediate_size=24576,
    attention_heads=48,
    key_value_heads=1,
    head_size=128,
    vocabulary_size=49152,
    positions=8192,
    parameters=15_517_456_384,
)


def mapping(**spec: Any) -> dict[str, Any]:
    """A valid job as a mapping; keys of `spec` are merged into its spec, level by level."""
    base = {
        "model": {"name": "org/model"},
        "dataset": {"sources": [{"path": "org/data"}]},
        "training": {"globalBatchSize": 256},
        "workers": {"nodes": 1, "gpusPerNode": 8, "accelerator": "nvidia-a100-80gb"},
    }
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "job"}, "spec": _merged(base, spec)}


def job(**spec: Any) -> FineTuneJob:
    """The same, parsed."""
    return parse_job(mapping(**spec))


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def data_shape(*, rows: int = 7266, tokens: int = 7_440_000, squared_lengths: int = 7_440_000 * 500) -> DataShape:
    """Prepared data the size of OASST1's English part."""
    split = SplitShape(
        dialogues=19_034, segments=19_034, tokens=tokens, supervised_tokens=tokens // 2, rows=rows, squared_lengths=squared_lengths
    )
    return DataShape(fingerprint="f" * 64, train=split)


def lines(error: InvalidSpec) -> list[str]:
    """Each problem as a user reads it."""
    return [str(problem) for problem in error.problems]
