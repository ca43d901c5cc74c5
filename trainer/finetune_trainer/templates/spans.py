"""Where answers are in the rendering of a template: proven by rendering, not by reading the template.

In: a way to render the first messages of a dialogue, with marks in the place of texts. Out: for each answer the range from where its
prompt ends to where it is closed, or the reason why there is none. A short dialogue is proven turn by turn; of a long one the first
turns and the last, and that all others have the same frames, so that the cost grows with the text and not with its square.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.dialogues import Message
from finetune_trainer.templates.conversation import Skeleton, shown
from finetune_trainer.templates.ends import End, end_of
from finetune_trainer.templates.rendering import TemplateRefused

_EXACTLY = 16  # answers that are proven one by one
_FIRST = 3  # of a longer dialogue
_MOST_EXACT = 48
_END_CHARACTERS = 8  # of a call, whose text is like no other's

# (how many messages, with a generation prompt) -> the marked text
Render = Callable[[int, bool], str]


@dataclass(slots=True, kw_only=True)
class Proof:
    """A dialogue's marked renderings, each made once."""

    render: Render
    messages: Sequence[Message]
    end: End
    tokens: str
    reasons: dict[int, str] = field(default_factory=dict)  # why an answer could not be found
    texts: dict[tuple[Any, bool], str] = field(default_factory=dict)  # shared by dialogues that begin alike
    _skeletons: dict[int, Skeleton] = field(default_factory=dict)
    key: Callable[[int], Any] = int  # what the first messages have in common with those of other dialogues

    def text(self, count: int, prompt: bool = False) -> str:
        """Raises TemplateRefused."""
        key = (self.key(count), prompt)
        if key not in self.texts:
            self.texts[key] = self.render(count, prompt)
        return self.texts[key]

    def skeleton(self, count: int) -> Skeleton:
        """The text in pieces. Raises TemplateRefused."""
        if count not in self._skeletons:
            self._skeletons[count] = Skeleton.of(self.text(count))
        return self._skeletons[count]

    def answers(self, count: int, targets: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Those of `targets` that stand in the rendering of the first `count` messages as they stand when they come last."""
        if len(targets) <= _EXACTLY:
            return self._exactly(count, targets)
        return self._by_frames(count, targets)

    def _exactly(self, count: int, targets: Sequence[int]) -> dict[int, tuple[int, int]]:
        found = {target: self._one(count, target) for target in targets}
        return {target: span for target, span in found.items() if span is not None}

    def _one(self, count: int, target: int) -> tuple[int, int] | None:
        whole = self.text(count)
        try:
            prompt, until = self.text(target, True), self.text(target + 1)
        except TemplateRefused as error:
            self.reasons[target] = f"the template refuses its beginning ({error})"
            return None
        if not until.startswith(prompt):
            self.reasons[target] = _no_prefix(prompt, until)
            return None
        stop = end_of(until, len(prompt), self.end, self.tokens)
        if stop is None or stop == len(prompt):
            self.reasons[target] = "the template closes this answer with no token, so the model would never stop"
            return None
        if not whole.startswith(until[:stop]):
            self.reasons[target] = "the template writes an answer otherwise when the dialogue goes on"
            return None
        if self.end.opened is not None and len(whole) > stop:
            closing = re.match(rf"\s*(?:{self.tokens})", whole[stop:])
            stop += closing.end() if closing else 0
        return len(prompt), stop

    def _by_frames(self, count: int, targets: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The first answers and the last one exactly, and the rest by the texts around them, which must be the same."""
        whole = self.text(count)
        places = _Places(self.skeleton(count))
        found = self._exactly(count, [*targets[:_FIRST], targets[-1]])
        frames: dict[object, set[_Frame]] = {}
        for target, (start, stop) in found.items():
            frames.setdefault(self._kind(target, count), set()).add(
                places.frame(whole, target, (start, stop), bool(self.messages[target].tool_calls))
            )
        exact = 0
        for target in targets[_FIRST:-1]:
            spans = {span for frame in frames.get(self._kind(target, count), ()) if (span := places.fitted(whole, target, frame))}
            if len(spans) == 1:
                found[target] = spans.pop()
                continue
            exact += 1
            if exact > _MOST_EXACT:
                self.reasons[target] = "the dialogue is too long to prove each of its answers, and they have different frames"
                continue
            span = self._one(count, target)
            if span is not None:
                found[target] = span
                frames.setdefault(self._kind(target, count), set()).add(
                    places.frame(whole, target, span, bool(self.messages[target].tool_calls))
                )
        return dict(sorted(found.items()))

    def _kind(self, target: int, count: int) -> object:
        """Answers of one kind have the same frame."""
        message = self.messages[target]
        before = self.messages[target - 1].role if target else None
        after = self.messages[target + 1].role if target + 1 < count else None
        return before, after, bool(message.content), bool(message.reasoning), bool(message.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """What is around an answer: up to its start; from there to its text, if that is all it has; after its text; from its stop on."""

    before: str
    opening: str | None
    closing: str
    whole: bool  # `closing` is all that is after the text, and not only its end
    after: str


class _Places:
    """The marks of a text by message."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._length = len(skeleton.text)
        self._messages = [index for _, index in skeleton.marks]
        self._starts = skeleton.starts
        self._stops = skeleton.stops

    def _around(self, target: int) -> tuple[int, int, int, int]:
        """Where the text before ends; where the answer's own marks begin and end; where the text after begins."""
        first, last = bisect_left(self._messages, target), bisect_left(self._messages, target + 1)
        before = self._stops[first - 1] if first else 0
        after = self._starts[last] if last < len(self._starts) else self._length
        own = (self._starts[first], self._stops[last - 1]) if last > first else (after, before)
        return before, *own, after

    def frame(self, text: str, target: int, span: tuple[int, int], has_calls: bool) -> _Frame:
        """What is around an answer that was found at `span`."""
        before, own_start, own_stop, after = self._around(target)
        start, stop = span
        whole = own_start < own_stop and not has_calls
        return _Frame(
            before=text[before:start],
            opening=text[start:own_start] if own_start < own_stop else None,
            closing=text[own_stop:stop] if whole else text[max(stop - _END_CHARACTERS, start) : stop],
            whole=whole,
            after=text[stop:after],
        )

    def fitted(self, text: str, target: int, frame: _Frame) -> tuple[int, int] | None:
        """The answer's range, if it has that frame."""
        before, own_start, own_stop, after = self._around(target)
        start, stop = before + len(frame.before), after - len(frame.after)
        if not (start < stop and text.startswith(frame.before, before) and text.startswith(frame.after, stop)):
            return None
        if frame.opening is not None and text[start:own_start] != frame.opening:
            return None
        closing = text[own_stop:stop] if frame.whole else text[stop - len(frame.closing) : stop]
        return (start, stop) if closing == frame.closing else None


def _no_prefix(prompt: str, text: str) -> str:
    """Where a prompt and the training text part."""
    at = next((index for index, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), min(len(prompt), len(text)))
    return (
        f"the prompt is no beginning of the training text: where the prompt has {shown(prompt[at : at + 30])!r}, "
        f"the training text has {shown(text[at : at + 30])!r}"
    )
