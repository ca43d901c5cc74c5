"""Votes of people on pairs: who prefers what, how far people agree with one another, and how far each judge agrees with them.

In: votes, from ballots or from the playground, and runs of judges. Out: rows for files, and plain objects with numbers. How votes are
given is unknown here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData
from finetune_api.json_text import json_value
from finetune_assistant.judging.answers import Pair, pair_of, pair_row
from finetune_assistant.judging.folder import PairRun
from finetune_assistant.judging.statistics import wilson
from finetune_assistant.judging.summary import EXCHANGED, Label, agreement_object, content, labels_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One person on one pair. `names`: of the models a and b."""

    pair: Pair
    label: Label
    rater: str
    names: tuple[str, str]


def vote_row(vote: Vote) -> dict[str, Any]:
    """A vote for JSON lines."""
    return {**pair_row(vote.pair), "model_a": vote.names[0], "model_b": vote.names[1], "vote": vote.label, "rater": vote.rater}


def read_vote_rows(path: Path) -> list[Vote]:
    """Votes as `vote_row` makes them. Raises InvalidData, naming the row."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    return [_vote(line, f"{path} row {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _vote(line: str, place: str) -> Vote:
    try:
        if not isinstance(row := json_value(line), dict):
            raise ValueError("it is no JSON object")
        row.setdefault("key", place)
        if row["vote"] not in ("a", "b", "tie"):
            raise InvalidData(f"{place}: vote {row['vote']!r} is none of a, b and tie")
        names = (str(row.get("model_a", "a")), str(row.get("model_b", "b")))
        return Vote(pair=pair_of(row), label=row["vote"], rater=str(row.get("rater") or "unnamed"), names=names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidData(
            f"{place} is no vote: {what}; a vote has prompt, answer_a, answer_b and vote. Filled-in ballots are read by "
            "`finetune human import VOTES --key KEY`"
        ) from error


def of_same_models(votes: Sequence[Vote]) -> list[Vote]:
    """The votes with what the first one calls a as a in all. Raises InvalidData where another model was voted on."""
    found = []
    for vote in votes:
        names = votes[0].names
        if vote.names == names:
            found.append(vote)
        elif vote.names == names[::-1]:
            pair = replace(vote.pair, answer_a=vote.pair.answer_b, answer_b=vote.pair.answer_a)
            found.append(replace(vote, pair=pair, label=EXCHANGED[vote.label], names=names))
        else:
            raise InvalidData(
                f"votes on {' and '.join(names)} and on {' and '.join(vote.names)} can't be counted together; give them apart"
            )
    return found


def majority(labels: Sequence[Label]) -> Label:
    """What most say; a tie where no label has more than any other.

    >>> majority(["a", "a", "b"]), majority(["a", "b"])
    ('a', 'tie')
    """
    (first, number), *others = Counter(labels).most_common()
    return first if all(other < number for _, other in others) else "tie"


def vote_summary(votes: Sequence[Vote], judges: Sequence[PairRun] = ()) -> dict[str, Any]:
    """Win rate of a by the majority of each pair, agreement of people with one another, and of each judge with them on the same pairs."""
    by_pair: dict[Any, dict[str, Label]] = {}
    for vote in of_same_models(votes):
        by_pair.setdefault(content(vote.pair), {})[vote.rater] = vote.label
    decided = [majority(list(labels.values())) for labels in by_pair.values()]
    share = wilson(decided.count("a"), len(decided))
    win_rate = {"wins": decided.count("a"), "pairs": len(decided), "value": share.value, "low": share.low, "high": share.high}
    names = votes[0].names if votes else ("a", "b")
    return {
        "a": names[0],
        "b": names[1],
        "votes": dict(sorted(Counter(vote.rater for vote in votes).items())),
        "outcomes": {label: decided.count(label) for label in ("a", "b", "tie")},
        "winRate": win_rate,
        "people": _people(by_pair),
        "judges": [_against(run, by_pair) for run in judges],
    }


def _people(by_pair: dict[Any, dict[str, Label]]) -> list[dict[str, Any]]:
    """Each two people on the pairs that both voted on."""
    raters = sorted({rater for labels in by_pair.values() for rater in labels})
    found = []
    for one, other in combinations(raters, 2):
        labels = [(given[one], given[other]) for given in by_pair.values() if one in given and other in given]
        if labels:
            found.append({"raters": [one, other], **agreement_object(labels)})
    return found


def _against(run: PairRun, by_pair: dict[Any, dict[str, Label]]) -> dict[str, Any]:
    """A judge and the majority of people, on the pairs that both judged."""
    own = labels_of(run)
    labels = [(own[pair], majority(list(given.values()))) for pair, given in by_pair.items() if pair in own]
    return {"judge": run.judge, **agreement_object(labels)}
