"""The numbers of a judge's work: win rates with intervals, position bias, contradictions, agreement of two judges. Pure.

In: runs of judged pairs or answers. Out: plain objects for JSON, the terminal and the report, with camelCase names.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from finetune_assistant.judging.answers import Pair, Turns
from finetune_assistant.judging.folder import PairRun, ScoreRun
from finetune_assistant.judging.pairs import JudgedAnswer, JudgedPair, Outcome
from finetune_assistant.judging.statistics import Share, agreement, mean_with_bootstrap, wilson

Label = Literal["a", "b", "tie"]
EXCHANGED: dict[Label, Label] = {"a": "b", "b": "a", "tie": "tie"}
OUTCOMES: tuple[Outcome, ...] = ("a", "b", "tie", "flip", "same", "invalid")


def pair_summary(run: PairRun, *, seed: int = 0) -> dict[str, Any]:
    """Everything about the pairs of one run. A win rate's parts are all pairs with two readable judgements, and those of equal answers."""
    both = [judged for judged in run.pairs if judged.judgements and judged.outcome != "invalid"]
    readable = [judgement for judged in run.pairs for judgement in judged.judgements if judgement.scores is not None]
    first_won = [_first_won(judgement.order, judgement.scores) for judgement in readable if judgement.scores is not None]
    decided = [won for won in first_won if won is not None]
    one_order = [judgement.scores for judgement in readable if judgement.order == "ab" and judgement.scores is not None]
    unsure = [judged for judged in run.pairs if any(judgement.contradiction for judgement in judged.judgements)]
    problems = Counter(judgement.problem for judged in run.pairs for judgement in judged.judgements if judgement.scores is None)
    return {
        "judge": run.judge,
        "a": run.names[0],
        "b": run.names[1],
        "prompts": run.total,
        "judged": len(run.pairs),
        "outcomes": {outcome: sum(judged.outcome == outcome for judged in run.pairs) for outcome in OUTCOMES},
        "winRate": win_rate(run.pairs),
        "winRateOfB": win_rate(run.pairs, of="b"),
        "tiesAsHalf": _share(mean_with_bootstrap([half for judged in run.pairs if (half := _half_win(judged)) is not None], seed=seed)),
        "scoreDifference": _share(mean_with_bootstrap([d for judged in run.pairs if (d := judged.difference) is not None], seed=seed)),
        "oneOrderOnly": _share(wilson(sum(a > b for a, b in one_order), len(one_order))) | {"judgements": len(one_order)},
        "positionFlips": _share(wilson(sum(judged.outcome == "flip" for judged in both), len(both))) | {"pairs": len(both)},
        "firstPreferred": _share(wilson(sum(decided), len(decided))) | {"judgements": len(decided)},
        "contradictions": sum(judgement.contradiction for judgement in readable),
        "winRateWithoutContradictions": win_rate([judged for judged in run.pairs if judged not in unsure]),
        "unreadable": dict(problems.most_common()),
        "byKind": _grouped(run.pairs, "kind"),
        "byLanguage": _grouped(run.pairs, "language"),
    }


def win_rate(pairs: Sequence[JudgedPair], of: Literal["a", "b"] = "a") -> dict[str, Any]:
    """The share of pairs that one model won in both orders, of all pairs but invalid ones, with Wilson's interval."""
    outcomes = [judged.outcome for judged in pairs if judged.outcome != "invalid"]
    wins = outcomes.count(of)
    return {"wins": wins, "pairs": len(outcomes), **_share(wilson(wins, len(outcomes)))}


def _grouped(pairs: Sequence[JudgedPair], name: str) -> dict[str, Any]:
    """Win rates by kind or language, the largest group first; nothing where no prompt has one."""
    groups: dict[str, list[JudgedPair]] = {}
    for judged in pairs:
        if group := getattr(judged.pair, name):
            groups.setdefault(group, []).append(judged)
    return {group: win_rate(members) for group, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))}


def _half_win(judged: JudgedPair) -> float | None:
    """1, 0, or a half where nobody won; None for an invalid pair."""
    return None if judged.outcome == "invalid" else {"a": 1.0, "b": 0.0}.get(judged.outcome, 0.5)


def _first_won(order: str, scores: tuple[float, float]) -> bool | None:
    if scores[0] == scores[1]:
        return None
    return (scores[0] > scores[1]) == (order == "ab")


def _share(share: Share) -> dict[str, Any]:
    return {"value": share.value, "low": share.low, "high": share.high}


def score_summary(run: ScoreRun, *, seed: int = 0) -> dict[str, Any]:
    """Mean scores of single answers, and the difference where two files were scored."""
    models = []
    for name, answers in zip(run.names, run.answers, strict=True):
        scores = [judged.score for judged in answers if judged.score is not None]
        problems = Counter(judged.problem for judged in answers if judged.score is None)
        mean = _share(mean_with_bootstrap(scores, seed=seed))
        models.append(
            {"model": name, "judged": len(answers), "score": mean, "scored": len(scores), "unreadable": dict(problems.most_common())}
        )
    summary: dict[str, Any] = {"judge": run.judge, "answers": run.total, "models": models}
    if len(run.answers) == 2:
        summary["scoreDifference"] = _share(mean_with_bootstrap(_differences(*run.answers), seed=seed))
    return summary


def _differences(a: Sequence[JudgedAnswer], b: Sequence[JudgedAnswer]) -> list[float]:
    """First minus second file, of prompts that both have a score for."""
    scores = {judged.answer.key: judged.score for judged in b}
    pairs = [(judged.score, scores.get(judged.answer.key)) for judged in a]
    return [one - other for one, other in pairs if one is not None and other is not None]


# The same label under the same key whatever was called a: (prompt and both answers) -> who won.
Labels = dict[tuple[Turns, str, str], Label]


def labels_of(run: PairRun) -> Labels:
    """Who won each readable pair, a, b or tie, also with a and b exchanged. Flips are ties: nobody won."""
    found: Labels = {}
    for judged in run.pairs:
        if judged.outcome != "invalid":
            label: Label = "a" if judged.outcome == "a" else "b" if judged.outcome == "b" else "tie"
            found[judged.pair.turns, judged.pair.answer_b, judged.pair.answer_a] = EXCHANGED[label]
            found[judged.pair.turns, judged.pair.answer_a, judged.pair.answer_b] = label
    return found


def judges_compared(run: PairRun, other: PairRun) -> dict[str, Any]:
    """Two judges on the same pairs, which are those of the same prompt and answers: agreement on who won, and each one's win rate of a."""
    others = labels_of(other)
    own = labels_of(run)
    judged = [(own.get(content(one.pair)), others.get(content(one.pair))) for one in run.pairs]
    labels = [(one, two) for one, two in judged if one is not None and two is not None]
    wins = [sum(pair[side] == "a" for pair in labels) for side in (0, 1)]
    return {
        "judges": [run.judge, other.judge],
        **agreement_object(labels),
        "winRates": [{"wins": number, "pairs": len(labels), **_share(wilson(number, len(labels)))} for number in wins],
        "labels": {f"{one} {two}": number for (one, two), number in sorted(Counter(labels).items())},
    }


def content(pair: Pair) -> tuple[Turns, str, str]:
    """What makes two pairs the same: prompt and answers."""
    return pair.turns, pair.answer_a, pair.answer_b


def agreement_object(labels: Sequence[tuple[Label, Label]]) -> dict[str, Any]:
    """Agreement of two raters on the same pairs: on all of them, and on those in which both see a winner."""
    both = [pair for pair in labels if "tie" not in pair]
    found, decided = agreement(labels), agreement(both)
    return {
        "pairs": found.items,
        "agreement": found.raw,
        "kappa": found.kappa,
        "withoutTies": {"pairs": decided.items, "agreement": decided.raw, "kappa": decided.kappa},
    }
