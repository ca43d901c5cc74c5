"""What closes an answer in somebody else's template: found by comparing a last answer with one that a turn follows.

In: the text after an answer that is the last message, and after one that is not. Out: the end that both have and that a model can
learn to stop at.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# What control tokens look like, for a tokenizer that doesn't name its own.
_USUAL = r"<[^\s<>]{1,40}>|\[/?[A-Z_]{2,30}\]"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """`token` closes an answer. `opened`: the last answer is left open, and this text, which a following turn begins with, closes it."""

    token: str
    opened: str | None = None


def token_pattern(tokens: Iterable[str]) -> str:
    """A regular expression of a control token: one of `tokens`, or what looks like one."""
    known = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token.strip())
    return f"{known}|{_USUAL}" if known else _USUAL


def find_end(last: str, followed: str | None, tokens: str) -> End | None:
    """`last`: after the last answer; `followed`: after an answer that a user's message follows, None if no turn may follow.

    None when nothing closes an answer.

    >>> find_end("<|end|>\\n<|endoftext|>", "<|end|>\\n<|user|>\\n", token_pattern([]))
    End(token='<|end|>', opened=None)
    >>> find_end("", "<|assistant_end|><|user_start|>", token_pattern([]))
    End(token='<|assistant_end|>', opened='<|assistant_end|>')
    """
    both = _common_beginning(last, followed) if followed is not None else last
    if not last.strip():
        opening = re.match(rf"\s*(?:{tokens})", followed or "")
        if opening is None or not opening.group().startswith(last):
            return None
        return End(token=opening.group().strip(), opened=opening.group()[len(last) :])
    found = list(re.finditer(tokens, last))
    shared = [match.group() for match in found if match.end() <= len(both)]
    if shared:
        return End(token=shared[-1])
    if both.startswith(last.rstrip()):
        return End(token=last.strip())
    # Told apart from the ends before it: such a template gives one example a turn.
    return End(token=found[-1].group()) if found else None


def _common_beginning(first: str, second: str) -> str:
    length = next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    return first[:length]


def end_of(text: str, start: int, end: End, tokens: str) -> int | None:
    """Where the answer that begins at `start` and is the last of `text` ends; None when nothing closes it."""
    if end.opened is not None:
        return len(text)
    at = text.rfind(end.token, start)
    if at >= 0 and re.fullmatch(rf"(?:\s|{tokens})*", text[at + len(end.token) :]):
        return at + len(end.token)
    # A call may be closed by a token of its own.
    closing = text[start:].rstrip()
    found = [match.end() for match in re.finditer(tokens, closing)]
    return start + len(closing) if found and found[-1] == len(closing) else None
