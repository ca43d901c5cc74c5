"""Rendering a Jinja chat template as Transformers does, under limits, and where its `{% generation %}` marks are.

In: a Jinja text that somebody else wrote, and what it may see. Out: text, and character spans. The environment is that of
`apply_chat_template` (a test compares the two); transformers itself takes seconds to import and is not needed for it. A template can
loop for ever or eat memory: it is tried in a process of its own first (`trial`), and here output and products of its texts are bounded.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Characters that no text may hold (Unicode calls them noncharacters): they mark what is learnt in a rendering.
LEARNT_FROM, LEARNT_TO = "\ufdd0", "\ufdd1"
_LEARNT = re.compile(f"[{LEARNT_FROM}{LEARNT_TO}]")
_MOST_CHARACTERS = 1 << 20  # beside what a conversation explains
_CHARACTERS_FOR_ONE = 64  # characters of output that one character of a conversation explains
_SECONDS = 60.0
_PIECES = 64  # of a rendering, between two looks at its size and at the time


class TemplateRefused(Exception):
    """A template can't take a conversation; the message says why."""


class _Generation(Extension):
    """`{% generation %}` .. `{% endgeneration %}`: what is between is learnt."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's name

    def parse(self, parser: Parser) -> nodes.Node:
        """A block whose text comes out between marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{LEARNT_FROM}{caller()}{LEARNT_TO}"


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which also refuses products that no conversation explains. Sums are not watched: they are most of a template's work."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Bounded before it is computed."""
        sizes = [len(each) if isinstance(each, (str, list, tuple)) else abs(each) for each in (left, right) if _countable(each)]
        if operator == "**" and len(sizes) == 2 and (sizes[0] > 1 << 16 or sizes[1] > 64):
            raise TemplateRefused("it computes numbers that no conversation explains")
        repeats = isinstance(left, (str, list, tuple)) != isinstance(right, (str, list, tuple))
        if repeats and len(sizes) == 2 and sizes[0] * sizes[1] > _MOST_CHARACTERS:
            raise TemplateRefused("it writes more than any conversation explains")
        return super().call_binop(context, operator, left, right)


def _countable(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, int, float))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """JSON as it is written outside web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(source)


def render(
    source: str,
    conversation: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    generation_prompt: bool,
    variables: Mapping[str, Any],
    day: date,
) -> str:
    """The template's text, with LEARNT_FROM and LEARNT_TO around what it marks. Raises TemplateRefused, and nothing else."""

    def strftime_now(form: str) -> str:
        return datetime(day.year, day.month, day.day).strftime(form)

    limit = _MOST_CHARACTERS + _CHARACTERS_FOR_ONE * (sum(len(str(message)) for message in conversation) + len(str(tools)))
    written: list[str] = []
    size, deadline = 0, time.monotonic() + _SECONDS
    try:
        pieces = _compiled(source).generate(
            **{"strftime_now": strftime_now, **variables},
            messages=conversation,
            tools=tools or None,
            documents=None,
            add_generation_prompt=generation_prompt,
        )
        while some := list(islice(pieces, _PIECES)):
            written += some
            size += sum(map(len, some))
            if size > limit:
                raise TemplateRefused(f"it writes more than {limit:,} characters")
            if time.monotonic() > deadline:
                raise TemplateRefused(f"it takes more than {_SECONDS:.0f} s")
    except TemplateRefused:
        raise
    except jinja2.TemplateError as error:
        raise TemplateRefused(error.message or type(error).__name__) from None
    except (MemoryError, RecursionError) as error:
        raise TemplateRefused(f"it asks for too much memory ({type(error).__name__})") from None
    except Exception as error:  # a template is a program: anything can go wrong in it, and the conversation is what it can't take
        raise TemplateRefused(str(error) or type(error).__name__) from None
    return "".join(written)


def without_marks(text: str) -> tuple[str, tuple[range, ...]]:
    """The text itself, and what its marks enclose. Marks inside marks are one.

    >>> without_marks("a\\ufdd0bc\\ufdd1d")
    ('abcd', (range(1, 3),))
    """
    if LEARNT_FROM not in text:
        return text, ()
    pieces, spans, position, depth, start, end = [], [], 0, 0, 0, 0
    for mark in _LEARNT.finditer(text):
        pieces.append(text[end : mark.start()])
        position += mark.start() - end
        end = mark.end()
        if mark.group() == LEARNT_FROM:
            start = position if depth == 0 else start
            depth += 1
        else:
            depth -= 1
            if depth == 0 and position > start:
                spans.append(range(start, position))
    pieces.append(text[end:])
    return "".join(pieces), tuple(spans)
