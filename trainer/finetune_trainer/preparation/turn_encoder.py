"""Our own templates on byte-level BPE: turns encoded apart and put together, with exactly the ids of the whole text, only faster.

In: messages. Out: ids. It is exact because control tokens divide a text, and because GPT-2's expression divides it between the newline of a
header and a visible character. A question that begins with white space is encoded with its header's newline; an answer never is, so
that its prompt stays a prefix: that seam is counted.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import EncodedDialogue
from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.turns import Template, Turn


def is_plain(dialogue: Dialogue) -> bool:
    """Whether its messages are nothing but text."""
    return not dialogue.tools and all(
        message.role != "tool" and not message.tool_calls and message.reasoning is None for message in dialogue.messages
    )


class TurnEncoder:
    """Encodes turns, and remembers words and frames."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self._template = template
        self._framing = tokenizer
        # A copy that splits control tokens as any other text: nobody can write one into a message.
        writing = Tokenizer.from_str(tokenizer.to_str())
        writing.encode_special_tokens = True
        self._words = WordEncoder(writing)
        self._frames: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: Template) -> "TurnEncoder | None":
        """None where a text has to be encoded as a whole."""
        if not template.new_tokens:
            return None
        made = cls(tokenizer, template)
        flags = tokenizer.get_added_tokens_decoder().values()
        takes_more = any(token.lstrip or token.rstrip or token.single_word for token in flags)
        return made if made._words.by_word and not takes_more else None

    def encode(self, dialogues: Sequence[Sequence[Message]]) -> list[list[EncodedDialogue]]:
        """One text for each dialogue. Raises Unrendered."""
        turns = [self._template.turns(messages) or [] for messages in dialogues]
        texts = list(dict.fromkeys(text for its_turns in turns for turn in its_turns for text in (turn.content, _text(turn))))
        contents = dict(zip(texts, self._words.encode(texts), strict=True))
        return [
            [self._joined(its_turns, len(its_turns) - len(messages), contents)]
            for its_turns, messages in zip(turns, dialogues, strict=True)
        ]

    def _joined(self, turns: Sequence[Turn], before: int, contents: dict[str, list[int]]) -> EncodedDialogue:
        """The turns one after another. `before` of them belong to no message."""
        ids: list[int] = []
        answers: list[tuple[int, range]] = []
        starts: dict[int, int] = {}
        is_blog = self._template.masking == "blog"
        seams = 0
        for index, turn in enumerate(turns, start=-before):
            start = len(ids)
            text = turn.content if turn.role == "assistant" else _text(turn)
            ids += self._frame(turn.header if text is turn.content else turn.header[:-1])
            content = len(ids)
            ids += contents[text]
            ids += self._frame(turn.end)
            stop = len(ids)
            ids += self._frame(turn.tail)
            starts[index] = start
            if turn.role == "assistant":
                answers.append((index, range(start, len(ids)) if is_blog else range(content, stop)))
                seams += turn.content[:1].isspace() and contents[f"\n{turn.content}"] != self._frame("\n") + contents[turn.content]
            elif is_blog and turn.role == "system":
                answers.append((-1, range(start, len(ids))))
        return EncodedDialogue(ids=ids, answers=answers, starts=starts, seams=seams)

    def _frame(self, text: str) -> list[int]:
        """The ids of a text that the template writes."""
        if text not in self._frames:
            self._frames[text] = self._framing.encode(text, add_special_tokens=False).ids
        return self._frames[text]


def _text(turn: Turn) -> str:
    """The content, with the newline before it where the two may merge."""
    return f"\n{turn.content}" if turn.content[:1].isspace() else turn.content
