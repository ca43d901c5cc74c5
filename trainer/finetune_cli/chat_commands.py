"""What a person may type in `finetune chat` beside questions: commands that begin with a slash."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from finetune_assistant.endpoint.budget import Prices
    from finetune_assistant.inference.chat import Answer, Chat, OnText

    Ask = Callable[[OnText], Answer]

HELP: Final = '''/retry        answer the last question once more
/system TEXT  another system text from now on; without a text: the template's own
/save FILE    write the conversation, as one row that training reads
/load FILE    go on with a conversation that was saved
/tokens       what the turns cost
/reset        forget the conversation
/exit         leave (so does Ctrl-D)
/help         this text
"""           begins a question of several lines, and ends it
Ctrl-C        stop the answer'''
# Lines of a pipe are often somebody else's text: they can't name files.
_AT_A_TERMINAL: Final = ("/save", "/load")
_COMMAND: Final = re.compile(r"/[a-z?]+(?!\S)")


def is_command(line: str) -> bool:
    """Whether a line is a command, not a question that begins with a path.

    >>> [is_command(line) for line in ("/save a/b", "/tmp is full, why?", "/etc/passwd", "/typo")]
    [True, False, False, True]
    """
    found = _COMMAND.match(line)
    return found is not None and (found[0] in _KNOWN or found[0] == line)


class Commands:
    """Commands for one talk."""

    def __init__(
        self, talk: "Chat", model: str, show: Callable[[str, "Ask"], None], *, at_a_terminal: bool, prices: "Prices | None" = None
    ) -> None:
        """`show` gets a question and what answers it, and shows the answer as it comes. With `prices` /tokens tells what turns cost."""
        self._talk, self._model, self._show, self._at_a_terminal, self._prices = talk, model, show, at_a_terminal, prices

    def run(self, line: str) -> None:
        """Do what a line says. Raises InvalidData."""
        name, _, rest = line.partition(" ")
        if name not in _KNOWN:
            return say(f"no command {name}; /help lists them")
        if name in _AT_A_TERMINAL and not self._at_a_terminal:
            return say(f"{name} works at a terminal only")
        _KNOWN[name](self, rest.strip())
        return None

    def _retry(self, _rest: str) -> None:
        question = next((message.content for message in reversed(self._talk.messages) if message.role == "user"), "")
        self._show(question, self._talk.retry)

    def _system(self, text: str) -> None:
        self._talk.set_system(text or None)
        say("the system text is the template's own" if not text else "the system text is changed")

    def _save(self, name: str) -> None:
        from finetune_assistant.inference.saved_talk import save_talk

        if not name:
            return say("name a file: /save talk.jsonl")
        save_talk(Path(name).expanduser(), self._talk.messages, self._model)
        return say(f"{len(self._talk.messages)} messages are in {name}")

    def _load(self, name: str) -> None:
        from finetune_assistant.inference.saved_talk import load_talk

        if not name:
            return say("name a file: /load talk.jsonl")
        self._talk.go_on_with(load_talk(Path(name).expanduser()))
        return say(f"{len(self._talk.messages)} messages from {name}; the next question goes on there")

    def _tokens(self, _rest: str) -> None:
        say(cost_table(self._talk.turns, self._prices))

    def _reset(self, _rest: str) -> None:
        self._talk.reset()

    def _help(self, _rest: str) -> None:
        say(HELP)


def say(text: str) -> None:
    """A remark that is no answer."""
    print(text, file=sys.stderr)


def cost_table(turns: "Sequence[Answer]", prices: "Prices | None" = None) -> str:
    """Tokens of each turn, and what they cost; under dialogue prompting beside those of the same talk with the model fine-tuned."""
    if not turns:
        return "no turn yet"
    columns = [
        ("turn", [str(number) for number in range(1, len(turns) + 1)]),
        ("prompt", [f"{turn.prompt_tokens:,}" for turn in turns]),
        ("of it kept", [f"{turn.kept_tokens:,}" for turn in turns]),
        ("answer", [f"{turn.new_tokens:,}" for turn in turns]),
    ]
    if prices is not None:
        columns.append(("USD", [f"{usd(turn, turn.prompt_tokens, prices):.6f}" for turn in turns]))
    if all(turn.tuned_tokens for turn in turns):
        tuned = [turn.tuned_tokens or 0 for turn in turns]
        both = list(zip(turns, tuned, strict=True))
        columns += [
            ("of it preamble", [f"{turn.preamble_tokens:,}" for turn in turns]),
            ("fine-tuned", [f"{tokens:,}" for tokens in tuned]),
            ("times as many", [f"{turn.prompt_tokens / tokens:.1f}" for turn, tokens in both]),
        ]
        if prices is not None:
            columns.append(("USD fine-tuned", [f"{usd(turn, tokens, prices):.6f}" for turn, tokens in both]))
    padded = [[cell.rjust(max(map(len, [head, *cells]))) for cell in (head, *cells)] for head, cells in columns]
    return "\n".join("  ".join(row) for row in zip(*padded, strict=True))


def usd(turn: "Answer", prompt_tokens: int, prices: "Prices") -> float:
    """What a turn costs with a prompt of so many tokens. What is kept of it is paid for, too: an endpoint reads it again."""
    from finetune_assistant.endpoint.budget import Usage

    return prices.usd(Usage(prompt_tokens=prompt_tokens, completion_tokens=turn.new_tokens))


_KNOWN: Final = {
    "/retry": Commands._retry,
    "/system": Commands._system,
    "/save": Commands._save,
    "/load": Commands._load,
    "/tokens": Commands._tokens,
    "/reset": Commands._reset,
    "/help": Commands._help,
    "/?": Commands._help,
}
