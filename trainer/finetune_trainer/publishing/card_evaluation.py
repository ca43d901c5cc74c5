"""The evaluation in a model card: the Hub's `model-index` for machines, and samples as Markdown for people.

In: an EvaluationSummary, which is untrusted. Out: values for YAML, and bounded Markdown. Tables and sentences are those of the report.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.bounded_text import shortened
from finetune_api.evaluation_summary import EvaluationSummary, SampleSummary, TaskSummary
from finetune_trainer.publishing.markdown import fenced
from finetune_trainer.reporting.evaluated import documents, named

MOST_TASKS: Final = 32
MOST_SAMPLES: Final = 4
_LONGEST_TEXT: Final = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Benchmark:
    """A data set of the Hub that a benchmark's documents come from."""

    name: str
    type: str
    split: str
    config: str | None = None


# By lm-evaluation-harness's names of tasks, which are ours; the documents of the others are named as their task.
_BENCHMARKS: Final = {
    "arc_challenge": _Benchmark(name="AI2 Reasoning Challenge", type="allenai/ai2_arc", config="ARC-Challenge", split="test"),
    "hellaswag": _Benchmark(name="HellaSwag", type="Rowan/hellaswag", split="validation"),
    "mmlu": _Benchmark(name="MMLU", type="cais/mmlu", config="all", split="test"),
    "truthfulqa_mc2": _Benchmark(name="TruthfulQA", type="truthfulqa/truthful_qa", config="multiple_choice", split="validation"),
    "humaneval": _Benchmark(name="HumanEval", type="openai/openai_humaneval", split="test"),
}


def model_index(name: str, summary: EvaluationSummary) -> list[dict[str, Any]]:
    """`model-index` of the card's metadata; empty when no benchmark gave a number. Several numbers of one task stand together."""
    by_task: dict[tuple[str, int], list[TaskSummary]] = {}
    for task in named(summary)[:MOST_TASKS]:
        if task.value is not None:
            by_task.setdefault((task.task, task.shots), []).append(task)
    results = [_result(task, shots, numbers) for (task, shots), numbers in by_task.items()]
    return [{"name": name, "results": results}] if results else []


def _result(task: str, shots: int, numbers: Iterable[TaskSummary]) -> dict[str, Any]:
    known = _BENCHMARKS.get(task, _Benchmark(name=task, type=task, split=""))
    optional = {key: value for key, value in (("config", known.config), ("split", known.split)) if value}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": known.name, "type": known.type, **optional, "args": {"num_few_shot": shots}},
        "metrics": [_metric(number) for number in numbers],
    }


def _metric(task: TaskSummary) -> dict[str, Any]:
    error = {} if task.standard_error is None else {"args": {"standard_error": task.standard_error}}
    return {"type": task.metric, "value": task.value, "name": f"{task.metric}, {task.shots}-shot, {documents(task)} documents", **error}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSample:
    """A prompt and its four answers, each a block of Markdown."""

    prompt: str
    base_greedy: str
    tuned_greedy: str
    base_sampled: str
    tuned_sampled: str


def card_samples(summary: EvaluationSummary) -> list[CardSample]:
    """The first few samples, long texts cut: all of them are in the report."""
    return [_sample(sample) for sample in summary.samples[:MOST_SAMPLES]]


def _sample(sample: SampleSummary) -> CardSample:
    names = ("prompt", "base_greedy", "tuned_greedy", "base_sampled", "tuned_sampled")
    return CardSample(**{name: fenced(shortened(getattr(sample, name), _LONGEST_TEXT)) for name in names})
