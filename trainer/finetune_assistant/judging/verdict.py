r"""What scores a judge gave: one reading of a reply, or the reason why there is none. Pure.

In: the text of a reply. Out: a `Verdict`: scores for the first and the second answer (or one score), or why not. Judges answer in
many shapes and languages, so several readings are tried; a score counts only when all that is read agrees, and when exchanging the two
answers would have been read as well: `8-6` may be two scores or a range, so neither it nor `6-8` is taken.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finetune_assistant.judging import score_words as words
from finetune_assistant.judging.contradiction import contradicts
from finetune_assistant.judging.plain_text import plain_lines, thoughts_removed
from finetune_assistant.judging.readings import READINGS, Found, Scores

_ROLE = re.compile(r"\A\s*assistant\s*:\s*", re.IGNORECASE)  # of a template that wrote itself into the reply


# Problems of replies that longer ones wouldn't have.
UNFINISHED: Final = (
    "the reply ended before the judge had finished thinking",
    "the reply was cut before its scores",
    "the reply was cut where the scores are",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`scores` is None exactly where `problem` says why. `contradiction`: the text prefers what the scores don't."""

    scores: Scores | None
    problem: str = ""
    contradiction: bool = False


def verdict_of(reply: str, *, scores: int = 2, cut: bool = False) -> Verdict:
    r"""The one verdict of a reply with so many `scores`, 1 or 2. `cut`: the reply ended where the judge's tokens did.

    >>> verdict_of("Assistant 2: 5\nAssistant 1: 7/8").scores
    (7.0, 5.0)
    >>> verdict_of("9 7").problem
    'a score is out of range 1 to 8: 9'
    """
    text = thoughts_removed(reply)
    if text is None:
        return Verdict(scores=None, problem=UNFINISHED[0])
    lines = [words.SCALE.sub(" ", line).strip() or ":" for line in plain_lines(_ROLE.sub("", text))]
    if not lines:
        return Verdict(scores=None, problem="the reply is empty")
    found = Found()
    for reading in READINGS[scores]:
        reading(lines, found)
    return _decided(found, lines, scores, cut)


def _decided(found: Found, lines: Sequence[str], wanted: int, cut: bool) -> Verdict:
    """One verdict where all readings agree."""
    if found.problems:
        return Verdict(scores=None, problem=found.problems[0])
    distinct = {scores for scores, _ in found.scores}
    if not distinct and cut:
        return Verdict(scores=None, problem=UNFINISHED[1])
    if not distinct:
        return Verdict(scores=None, problem="no score was found" if wanted == 1 else "no two scores were found")
    if len(distinct) > 1:
        return Verdict(scores=None, problem=f"several verdicts: {', '.join(_shown(scores) for scores in sorted(distinct))}")
    if cut and min(line for _, line in found.scores) == len(lines) - 1:
        return Verdict(scores=None, problem=UNFINISHED[2])
    (scores,) = distinct
    return Verdict(scores=scores, contradiction=wanted == 2 and contradicts(scores, " ".join(lines), words.LABEL))


def _shown(scores: Scores) -> str:
    return " ".join(f"{score:g}" for score in scores)
