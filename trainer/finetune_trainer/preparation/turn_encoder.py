"""Our own templates on byte-level BPE: turns encoded apart and put together, with exactly the ids of the whole text, only faster.

In: messages. Out: ids. It is exact because control tokens divide a text, and because the expressions that `words` knows divide it between
the newline of a header and a visible character. A question that begins with white space is encoded with its header's newline; an answer
never is, so that its prompt stays a prefix: that seam is counted.
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

    def __init__(self, tokenizer: Tokenizer, template: Template, words: WordEncoder) -> None:
        self._template = template
        self._words = words
        self._frames = _Frames(tokenizer)

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: Template, words: WordEncoder | None) -> "TurnEncoder | None":
        """None where a text has to be encoded as a whole: a token that isn't special would be read in a message."""
        special = all(token.special for token in tokenizer.get_added_tokens_decoder().values())
        return cls(tokenizer, template, words) if words is not None and special and template.new_tokens else None

    def encode(self, dialogues: Sequence[Sequence[Message]]) -> list[list[EncodedDialogue]]:
        """One text for each dialogue. Raises Unrendered."""
        turns = [self._template.turns(messages) or [] for messages in dialogues]
        texts: dict[str, None] = {}  # each once: paths of a tree share messages
        for its_turns in turns:
            for turn in its_turns:
                texts[turn.content] = None
                if turn.content[:1].isspace():
                    texts[f"\n{turn.content}"] = None
        contents = dict(zip(texts, self._words.encode(list(texts)), strict=True))
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
        frames, seams = self._frames, 0
        for index, (role, header, content, end, tail, _) in enumerate(turns, start=-before):
            start = starts[index] = len(ids)
            if role != "assistant" and content[:1].isspace():  # the newline before it and its first characters may merge
                ids += frames[header[:-1]]
                ids += contents[f"\n{content}"]
            else:
                ids += frames[header]
                answer = len(ids)
                ids += contents[content]
            ids += frames[end]
            stop = len(ids)
            ids += frames[tail]
            if role == "assistant":
                answers.append((index, range(start, len(ids)) if is_blog else range(answer, stop)))
                seams += content[:1].isspace() and contents[f"\n{content}"] != frames["\n"] + contents[content]
            elif is_blog and role == "system":
                answers.append((-1, range(start, len(ids))))
        return EncodedDialogue(ids=ids, answers=answers, starts=starts, seams=seams)


class _Frames(dict[str, list[int]]):
    """The ids of each text that the template writes, encoded when it is first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        self[text] = ids
        return ids
