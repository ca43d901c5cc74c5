"""A FineTuneJob as people write it: two levels in lines of their own, what is below them in braces, and comments at the ends of lines.

In: a name, the fields below spec, and a comment for a line. Out: YAML text, which YAML 1.1 and 1.2 read alike. What fields mean is not
known here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from finetune_api.keys import API_VERSION, KIND
from finetune_api.yaml_text import as_yaml

# Sections whose fields stand in lines of their own.
BLOCKS: Final = ("dataset", "training")
_LONGEST_COMMENT: Final = 160
# Text that no YAML reads otherwise, inside braces too: no number or date of any kind; `as_yaml` finds true, false and null.
_PLAIN_TEXT: Final = re.compile(r"(?:[A-Za-z_]|\.{0,2}/)[A-Za-z0-9_./@~+-]*(?:://?[A-Za-z0-9_./@~+-]+)?")
_WORDS_OF_YAML_1_1: Final = frozenset(("yes", "no", "on", "off", "y", "n"))


def job_text(header: Sequence[str], name: str, spec: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """The file. `comments` are keyed by lines: `model`, `training.epochs`, `dataset.sources[0]`; a field that is None has a comment alone.

    >>> spec = {"model": {"name": "org/m"}, "template": None, "training": {"epochs": 3}}
    >>> print(job_text([], "x", spec, {"training.epochs": "passes", "template": "ours is used"}))
    apiVersion: finetune.dev/v1alpha1
    kind: FineTuneJob
    metadata: {name: x}
    spec:
      model: {name: org/m}
      # template is absent: ours is used
      training:
        epochs: 3  # passes
    <BLANKLINE>
    """
    lines = [f"# {one_line(text)}" for text in header]
    lines += [f"apiVersion: {API_VERSION}", f"kind: {KIND}", f"metadata: {flow({'name': name})}", "spec:"]
    for section, value in spec.items():
        if value is None:
            lines.append(f"  # {section} is absent: {one_line(comments[section])}")
        elif section in BLOCKS:
            lines += [f"  {section}:{_end(comments.get(section))}", *_block(section, value, comments)]
        else:
            lines.append(f"  {section}: {flow(value)}{_end(comments.get(section))}")
    return "\n".join(lines) + "\n"


def _block(section: str, fields: Mapping[str, Any], comments: Mapping[str, str]) -> Iterator[str]:
    for name, value in fields.items():
        line = f"{section}.{name}"
        if value is None:
            yield f"    # {name} is absent: {one_line(comments[line])}"
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield f"    {name}:{_end(comments.get(line))}"
            yield from (f"    - {flow(item)}{_end(comments.get(f'{line}[{index}]'))}" for index, item in enumerate(value))
        else:
            yield f"    {name}: {flow(value)}{_end(comments.get(line))}"


def _end(comment: str | None) -> str:
    return f"  # {one_line(comment)}" if comment else ""


def one_line(text: str, longest: int = _LONGEST_COMMENT) -> str:
    """A comment's text: one line of it, without what YAML forbids."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 4].rstrip()} ..."


def flow(value: Any) -> str:
    """A value in one line.

    >>> flow({"name": "org/m", "tags": ["a, b", "1e3"], "learningRate": 2e-5, "private": True})
    '{name: org/m, tags: ["a, b", "1e3"], learningRate: 2.0e-5, private: true}'
    """
    match value:
        case dict():
            return "{" + ", ".join(f"{_text(name)}: {flow(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str():
            return _text(value)
        case float():
            return _number(value)
    return json.dumps(value)


def _text(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS_OF_YAML_1_1:
        return as_yaml(text)
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _number(value: float) -> str:
    """As YAML 1.1 reads it too: with a point before the exponent.

    >>> [_number(value) for value in (0.1, 2e-5, 1.5e-05, 1e16)]
    ['0.1', '2.0e-5', '1.5e-5', '1.0e+16']
    """
    mantissa, e, exponent = repr(value).partition("e")
    if not e:
        return mantissa
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{exponent[0]}{exponent[1:].lstrip('0')}"
