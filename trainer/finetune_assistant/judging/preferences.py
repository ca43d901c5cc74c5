"""Pairs to learn a preference from: what people or judges prefer, as TRL's trainers read it.

In: votes and runs of judges. Out: rows with `prompt`, `chosen` and `rejected`, each a list of messages, and why other pairs gave none. What
is trained with them is unknown here. Format: https://huggingface.co/docs/trl/dataset_formats (conversational preference, explicit prompt).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_assistant.judging.answers import Turns, as_messages
from finetune_assistant.judging.folder import PairRun
from finetune_assistant.judging.summary import Label, labels_of
from finetune_assistant.judging.votes import Vote, majority

Row = dict[str, list[dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """`left_out` counts by reason the pairs that gave no row."""

    rows: Sequence[Row]
    left_out: dict[str, int]


def preferences(votes: Sequence[Vote], judges: Sequence[PairRun]) -> Preferences:
    """One row for each pair with a winner. People go before judges; among several the majority decides."""
    people: dict[Any, list[Label]] = {}
    machines: dict[Any, list[Label]] = {}
    for vote in votes:
        _add(people, vote.pair.turns, vote.pair.answer_a, vote.pair.answer_b, vote.label)
    left_out: Counter[str] = Counter()
    for run in judges:
        labels = labels_of(run)
        for judged in run.pairs:
            content = (judged.pair.turns, judged.pair.answer_a, judged.pair.answer_b)
            if content in labels:
                _add(machines, *content, labels[content])
            else:
                left_out["no readable judgement"] += 1
    rows = []
    for (turns, one, other), given in {**machines, **people}.items():
        label = majority(given)
        reason = "no winner" if label == "tie" else "an answer is empty" if not (one and other) else ""
        if reason:
            left_out[reason] += 1
        else:
            rows.append(_row(turns, *((one, other) if label == "a" else (other, one))))
    return Preferences(rows=rows, left_out=dict(left_out))


def _add(labels: dict[Any, list[Label]], turns: Turns, one: str, other: str, label: Label) -> None:
    """Under one key whatever was called a."""
    if one > other:
        one, other = other, one
        label = "b" if label == "a" else "a" if label == "b" else "tie"
    labels.setdefault((turns, one, other), []).append(label)


def _row(turns: Turns, chosen: str, rejected: str) -> Row:
    answers = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", chosen), ("rejected", rejected))}
    return {"prompt": as_messages(turns), **answers}
