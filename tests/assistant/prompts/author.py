"""What a model at an endpoint writes when it is asked for prompts."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count

_ASKED = re.compile(r"Write (\d+) requests about (\S+?)\. Each (asks|shows)")
_SUBJECTS = ("boats", "bridges", "choirs", "clocks", "deserts", "engines", "farms", "glaciers", "harbours", "islands", "kites", "lakes")


def asked_for(messages: Sequence[Mapping[str, str]]) -> tuple[int, str, str]:
    """(how many, language, kind)."""
    found = _ASKED.match(messages[-1]["content"])
    assert found is not None, messages[-1]["content"]
    return int(found[1]), found[2], "write" if found[3] == "asks" else "review"


class Writer:
    """Never writes the same twice."""

    def __init__(self) -> None:
        self._numbers = count()

    def text(self, kind: str, language: str) -> str:
        """One prompt; no two of them have three words in a row in common."""
        number = next(self._numbers)
        one, two = (_SUBJECTS[(number * step + step) % len(_SUBJECTS)] for step in (1, 7))
        text = f"{one}{number} sorts{number} {two}{number} by{number} weight{number} and{number} colour{number} in{number} {language}"
        return f"{text}:\n```{language}\nshow{number}({number})\n```" if kind == "review" else text

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        """As much as was asked for."""
        number, language, kind = asked_for(messages)
        return f"Here they are:\n{json.dumps([self.text(kind, language) for _ in range(number)])}"
