"""Messages as a Jinja template sees them, and with marks in the place of what people wrote.

In: messages. Out: the dictionaries that `apply_chat_template` would be given; the same with a mark for each text, so that a rendering
shows where texts end up; and the real text laid over the marked one.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

from finetune_trainer.data.dialogues import Message
from finetune_trainer.templates.turns import Unrendered, Written

# U+E000 and U+E001 are for private use: templates have no reason to write them.
_MARK = re.compile("\ue000([cr])(\\d+)\ue001")
Empty = Literal["text", "absent", "null"]


class CallStyle(NamedTuple):
    """How a template wants tool calls: arguments as an object or as JSON, and what stands for no content beside them."""

    arguments: Literal["object", "json"] = "object"
    empty: Empty = "text"


def mark(kind: Literal["c", "r"], index: int) -> str:
    """Stands for the content (c) or the reasoning (r) of a message."""
    return f"\ue000{kind}{index}\ue001"


def shown(text: str) -> str:
    """A marked text, or a part of one, for a message to people."""
    return re.sub("\ue000[^\ue001]*\ue001?", "(text)", text)


def payload(messages: Sequence[Message], style: CallStyle, *, marked: bool = False) -> list[dict[str, Any]]:
    """As `apply_chat_template` is given them, in the words of Transformers."""
    return [_payload(message, index, style, marked) for index, message in enumerate(messages)]


def _payload(message: Message, index: int, style: CallStyle, marked: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": mark("c", index) if marked and message.content else message.content}
    if message.tool_calls:
        value["tool_calls"] = [_call(call, style) for call in message.tool_calls]
        if not message.content and style.empty != "text":
            value = value | {"content": None} if style.empty == "null" else {name: value[name] for name in value if name != "content"}
    if message.reasoning:
        # Both names are read: transformers fills in the older one.
        value["reasoning_content"] = value["thinking"] = mark("r", index) if marked else message.reasoning
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            value[name] = getattr(message, name)
    return value


def _call(call: dict[str, Any], style: CallStyle) -> dict[str, Any]:
    if style.arguments == "object":
        return call
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function.get("arguments"), ensure_ascii=False)}}


def variants(text: str) -> tuple[str, ...]:
    """How templates write a text: as it is, without white space at its ends, as the inside of a JSON string."""
    without = text.strip()
    if without == text and text.isprintable() and '"' not in text and "\\" not in text:
        return (text,)
    quoted = (json.dumps(each, ensure_ascii=False)[1:-1] for each in (text, without))
    return tuple(dict.fromkeys((text, without, text.lstrip(), text.rstrip(), text.strip("\n"), *quoted)))


@dataclass(frozen=True)
class Skeleton:
    """A marked text, in pieces."""

    text: str
    fixed: tuple[str, ...]  # what the template wrote: before each mark, and after the last one
    marks: tuple[tuple[str, int], ...]  # kind and message
    starts: tuple[int, ...]  # where each mark begins
    stops: tuple[int, ...]  # and where it ends

    @classmethod
    def of(cls, text: str) -> "Skeleton":
        """Taken apart at its marks."""
        fixed, marks, starts, stops, position = [], [], [], [], 0
        for found in _MARK.finditer(text):
            start, stop = found.span()
            fixed.append(text[position:start])
            marks.append((found[1], int(found[2])))
            starts.append(start)
            stops.append(stop)
            position = stop
        return cls(text, (*fixed, text[position:]), tuple(marks), tuple(starts), tuple(stops))

    def laid_over(self, real: str, messages: Sequence[Message]) -> "Overlay":
        """`real` is the same rendering with texts instead of marks. Raises Unrendered where it says something else."""
        real_at, written, altered = [0], [], 0
        if not real.startswith(self.fixed[0]):
            raise self._changed(0, messages)
        position = len(self.fixed[0])
        for number, ((kind, index), following) in enumerate(zip(self.marks, self.fixed[1:], strict=True)):
            message = messages[index]
            text = message.content if kind == "c" else message.reasoning or ""
            stop = position + len(text)
            if not (real.startswith(text, position) and real.startswith(following, stop)):
                stop = self._otherwise(real, position, text, following)
                if stop < 0:
                    raise self._changed(number + 1, messages)
                altered += 1
            written.append(Written(position, stop, message.role, index))
            real_at += (position, stop)
            position = stop + len(following)
        if position != len(real):
            raise self._changed(len(self.marks), messages)
        return Overlay(self, tuple(real_at), tuple(written), altered)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The text's beginning, and each mark's beginning and end."""
        return (0, *chain.from_iterable(zip(self.starts, self.stops, strict=True)))

    @staticmethod
    def _otherwise(real: str, position: int, text: str, following: str) -> int:
        """Where `text` ends that the template writes otherwise than it is; -1: it isn't there."""
        for variant in variants(text):
            stop = position + len(variant)
            if real.startswith(variant, position) and real.startswith(following, stop):
                return stop
        return -1

    def _changed(self, number: int, messages: Sequence[Message]) -> Unrendered:
        index = self.marks[max(number - 1, 0)][1] if self.marks else 0
        return Unrendered(f"message {index + 1} ({messages[index].role}): the template changes its text, or what is around it")


@dataclass(frozen=True, slots=True)
class Overlay:
    """Positions of a marked text in the real one."""

    skeleton: Skeleton
    real_at: tuple[int, ...]  # where the bounds of the skeleton are
    written: tuple[Written, ...]
    altered: int

    def real(self, position: int) -> int:
        """Where `position` of the marked text, which is in no mark, is in the real one."""
        bounds = self.skeleton.bounds
        index = bisect_right(bounds, position) - 1
        return self.real_at[index] + position - bounds[index]
