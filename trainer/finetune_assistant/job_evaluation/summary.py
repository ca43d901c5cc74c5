"""What an evaluation came to, cut to the size of a summary. Pure.

In: results of benchmarks, a judge's summary, answers side by side. Out: the EvaluationSummary, and of it what a pod says.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.evaluation_summary import (
    LONGEST_NAME,
    LONGEST_NOTE,
    LONGEST_SAMPLE,
    MOST_NOTES,
    MOST_SAMPLES,
    MOST_TASKS,
    EvaluationSummary,
    JudgeSummary,
    SampleSummary,
    TaskSummary,
    bounded,
)
from finetune_api.pod_result import EvaluationResult
from finetune_api.status import LONGEST_MESSAGE, LONGEST_TASK, LONGEST_WORD, EvaluatedTask, JudgedStatus
from finetune_api.status import MOST_TASKS as MOST_TASKS_OF_STATUS
from finetune_assistant.evaluation.results import Difference, Evaluation, Measurement
from finetune_assistant.evaluation.tasks import STANDARDS
from finetune_assistant.judging.answers import prompt_text
from finetune_assistant.prompts.prompt_rows import asked
from finetune_trainer.stages.export import Exported


def summary_of(
    *,
    digest: str,
    exported: Exported,
    base_model: str,
    evaluation: Evaluation | None,
    judged: Mapping[str, Any] | None,
    samples: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> EvaluationSummary:
    """`judged`: of `judging.summary.pair_summary`, the tuned model being a. `samples`: of `samples.side_by_side`."""
    return EvaluationSummary(
        digest=digest,
        step=exported.step,
        checkpoint=exported.checkpoint,
        loss=_finite(exported.loss),
        base_model=bounded(base_model, LONGEST_NAME),
        tasks=() if evaluation is None else _tasks(evaluation),
        judge=None if judged is None else _judge(judged),
        samples=tuple(_sample(row) for row in samples[:MOST_SAMPLES]),
        notes=tuple(bounded(note, LONGEST_NOTE) for note in notes[:MOST_NOTES]),
    )


def result_of(summary: EvaluationSummary, results: str) -> EvaluationResult:
    """What the pod says of it; `results`: the place of all figures. Names are cut, and a place left out, where a status has no room."""
    judge = summary.judge
    tasks = [
        EvaluatedTask(
            task=bounded(one.task, LONGEST_TASK),
            metric=bounded(one.metric, LONGEST_WORD),
            value=one.value,
            standard_error=one.standard_error,
            base=one.base,
            shots=one.shots,
            limit=one.limit,
            documents=one.documents,
        )
        for one in summary.tasks[:MOST_TASKS_OF_STATUS]
    ]
    return EvaluationResult(
        step=summary.step,
        loss=summary.loss,
        digest=summary.digest,
        tasks=tuple(tasks),
        judge=None
        if judge is None
        else JudgedStatus(
            model=judge.model,
            win_rate=judge.win_rate,
            low=judge.low,
            high=judge.high,
            prompts=judge.prompts,
            partial=judge.partial or None,
        ),
        results=results if len(results) <= LONGEST_MESSAGE else None,
    )


def _tasks(evaluation: Evaluation) -> tuple[TaskSummary, ...]:
    """The last model's numbers, beside those of the first one if there are two. What leaderboards show is first, members of groups last."""
    tuned = evaluation.models[-1]
    base = {(one.task, one.metric): one for one in evaluation.models[0].results} if len(evaluation.models) > 1 else {}
    differences = {(each.task, each.metric): each for each in evaluation.differences}
    ordered = sorted(tuned.results, key=lambda one: (one.group is not None, not _is_shown(one)))
    return tuple(_task(one, base.get((one.task, one.metric)), differences.get((one.task, one.metric))) for one in ordered[:MOST_TASKS])


def _is_shown(one: Measurement) -> bool:
    standard = STANDARDS.get(one.task)
    return standard is None or standard.metric == one.metric


def _task(tuned: Measurement, base: Measurement | None, difference: Difference | None) -> TaskSummary:
    return TaskSummary(
        task=bounded(tuned.task, LONGEST_NAME),
        metric=bounded(tuned.metric, LONGEST_NAME),
        value=_finite(tuned.value),
        standard_error=_finite(tuned.standard_error),
        base=None if base is None else _finite(base.value),
        base_standard_error=None if base is None else _finite(base.standard_error),
        low=None if difference is None else _finite(difference.low),
        high=None if difference is None else _finite(difference.high),
        verdict=None if difference is None else difference.verdict,  # type: ignore[arg-type]  # one of its three
        higher_is_better=tuned.higher_is_better,
        shots=tuned.shots,
        limit=tuned.limit,
        documents=tuned.documents,
        documents_there=tuned.documents_there,
        chat_template=tuned.chat_template,
        group=None if tuned.group is None else bounded(tuned.group, LONGEST_NAME),
    )


def _judge(judged: Mapping[str, Any]) -> JudgeSummary:
    rate, outcomes = judged["winRate"], judged["outcomes"]
    return JudgeSummary(
        model=bounded(judged["judge"], LONGEST_NAME),
        prompts=rate["pairs"],
        wins=rate["wins"],
        win_rate=rate["value"],
        low=rate["low"],
        high=rate["high"],
        losses=outcomes["b"],
        ties=outcomes["tie"] + outcomes["same"],
        flips=outcomes["flip"],
        unreadable=outcomes["invalid"],
        tokens=judged["tokens"],
        partial=judged["judged"] < judged["prompts"],
    )


def _sample(row: Mapping[str, Any]) -> SampleSummary:
    turns = tuple(
        (message.role, message.content) for message in asked({"messages" if isinstance(row["prompt"], list) else "prompt": row["prompt"]})
    )
    answers = {name: bounded(row[name], LONGEST_SAMPLE) if row[name] else "" for name in row if name != "prompt"}
    return SampleSummary(prompt=bounded(prompt_text(turns), LONGEST_SAMPLE), **answers)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
