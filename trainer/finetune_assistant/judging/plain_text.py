"""A judge's reply as plain lines: without thoughts, markup, JSON and the digits of other scripts.

In: what a judge wrote. Out: lines of lower-case text with ASCII digits, in which keys of JSON and names of XML elements stand as
`name: value`. What a score is, `verdict` knows.
"""

import html
import json
import re
import unicodedata
from typing import Any

_THOUGHTS = re.compile(r"<(think|thinking|reasoning|reflection)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_CONTROL_TOKENS = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_BLOCK_ELEMENTS = re.compile(r"</?(?:p|br|div|li|ul|ol|h[1-6]|tr|table|html|body|head|title)\b[^<>]*>", re.IGNORECASE)
_ELEMENT_STARTS = re.compile(r"<([A-Za-z][\w-]*(?:score|rating|answer|assistant|overall)?[\w-]*)>")
_ELEMENTS = re.compile(r"</?[A-Za-z][^<>]*>")
_LATEX = re.compile(r"\\(?:boxed|text|mathbf|textbf)\s*\{([^{}]*)\}")
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_FULL_STARS = "\u2605\u2b50"
_STARS = re.compile("[\u2605\u2b50][\u2605\u2606\u2b50\ufe0f ]*")
_INLINE_ELEMENTS = {"b", "i", "em", "strong", "span", "u", "code", "pre", "sup", "sub", "a"}


def thoughts_removed(text: str) -> str | None:
    """What follows a reasoning model's thoughts; None when the reply ended before they did.

    >>> thoughts_removed("<think>7 7?</think>8 6"), thoughts_removed("<think>7 7, or")
    ('8 6', None)
    """
    unfinished = any(not found.group(2) for found in _THOUGHTS.finditer(text))
    return None if unfinished else _THOUGHTS.sub("", text)


def plain_lines(text: str) -> list[str]:
    """Lines without markup, empty ones left out.

    >>> plain_lines('**Assistant_1:** \uff17/8')
    ['assistant 1: 7/8']
    >>> plain_lines('{"scores": [7, 5], "why": "shorter"}')
    ['scores: 7 5', 'why: shorter']
    """
    text = _with_ascii_digits(_CONTROL_TOKENS.sub(" ", text))
    text = _without_elements(_json_as_lines(text))
    text = _STARS.sub(_counted, text)
    text = _LATEX.sub(r"\n\1\n", text)
    text = re.sub(r"\\(?:quad|qquad|,|;|\[|\]|\(|\))|[$*`\"\u201c\u201d\u201e\u300c\u300d]", " ", text)
    lines = (re.sub(r"^[\s#>\u2022]+|^\s*-\s+(?=\D)", "", line.replace("_", " ")) for line in text.splitlines())
    tidied = (" ".join(_bracketed(line).casefold().split()) for line in lines)
    return [line for line in tidied if line and not re.fullmatch(r"[-=~|: ]*|text|json|yaml|xml", line)]


def _counted(stars: "re.Match[str]") -> str:
    return f"{sum(character in _FULL_STARS for character in stars.group())} "


def _with_ascii_digits(text: str) -> str:
    """Halves as .5, and the digits of every script as 0 to 9; compatibility forms as their plain ones."""
    text = re.sub("(?<=\\d)\\s*\u00bd", ".5", text).replace("\ufeff", "").replace("\u20e3", " ").replace("\ufe0f", "").replace("\u200b", "")
    text = "\n".join(unicodedata.normalize("NFKC", line) for line in text.splitlines())
    return "".join(str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in text)


def _without_elements(text: str) -> str:
    text = _BLOCK_ELEMENTS.sub("\n", text)
    text = _ELEMENT_STARTS.sub(lambda found: " " if found.group(1).lower() in _INLINE_ELEMENTS else f"\n{found.group(1)}: ", text)
    return html.unescape(_ELEMENTS.sub(" ", text)).replace("\u00a0", " ")


def _json_as_lines(text: str) -> str:
    """An object in the reply as a line for each value; what is cut, or has the wrong quotes, as far as it goes."""
    found = _OBJECT.search(text)
    if found is not None:
        try:
            lines = _flat(json.loads(found.group()), "")
        except (ValueError, RecursionError):
            pass
        else:
            return "\n".join([text[: found.start()], *lines, text[found.end() :]])
    if re.search(r"[\"'][\w ]+[\"']\s*:", text):
        return re.sub(r"(?<=[:,{\[])\s*'|'\s*(?=[:,}\]])|[{}\"]", " ", re.sub(r",\s*(?=[\"'])|\{|\}", "\n", text))
    return text


def _flat(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flat(inner, f"{path} {key}".strip())]
    if isinstance(value, list) and not any(isinstance(inner, dict | list) for inner in value):
        return [f"{path}: {' '.join(map(str, value))}"]
    if isinstance(value, list):
        return [line for inner in value for line in _flat(inner, path)]
    return [f"{path}: {line}" for line in str(value).splitlines() or [""]]


def _bracketed(line: str) -> str:
    """Numbers in brackets without them, since there a comma never is a decimal point: `[7,5]` is two numbers."""
    line = re.sub(r"[\[(]\s*(\d(?:\.\d+)?)\s*[,;|]\s*(\d(?:\.\d+)?)\s*[\])]", r" \1 \2 ", line)
    return re.sub(r"\[+\s*(\d+(?:\.\d+)?)\s*\]+", r" \1 ", line)
