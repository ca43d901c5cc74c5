"""Chat templates in Jinja: the one that came with a model's tokenizer (`template: model`) and the user's own (`jinja`).

In: a Jinja text that somebody else wrote. Out: the text that `apply_chat_template` gives, and what of it is an answer. `{% generation %}`
marks say it where there are any; else it is found by rendering (`spans`): an answer begins where its prompt ends and ends with what
closes it. A dialogue that the template can't take is one bad row. What the template is like is found once, in `probe`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from finetune_trainer.data.dialogues import Message
from finetune_trainer.templates.conversation import CallStyle, Overlay, Skeleton, payload
from finetune_trainer.templates.ends import End
from finetune_trainer.templates.rendering import TemplateRefused, render, without_marks
from finetune_trainer.templates.spans import Proof
from finetune_trainer.templates.turns import Answer, Masking, Rendered, Tools, Turn, Unrendered

_MOST_PLANS = 512
_LONGEST_PLAN = 256  # messages of a dialogue whose plan is kept

_Shape = tuple[tuple[str, bool, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A template and all that it may see beside a conversation."""

    text: str
    variables: Mapping[str, Any]  # bos_token, eos_token, ..., and the job's `template.variables`
    day: date  # today, for templates that ask: one day for a whole run
    chosen: tuple[str, ...] = ()  # names of the variables that the job sets

    def render(self, conversation: Sequence[Mapping[str, Any]], tools: Tools, generation_prompt: bool = False) -> str:
        """With marks of what is learnt. Raises TemplateRefused."""
        return render(self.text, conversation, tools=tools, generation_prompt=generation_prompt, variables=self.variables, day=self.day)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a template is like, as trying it has shown."""

    end: End
    tokens: str  # a regular expression of its control tokens
    marked: bool  # it says itself what is learnt
    calls: CallStyle | None  # None: it has no tool calls
    reasoning: bool  # it writes reasoning
    turn_tokens: frozenset[str]
    lead: str = ""  # white space that it writes between a prompt and an answer
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One text of a dialogue: its first `count` messages, where answers are in the marked text, and whether an end is to be added."""

    count: int
    skeleton: Skeleton
    answers: dict[int, tuple[int, int]]
    open_answer: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTemplate:
    """Renders like `tokenizer.apply_chat_template`, and refuses dialogues whose answers can't be found."""

    name: str
    source: Source
    facts: Facts
    system_text: str | None  # None: whatever the template does without a system message
    masking: Masking = "assistant"
    most_examples: int = 8
    _plans: dict[tuple[_Shape, tuple[int, ...]], list[_Plan]] = field(default_factory=dict, compare=False, repr=False)
    _texts: dict[tuple[Any, bool], str] = field(default_factory=dict, compare=False, repr=False)  # marked beginnings of dialogues

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """None: the model knows its tokens."""
        return ()

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        return None

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """What closes an answer."""
        return (self.facts.end.token,) if self.facts.end.token else ()

    @property
    def turn_tokens(self) -> frozenset[str]:
        return self.facts.turn_tokens

    @property
    def notes(self) -> tuple[str, ...]:
        return self.facts.notes

    @property
    def answer_lead(self) -> str:
        return self.facts.lead

    @property
    def answers_stand_alone(self) -> bool:
        """Many templates refuse a dialogue that begins with an answer."""
        return False

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn] | None:
        """A whole text is encoded at once, as an engine does."""
        return None

    def renderings(self, messages: Sequence[Message], tools: Tools, targets: Sequence[int]) -> list[Rendered]:
        """One text, or one for each answer that the template writes otherwise once the dialogue goes on. Raises Unrendered."""
        told, shift = self._told(messages)
        self._check_calls(told, tools)
        if not targets:
            return []
        if self.facts.marked:
            return [self._marked(told, tools, shift)]
        plans = self._planned(told, tools, tuple(target + shift for target in targets))
        return [self._filled(plan, told, tools, shift) for plan in plans]

    def prompt(self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = True) -> Rendered:
        """With the answers that are in it, so that it is encoded as training encodes them."""
        told, shift = self._told(messages)
        self._check_calls(told, tools)
        try:
            proof = self._proof(told, tools)
            text = proof.text(len(told), generation_prompt)
            answers: dict[int, tuple[int, int]] = {}
            if not self.facts.marked and (asked := [index for index, message in enumerate(told) if message.role == "assistant"]):
                answers = proof.answers(len(told), asked)
            real = self._text(told, tools, generation_prompt)
        except TemplateRefused as error:
            raise Unrendered(str(error)) from None
        skeleton = Skeleton.of(text)
        overlay = skeleton.laid_over(real, told)
        whole = len(text) if generation_prompt else None
        kept = {index: span for index, span in answers.items() if whole is None or text.startswith(proof.text(index, True))}
        return self._rendered(real, overlay, kept, told, shift)

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """Raises Unrendered."""
        try:
            return self._text(self._told(messages)[0], (), generation_prompt)
        except TemplateRefused as error:
            raise Unrendered(str(error)) from None

    def chat_template(self) -> str:
        """As it came, but that the job's variables are its defaults: an engine asks as the model was trained."""
        chosen = "".join(
            f"{{% set {name} = {name} if {name} is defined else {_literal(self.source.variables[name])} %}}" for name in self.source.chosen
        )
        # A block takes the newline that follows it.
        return chosen + ("\n" if chosen and self.source.text.startswith("\n") else "") + self.source.text

    def to_json(self) -> str:
        facts = asdict(self.facts) | {"turn_tokens": sorted(self.facts.turn_tokens), "notes": []}
        facts["calls"] = None if self.facts.calls is None else self.facts.calls._asdict()
        value = {
            "version": 2,
            "name": self.name,
            "chatTemplate": self.source.text,
            "variables": dict(self.source.variables),
            "chosen": list(self.source.chosen),
            "date": self.source.day.isoformat(),
            "facts": facts,
            "systemText": self.system_text,
            "masking": self.masking,
        }
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> "ModelTemplate":
        """The template of a parsed dialogue_template.json."""
        source = Source(
            text=value["chatTemplate"], variables=value["variables"], day=date.fromisoformat(value["date"]), chosen=tuple(value["chosen"])
        )
        facts = dict(value["facts"])
        facts["end"] = End(**facts["end"])
        facts["calls"] = None if facts["calls"] is None else CallStyle(**facts["calls"])
        facts["turn_tokens"], facts["notes"] = frozenset(facts["turn_tokens"]), ()
        return cls(name=value["name"], source=source, facts=Facts(**facts), system_text=value["systemText"], masking=value["masking"])

    def _told(self, messages: Sequence[Message]) -> tuple[list[Message], int]:
        """The messages as the template gets them, and how many more they are. An empty system message is none."""
        if messages and messages[0].role == "system":
            return (list(messages), 0) if messages[0].content.strip() else (list(messages[1:]), -1)
        if self.system_text:
            return [Message(role="system", content=self.system_text), *messages], 1
        return list(messages), 0

    def _check_calls(self, messages: Sequence[Message], tools: Tools) -> None:
        if self.facts.calls is None and (tools or any(message.tool_calls or message.role == "tool" for message in messages)):
            raise Unrendered("the row has tool calls or tools, and the template writes none")

    def _text(self, messages: Sequence[Message], tools: Tools, generation_prompt: bool = False) -> str:
        text = self.source.render(payload(messages, self.facts.calls or CallStyle()), tools, generation_prompt)
        return without_marks(text)[0]

    def _proof(self, messages: Sequence[Message], tools: Tools) -> Proof:
        marked = payload(messages, self.facts.calls or CallStyle(), marked=True)

        def rendered(count: int, prompt: bool) -> str:
            return without_marks(self.source.render(marked[:count], tools, prompt))[0]

        proof = Proof(render=rendered, messages=messages, end=self.facts.end, tokens=self.facts.tokens)
        if _is_plain(messages, tools):
            # The marked beginnings of dialogues of one shape are the same text.
            shape = _shape(messages)
            if len(self._texts) >= _MOST_PLANS:
                self._texts.clear()
            proof.texts, proof.key = self._texts, lambda count: shape[:count]
        return proof

    def _planned(self, messages: Sequence[Message], tools: Tools, targets: tuple[int, ...]) -> list[_Plan]:
        """Dialogues of one shape, without tools, have one plan."""
        if not _is_plain(messages, tools):
            return self._plan(messages, tools, targets)
        shape = _shape(messages)
        if (shape, targets) not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[shape, targets] = self._plan(messages, tools, targets)
        return self._plans[shape, targets]

    def _plan(self, messages: Sequence[Message], tools: Tools, targets: tuple[int, ...]) -> list[_Plan]:
        proof = self._proof(messages, tools)
        plans: list[_Plan] = []
        remaining = list(targets)
        try:
            while remaining and len(plans) < self.most_examples:
                count = len(messages) if not plans else remaining[-1] + 1
                answers = proof.answers(count, remaining)
                if not answers and count == remaining[-1] + 1:
                    raise Unrendered(f"message {remaining[-1] + 1}: {proof.reasons[remaining[-1]]}")
                if answers or plans:
                    skeleton = proof.skeleton(count)
                    _check_marks(skeleton, messages[:count])
                    last = answers.get(count - 1)
                    is_open = self.facts.end.opened is not None and last is not None and last[1] == len(proof.text(count))
                    plans.append(_Plan(count=count, skeleton=skeleton, answers=answers, open_answer=count - 1 if is_open else None))
                    remaining = [target for target in remaining if target not in answers]
                else:
                    messages = messages[: remaining[-1] + 1]  # what follows the last answer is in the way
        except TemplateRefused as error:
            raise Unrendered(str(error)) from None
        return plans[::-1]

    def _filled(self, plan: _Plan, messages: Sequence[Message], tools: Tools, shift: int) -> Rendered:
        """The real text of a plan."""
        told = messages[: plan.count]
        try:
            real = self._text(told, tools)
        except TemplateRefused as error:
            raise Unrendered(str(error)) from None
        overlay = plan.skeleton.laid_over(real, told)
        _check_written(real, told)
        found = self._rendered(real, overlay, plan.answers, told, shift)
        if plan.open_answer is None:
            return found
        *others, last = found.answers
        text = real + (self.facts.end.opened or "")
        return Rendered(
            text=text,
            answers=(*others, last._replace(stop=len(text))),
            written=found.written,
            altered=found.altered,
            closed=True,
            reasoning_left_out=found.reasoning_left_out,
        )

    def _rendered(
        self, real: str, overlay: Overlay, answers: Mapping[int, tuple[int, int]], messages: Sequence[Message], shift: int
    ) -> Rendered:
        spans = ((index - shift, overlay.real(start), overlay.real(stop)) for index, (start, stop) in sorted(answers.items()))
        return Rendered(
            text=real,
            answers=tuple(Answer(index, start, start, stop) for index, start, stop in spans),
            written=overlay.written,
            altered=overlay.altered,
            reasoning_left_out=0 if self.facts.reasoning else sum(message.reasoning is not None for message in messages),
        )

    def _marked(self, messages: Sequence[Message], tools: Tools, shift: int) -> Rendered:
        """By the template's own marks: one for each assistant message."""
        style = self.facts.calls or CallStyle()
        try:
            real, spans = without_marks(self.source.render(payload(messages, style), tools))
            marked = without_marks(self.source.render(payload(messages, style, marked=True), tools))[0]
        except TemplateRefused as error:
            raise Unrendered(str(error)) from None
        skeleton = Skeleton.of(marked)
        _check_marks(skeleton, messages)
        _check_written(real, messages)
        overlay = skeleton.laid_over(real, messages)
        return Rendered(
            text=real,
            answers=tuple(Answer(index - shift, span.start, span.start, span.stop) for index, span in _by_answer(spans, overlay, messages)),
            written=overlay.written,
            altered=overlay.altered,
            reasoning_left_out=0 if self.facts.reasoning else sum(message.reasoning is not None for message in messages),
        )


def _literal(value: Any) -> str:
    """A value in Jinja, whose words for JSON's are its own."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _is_plain(messages: Sequence[Message], tools: Tools) -> bool:
    """Whether a dialogue is nothing but text, and short enough to be remembered by its shape."""
    return not tools and len(messages) <= _LONGEST_PLAN and not any(message.tool_calls or message.role == "tool" for message in messages)


def _shape(messages: Sequence[Message]) -> _Shape:
    return tuple((message.role, bool(message.content), bool(message.reasoning)) for message in messages)


def _by_answer(spans: Sequence[range], overlay: Overlay, messages: Sequence[Message]) -> list[tuple[int, range]]:
    """Marked texts with the answer that each belongs to: the one whose text it holds, else the first without one before the next text."""
    assistants = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if len(spans) == len(assistants):
        return list(zip(assistants, spans, strict=True))
    found: list[tuple[int, range]] = []
    for span in spans:
        inside = [each.message for each in overlay.written if each.role == "assistant" and span.start <= each.start < span.stop]
        before = [each.message for each in overlay.written if each.start < span.start]
        last = max(before, default=-1)
        # A call has no text of its own: it belongs to an answer before the next message of others.
        open_calls = [index for index in assistants if index > last and not messages[index].content]
        owner = inside[0] if inside else last if last in assistants else open_calls[0] if open_calls else None
        if owner is None or (found and owner < found[-1][0]):
            raise Unrendered(f"the template marks {len(spans)} texts as learnt, which don't belong to the {len(assistants)} answers")
        found.append((owner, span))
    missing = set(assistants) - {owner for owner, _ in found}
    if missing:
        raise Unrendered(f"message {min(missing) + 1}: the template marks nothing of it as learnt")
    return found


def _check_marks(skeleton: Skeleton, messages: Sequence[Message]) -> None:
    """Every text is there; answers once and in order. Raises Unrendered."""
    contents = [index for kind, index in skeleton.marks if kind == "c"]
    missing = {index for index, message in enumerate(messages) if message.content} - set(contents)
    if missing:
        index = min(missing)
        raise Unrendered(f"message {index + 1} ({messages[index].role}): the template leaves its text out")
    answers = [index for index in contents if messages[index].role == "assistant"]
    if answers != sorted(set(answers)):
        raise Unrendered("the template repeats or reorders answers")


def _check_written(text: str, messages: Sequence[Message]) -> None:
    """Every call is there. Raises Unrendered."""
    position = 0
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls, start=1):
            name = str(call.get("function", {}).get("name", ""))
            found = text.find(name, position)
            if found < 0:
                raise Unrendered(f"message {index + 1}: the template leaves out call {number} ({name})")
            position = found + len(name)
