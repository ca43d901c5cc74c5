"""What a chat template is like, found by trying it: how it closes answers, whether it has tool calls, what it writes of its own.

In: a template and a tokenizer's control tokens. Out: its `Facts`, or a refusal with the reason. Nothing is decided by looking for a
word in the template: a call or a text is there when it comes out.
"""

import re
from collections.abc import Sequence
from datetime import date
from itertools import product
from typing import Any, get_args

from finetune_api.errors import InvalidModel
from finetune_trainer.data.dialogues import Message
from finetune_trainer.templates.conversation import CallStyle, Empty, Skeleton, mark, payload
from finetune_trainer.templates.ends import End, find_end, token_pattern
from finetune_trainer.templates.model import Facts, Source
from finetune_trainer.templates.rendering import TemplateRefused, without_marks
from finetune_trainer.templates.spans import Proof

REMEDY = "use one of our templates, for example spec.template.name: default"
_ENDS = "use one whose answers end with a token, such as spec.template.name: plain, or give it with an end as spec.template.jinja"
_CALL = {"type": "function", "id": "call00001", "function": {"name": "sentinel_name", "arguments": {"sentinel_key": "sentinel_value"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "sentinel_tool",
        "description": "A function.",
        "parameters": {"type": "object", "properties": {"sentinel_key": {"type": "string", "description": "A text."}}, "required": []},
    },
}
_PLAIN = CallStyle()
_QUESTION = Message(role="user", content="question")
_ANSWER = Message(role="assistant", content="answer")
# Parts of answers, wherever a template writes them.
_PAIRED = frozenset(f"<{name}>" for name in ("think", "thinking", "reasoning", "tool_call", "tool_calls", "answer", "response"))
_OWN_WORDS = re.compile(r"[A-Za-z][\w',.:-]*(?: [\w',.:-]+){2,}")


def probed(source: Source, tokens: Sequence[str]) -> Facts:
    """Raises InvalidModel when nothing can be learnt with the template."""
    pattern = token_pattern(tokens)
    exchange = [_QUESTION, _ANSWER]
    calls = _call_style(source)
    written, marks = _first(source, exchange)
    skeleton = Skeleton.of(written)
    contents = [index for kind, index in skeleton.marks if kind == "c"]
    if contents.count(1) != 1 or 0 not in contents:
        raise InvalidModel(f"the chat template leaves out, repeats or changes the text of messages; {REMEDY}")
    followed = _followed(source, exchange)
    end = find_end(skeleton.fixed[-1], followed, pattern)
    if end is None and not marks:
        closes = f"{skeleton.fixed[-1]}{followed or ''}"
        with_what = "white space alone" if closes[: len(closes) - len(closes.lstrip())] else "nothing"
        raise InvalidModel(f"the chat template closes an answer with {with_what}, so the model would never stop; {_ENDS}")
    end = end or End(token=skeleton.fixed[-1].strip())
    facts = Facts(
        end=end,
        tokens=pattern,
        marked=bool(marks),
        calls=calls,
        reasoning=_writes_reasoning(source),
        turn_tokens=_turn_tokens(skeleton, followed, end, pattern),
        lead=_lead(source, written),
        notes=tuple(_notes(source, skeleton, end, tokens)),
    )
    if not marks:
        _check_prompt(source, facts)
    return facts


def _first(source: Source, messages: Sequence[Message]) -> tuple[str, tuple[range, ...]]:
    try:
        return without_marks(source.render(payload(messages, CallStyle(), marked=True), ()))
    except TemplateRefused as error:
        raise InvalidModel(f"the chat template refuses a question and its answer ({error}); {REMEDY}") from None


def _tried(source: Source, messages: Sequence[Message], style: CallStyle = _PLAIN, tools: Sequence[Any] = ()) -> str:
    """The marked text; nothing when the template refuses."""
    try:
        return without_marks(source.render(payload(messages, style, marked=True), tools))[0]
    except TemplateRefused:
        return ""


def _followed(source: Source, exchange: Sequence[Message]) -> str | None:
    """What follows the first of two answers."""
    skeleton = Skeleton.of(_tried(source, [*exchange, *exchange]))
    marks = [index for kind, index in skeleton.marks if kind == "c"]
    return skeleton.fixed[marks.index(1) + 1] if marks.count(1) == 1 else None


def _call_style(source: Source) -> CallStyle | None:
    """The first way in which a call and its argument come out."""
    asked = Message(role="assistant", content="", tool_calls=(_CALL,))
    for arguments, empty in product(("object", "json"), get_args(Empty)):
        style = CallStyle(arguments, empty)  # type: ignore[arg-type]
        text = _tried(source, [_QUESTION, asked], style, [_TOOL])
        if "sentinel_name" in text and "sentinel_value" in text:
            return style
    return None


def _writes_reasoning(source: Source) -> bool:
    return mark("r", 1) in _tried(source, [_QUESTION, Message(role="assistant", content="answer", reasoning="thought")])


def _turn_tokens(skeleton: Skeleton, followed: str | None, end: End, pattern: str) -> frozenset[str]:
    """What closes answers and opens turns. Tokens that come in pairs, such as <think> and </think>, are parts of answers."""
    around = f"{skeleton.fixed[-1]}{followed or ''}{skeleton.fixed[1] if len(skeleton.fixed) > 2 else ''}"
    found = {match.group() for match in re.finditer(pattern, around)} | ({end.token} if end.token else set())
    return frozenset(token for token in found if not token.startswith("</") or token == end.token) - _PAIRED


def _lead(source: Source, written: str) -> str:
    """White space between the prompt and the answer: the model writes it, and the next prompt has it already."""
    try:
        prompt = without_marks(source.render(payload([_QUESTION], _PLAIN, marked=True), (), True))[0]
    except TemplateRefused:
        return ""
    between = written[len(prompt) : written.index(mark("c", 1))] if written.startswith(prompt) else ""
    return between if between.isspace() else ""


def _check_prompt(source: Source, facts: Facts) -> None:
    """An answer must follow its prompt, with reasoning or without."""
    reasons = []
    for answer in (_ANSWER, Message(role="assistant", content="answer", reasoning="thought")):
        marked = payload([_QUESTION, answer], CallStyle(), marked=True)

        def rendered(count: int, prompt: bool, marked: list[dict[str, Any]] = marked) -> str:
            return without_marks(source.render(marked[:count], (), prompt))[0]

        proof = Proof(render=rendered, messages=[_QUESTION, answer], end=facts.end, tokens=facts.tokens)
        if proof.answers(2, [1]):
            return
        reasons.append(proof.reasons[1])
    raise InvalidModel(f"{reasons[0]}; set a variable of the template (spec.template.variables) that changes its prompt, or {REMEDY}")


def _notes(source: Source, skeleton: Skeleton, end: End, tokens: Sequence[str]) -> list[str]:
    notes = []
    tomorrow = Source(text=source.text, variables=source.variables, day=date(1999, 12, 31))
    if _tried(tomorrow, [_QUESTION]) != _tried(source, [_QUESTION]):
        notes.append(f"the chat template writes the date: {source.day.isoformat()} in every text of this run; an engine will write its own")
    own = _OWN_WORDS.findall(skeleton.fixed[0])
    if own:
        notes.append(f"the chat template writes a text of its own where a dialogue has no system message: {own[0]!r}")
    if end.opened is not None:
        notes.append(
            f"the chat template leaves the last answer open; {end.opened.strip()}, which a next turn shows, is added to teach its end"
        )
    if not end.token:
        notes.append("the chat template's own marks leave no end of an answer to learn: the model may not stop")
    elif end.token not in tokens:
        notes.append(
            f"answers are closed with {end.token!r}, which is no control token of this tokenizer: engines won't stop at it by themselves"
        )
    return notes
