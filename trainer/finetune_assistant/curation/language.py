"""The language of a row's prose, told by py3langid, whose model of 140 languages is in its wheel.

In: the texts of a row. Out: an ISO 639 code, or None where they are too short to tell. Blocks of code, inline code and addresses are left
out first: their words are English in every language. Enough of the beginning of each text is looked at, not all of it.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from finetune_api.errors import InvalidData

TOO_SHORT: Final = "too short to tell its language"
OTHER_LANGUAGE: Final = "in another language"
_CODE: Final = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_NO_LANGUAGE: Final = ("zxx", "und")
# Characters of prose that are looked at, of one text and of all: a little first, and more where that leaves a doubt.
_LOOKS: Final = ((120, 240), (240, 480))
_SURE: Final = 0.9
_READ: Final = 4_000  # of a text, code included
# In UTF-8, so that seven Chinese characters are as much as twenty Latin letters.
_LEAST_BYTES: Final = 20
# Of 47 sentences of 15 to 60 bytes in twelve languages all are right and above it; "Thanks!", "Python" and "x = 3" are below 0.1.
_LEAST_PROBABILITY: Final = 0.3


def language_of(texts: Sequence[str]) -> str | None:
    """The likeliest language of the texts together.

    >>> language_of(["```\\nfor each in range(3): print(each)\\n```\\nWarum wird hier nur bis zwei gezählt?"])
    'de'
    >>> language_of(["Ok!"]) is None
    True
    """
    language, probability = "", 0.0
    for of_one, of_all in _LOOKS:
        prose = _prose(texts, of_one, of_all)
        if len(prose.encode()) < _LEAST_BYTES:
            return None
        # Small letters: its model learnt few capitals, and it lowers them by itself only where a text has nothing else.
        language, probability = _identifier().classify(prose.lower())
        if probability >= _SURE:
            break
    return None if probability < _LEAST_PROBABILITY or language in _NO_LANGUAGE else language


def check_languages(asked: Iterable[str]) -> None:
    """Refuse codes that the detector never answers. Raises InvalidData."""
    known = [label for label in _identifier().labels if label not in _NO_LANGUAGE]
    for code in asked:
        if code not in known:
            near = difflib.get_close_matches(code[:2].lower(), known, n=1, cutoff=0.9)
            hint = f"; is it {near[0]}?" if near else ""
            raise InvalidData(f"--language {code}: no code of ISO 639 that the detector knows{hint} (known: {', '.join(sorted(known))})")


def _prose(texts: Sequence[str], of_one: int, of_all: int) -> str:
    """What is left of the texts without code, the beginning of each."""
    found: list[str] = []
    left = of_all
    for text in texts:
        # Most texts have neither code nor addresses.
        start = text[:_READ]
        prose = _CODE.sub(" ", start) if "`" in start or "~~~" in start or "://" in start else start
        found.append(prose[: min(left, of_one)].strip())
        left -= len(found[-1])
        if left <= 0:
            break
    return "\n".join(found)


@cache
def _identifier() -> Any:
    """The model takes two thirds of a second to unpack."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
