"""Whether the words of a judge prefer another answer than its scores do. Pure; English sentences only.

In: two scores and the reply as plain text. Out: yes or no. A sentence that calls the loser better counts only when no sentence calls the
winner better: judges praise parts of an answer that they score lower.
"""

import re
from collections.abc import Sequence

_HOW = r"(?:\s+(?:clearly|slightly|much|far|definitely|generally|simply|significantly|somewhat|a bit|a little|the|overall))*"
_BETTER = (
    rf"\s+(?:is|was|provides|gives|seems){_HOW}\s+(?:better|superior|stronger|preferable|best|winner)"
    r"(?=\s*(?:$|[.,:;!)]|than\b|overall\b|answer\b|because\b|since\b))"
)
_WINS = r"\s+(?:wins|outperforms|beats|is the winner|is preferred)\b"
_NAMED = r"\b(?:winner|better (?:answer|one|response)|best answer)\s*(?:is|:|=)?\s*(?:the\s+)?"
_PREFERS = r"\b(?:i|we)\s+(?:would\s+|clearly\s+)?(?:prefer|favou?r|choose)\s+(?:the\s+)?"


def contradicts(scores: Sequence[float], text: str, label: str) -> bool:
    """Whether `text` prefers what two `scores` don't. `label`: a pattern with the groups `one` and `two` for the names of the answers."""
    preferred = set(_preferred(text, label))
    won = 0 if scores[0] == scores[1] else 1 if scores[0] > scores[1] else 2
    return bool(preferred) and won not in preferred and len(preferred) == 1


def _preferred(text: str, label: str) -> list[int]:
    patterns = (f"{label}(?:{_BETTER}|{_WINS})", f"(?:{_NAMED}|{_PREFERS}){label}")
    return [1 if found["one"] else 2 for pattern in patterns for found in re.finditer(pattern, text)]
