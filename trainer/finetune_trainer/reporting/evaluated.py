"""What the evaluation stage found, as text for the report and the model card: benchmarks with their errors, and the judge's verdict.

In: an EvaluationSummary, which is untrusted. Out: words and numbers, not yet escaped: HTML and Markdown differ there. Beside each number
stand the shots and how many documents were asked: without them it can't be compared with another one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.evaluation_summary import EvaluationSummary, JudgeSummary, TaskSummary

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow:
    """One number, base beside tuned. `difference` is empty where the two can't be compared."""

    task: str
    metric: str
    shots: str
    documents: str
    base: str
    tuned: str
    difference: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmarks:
    """`rows`: what was asked for by name. `members`: the tasks whose means some of those are."""

    rows: list[BenchmarkRow]
    members: list[BenchmarkRow]


def benchmarks(summary: EvaluationSummary) -> Benchmarks:
    """The table of benchmarks."""
    return Benchmarks(rows=_rows(named(summary)), members=_rows(task for task in summary.tasks if task.group is not None))


def named(summary: EvaluationSummary) -> list[TaskSummary]:
    """The tasks that were asked for by name."""
    return [task for task in summary.tasks if task.group is None]


def documents(task: TaskSummary) -> str:
    """How many documents were asked, of how many.

    >>> documents(TaskSummary(task="t", metric="acc", shots=0, documents=100, documents_there=1172))
    '100 of 1,172'
    """
    return f"{task.documents:,}" if task.documents == task.documents_there else f"{task.documents:,} of {task.documents_there:,}"


def verdict_of(judge: JudgeSummary) -> str:
    """The judge's verdict in a sentence, without the judge's name."""
    rest = (
        f"lost {judge.losses:,}" if judge.losses else "",
        f"{judge.ties:,} undecided" if judge.ties else "",
        f"{judge.flips:,} whose winner changed with the order" if judge.flips else "",
    )
    others = ", ".join(filter(None, rest))
    left_out = f" {judge.unreadable:,} more had no readable verdict and are left out." if judge.unreadable else ""
    return (
        f"won {judge.wins:,} of {judge.prompts:,} pairs against its base, each shown in both orders and won only if won in both"
        f"{f' ({others})' if others else ''}: a win rate of {judge.win_rate:.3f}, 95 % interval {judge.low:.3f} to {judge.high:.3f}."
        f"{left_out}"
    )


def _rows(tasks: Iterable[TaskSummary]) -> list[BenchmarkRow]:
    return [
        BenchmarkRow(
            task=task.task,
            metric=task.metric,
            shots=str(task.shots),
            documents=documents(task),
            base=_number(task.base, task.base_standard_error),
            tuned=_number(task.value, task.standard_error),
            difference=_difference(task),
            verdict=task.verdict or "",
        )
        for task in tasks
    ]


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.4f}" if error is None else f"{value:.4f} ±{error:.4f}"


def _difference(task: TaskSummary) -> str:
    return "" if task.low is None or task.high is None else f"{task.low:+.4f} to {task.high:+.4f}"
