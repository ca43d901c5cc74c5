"""The messages of a row, each from its keys, and their order.

In: the value of a column that holds messages. Out: `Message`s, and in `told` what else they hold. Raises InvalidRow naming the
message, counted from 1. Most messages have a role and a text and nothing else: those take a short way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from finetune_api.finetunejob import MessageProperties, RoleMapping
from finetune_trainer.data.dialogues import InvalidRow, Message, Role
from finetune_trainer.data.meanings import KEYS, Known, meaning_of_key, says_nothing
from finetune_trainer.data.tools import calls_of
from finetune_trainer.data.values import excerpt, is_unicode, object_of, text_of

# "calls": a message that is nothing but calls of the assistant, as JSON.
Spoken = Role | Literal["calls"]
Told = dict[str, None]  # sentences about one row, in order

ROLES: Final[dict[str, Spoken]] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "tool_result", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "calls"),
}
# The role before which another may come; "start" is nothing, "called" an assistant that waits for answers. A call may also be in an
# assistant's text, so a tool may answer any assistant.
_BEFORE: Final = {
    "system": frozenset(("start",)),
    "user": frozenset(("start", "system", "assistant")),
    "assistant": frozenset(("user", "tool", "called")),
    "tool": frozenset(("assistant", "called", "tool")),
}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_YES: Final = frozenset(("true", "yes", "1", "1.0"))
_NO: Final = frozenset(("false", "no", "0", "0.0"))
_FLAG_ELSEWHERE: Final = "flags about training on messages that are not the assistant's change nothing"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names inside a message: those of the format, or the source's own."""

    role: str
    content: str
    roles: dict[str, Spoken]
    plain: dict[str, Role]  # those of a message that may have no more than a text
    renamed: dict[str, Known]  # the meaning of keys that the source's settings name


def keys_of(role: str, content: str, mappings: MessageProperties, roles: RoleMapping) -> Keys:
    """The names of a format with those of a source over them."""
    own: dict[str, Spoken] = {
        name.strip().lower(): kind for kind in ("system", "user", "assistant", "tool") for name in getattr(roles, kind)
    }
    known: dict[str, Spoken] = {**ROLES, **own}
    renamed = {}
    for field in ("reasoning_content", "tool_calls", "tool_call_id", "name", "train"):
        name = getattr(mappings, field)
        if name is not None:
            renamed[name] = KEYS[field]
    plain = {name: kind for name, kind in known.items() if kind in ("system", "user", "assistant")}
    return Keys(mappings.role or role, mappings.content or content, known, plain, renamed)  # type: ignore[arg-type]


def read_messages(turns: Any, keys: Keys, told: Told) -> tuple[list[Message], Sequence[int]]:
    """The messages, and the number of each as the row counts them: calls written as messages of their own join the one before."""
    messages: list[Message] = []
    joined: set[int] = set()
    number = 0
    role_key, content_key, plain_roles = keys.role, keys.content, keys.plain
    for number, turn in enumerate(_listed(turns, keys), start=1):
        try:
            role, content = plain_roles[turn[role_key]], turn[content_key]
            plain = len(turn) == 2 and type(content) is str
        except (KeyError, TypeError, IndexError):
            plain = False
        if plain:
            messages.append(Message(role=role, content=content))
        else:
            spoken, message = _message(turn, number, keys, told)
            if spoken == "calls" and messages and messages[-1].role == "assistant":
                messages[-1] = _joined(messages[-1], message, number)
                joined.add(number)
            else:
                messages.append(message)
    numbers = range(1, number + 1)
    return messages, [each for each in numbers if each not in joined] if joined else numbers


def _listed(turns: Any, keys: Keys) -> list[Any]:
    """A list of messages: as it is, as JSON text, or as one object of columns, which Arrow writes too."""
    if type(turns) is list:
        return turns
    wrong = InvalidRow(f"messages must be a list of objects with {keys.role!r} and {keys.content!r}, not {excerpt(turns)}")
    try:
        found = object_of(turns, "the messages")
    except InvalidRow:
        raise wrong from None
    if isinstance(found, dict) and found and all(isinstance(column, list) for column in found.values()):
        if len({len(column) for column in found.values()}) > 1:
            raise InvalidRow("the messages are columns of different lengths")
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    if not isinstance(found, list):
        raise wrong
    return found


def _message(turn: Any, number: int, keys: Keys, told: Told) -> tuple[Spoken, Message]:
    """One message with all of its keys."""
    turn = object_of(turn, f"message {number}")
    if not isinstance(turn, dict):
        raise InvalidRow(f"message {number} is of type {type(turn).__name__}, not an object with {keys.role!r} and {keys.content!r}")
    if keys.role not in turn:
        raise InvalidRow(f"message {number}: no {keys.role!r}; it has {', '.join(map(repr, turn)) or 'nothing'}")
    spoken = role_of(turn[keys.role], number, keys.roles)
    role: Role = "assistant" if spoken == "calls" else spoken
    what = f"message {number} ({role})"
    extras = _Extras(what, role, told)
    for key, value in turn.items():
        if key not in (keys.role, keys.content) and not says_nothing(value):
            extras.add(key, value, keys.renamed.get(key) or meaning_of_key(key))
    content = turn.get(keys.content)
    if spoken == "calls":
        extras.calls += calls_of(text_message(content, what), what)
        content = ""
    elif content is None and extras.calls:
        content = ""
    elif keys.content not in turn:
        raise InvalidRow(f"{what}: no {keys.content!r}; it has {', '.join(map(repr, turn))}")
    message = Message(
        role=role,
        content=text_message(content, what),
        reasoning=extras.reasoning,
        tool_calls=tuple(extras.calls),
        name=extras.name,
        tool_call_id=extras.tool_call_id,
        learnt=extras.learnt,
    )
    return spoken, message


def _joined(before: Message, calls: Message, number: int) -> Message:
    """An assistant's message with calls that a row writes as the next message."""
    if before.learnt is not None and calls.learnt is not None and before.learnt != calls.learnt:
        raise InvalidRow(f"message {number} (assistant): its calls and the text before them say different things about training")
    learnt = before.learnt if calls.learnt is None else calls.learnt
    return before._replace(tool_calls=before.tool_calls + calls.tool_calls, learnt=learnt)


def role_of(written: Any, number: int, roles: dict[str, Spoken] = ROLES) -> Spoken:
    """The role that a name stands for. Raises InvalidRow."""
    if isinstance(written, bytes):
        written = text_of(written, f"message {number}: the role")
    role = roles.get(written) or roles.get(written.strip().lower()) if isinstance(written, str) else None
    if role is None:
        raise InvalidRow(f"message {number}: unknown role {excerpt(written)}; known are {', '.join(roles)}")
    return role


def text_message(content: Any, what: str) -> str:
    """A text, or the parts of one joined: nothing is put between them, as templates do it."""
    if not isinstance(content, list):
        return text_of(content, f"{what}: the text")
    return "".join(_part(part, f"{what}, part {number}") for number, part in enumerate(content, start=1))


def _part(part: Any, what: str) -> str:
    part = object_of(part, what) if isinstance(part, bytes) else part
    if not isinstance(part, dict):
        raise InvalidRow(f"{what} is of type {type(part).__name__}, not an object with 'type' and 'text'")
    kind = part.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise InvalidRow(f"{what} is of type {excerpt(kind)}; this trainer learns text")
    if "text" not in part:
        raise InvalidRow(f"{what} has no 'text'")
    return text_of(part["text"], what)


class _Extras:
    """What a message holds beside role and text."""

    def __init__(self, what: str, role: Role, told: Told) -> None:
        self.what, self.role, self.told = what, role, told
        self.reasoning: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.name: str | None = None
        self.tool_call_id: str | None = None
        self.learnt: bool | None = None

    def add(self, key: str, value: Any, known: Known | None) -> None:
        """One key, by its row of the table. Raises InvalidRow."""
        if known is None:
            self.told[f"key {excerpt(key)} of messages is not read"] = None
        elif known.meaning == "refused":
            raise InvalidRow(f"{self.what}: {key!r} {known.because}")
        elif known.meaning == "told":
            self.told[f"key {key!r} of messages is not read: {known.because}"] = None
        elif known.meaning == "mask":
            self._add_flag(key, value, known.use == "learn")
        elif known.use == "calls":
            self._add_calls(key, value)
        elif known.use == "reasoning":
            self._add_reasoning(key, value)
        elif self.role != "tool":
            self.told[f"key {key!r} of messages is not read: it belongs to answers of tools"] = None
        elif known.use == "name":
            self.name = self._text(key, value)
        else:
            self.tool_call_id = self._text(key, value)

    def _text(self, key: str, value: Any) -> str:
        text = text_of(value, f"{self.what}: {key!r}")
        if not is_unicode(text):
            raise InvalidRow(f"{self.what}: half of a surrogate pair, which is no character, is in {key!r}")
        return text

    def _add_flag(self, key: str, value: Any, means_learn: bool) -> None:
        says = _flag(value, f"{self.what}: {key!r}") == means_learn
        if self.role != "assistant":
            self.told[_FLAG_ELSEWHERE] = None
        elif self.learnt is not None and self.learnt != says:
            raise InvalidRow(f"{self.what}: {key!r} contradicts another flag about training")
        else:
            self.learnt = says

    def _add_calls(self, key: str, value: Any) -> None:
        if self.role != "assistant":
            raise InvalidRow(f"{self.what}: {key!r}, and only an assistant calls tools")
        self.calls += calls_of(value, self.what)

    def _add_reasoning(self, key: str, value: Any) -> None:
        reasoning = self._text(key, value)
        if self.role != "assistant":
            self.told[f"key {key!r} of messages is not read: it belongs to the assistant"] = None
        elif self.reasoning not in (None, reasoning):
            raise InvalidRow(f"{self.what}: {key!r} is another reasoning than the one beside it; keep one")
        else:
            self.reasoning = reasoning


def _flag(value: Any, what: str) -> bool:
    """Yes or no, as JSON, a number or a word. Raises InvalidRow."""
    written = str(value).strip().lower() if isinstance(value, bool | int | float | str) else ""
    if written not in _YES | _NO:
        raise InvalidRow(f"{what} is {excerpt(value)}; a message is learnt or not: only true, false, 1 and 0 are known")
    return written in _YES


def check_order(messages: Sequence[Message], numbers: Sequence[int]) -> None:
    """A system message only first, user and assistant in turn, tools after an assistant, no empty text. Raises InvalidRow."""
    last = "start"
    for index, message in enumerate(messages):
        role, content = message.role, message.content
        if last not in _BEFORE[role]:
            raise InvalidRow(_out_of_turn(numbers[index], role, last))
        if (not content or content.isspace()) and (role == "user" or (role == "assistant" and not message.tool_calls)):
            raise InvalidRow(f"message {numbers[index]} ({role}): the text is empty")
        if not content.isascii() and not is_unicode(content):
            raise InvalidRow(f"message {numbers[index]} ({role}): half of a surrogate pair, which is no character, is in the text")
        last = "called" if message.tool_calls else role


def _out_of_turn(number: int, role: Role, last: str) -> str:
    if role == "system":
        return f"message {number}: a system message may only come first"
    if role == "tool":
        return f"message {number}: an answer of a tool, and no assistant turn before it"
    if last in ("start", "system"):
        return f"message {number}: the conversation begins with an {role} turn; it must begin with a user turn"
    if last == "called":
        return f"message {number}: a user turn, while the calls before it have no answer"
    if last == "tool":
        return f"message {number}: a user turn, while the assistant has not said anything about the tool's answer"
    return f"message {number}: two {role} turns in a row"


def without_leading_answers(messages: list[Message], numbers: Sequence[int]) -> tuple[list[Message], Sequence[int]]:
    """Without the turns between the system message and the first user turn; as they are if there is no user turn."""
    start = int(bool(messages) and messages[0].role == "system")
    if len(messages) <= start or messages[start].role == "user":
        return messages, numbers
    first = next((index for index in range(start, len(messages)) if messages[index].role == "user"), start)
    if any(message.role == "system" for message in messages[start:first]):
        return messages, numbers
    return messages[:start] + messages[first:], [*numbers[:start], *numbers[first:]]
