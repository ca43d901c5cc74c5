"""Bounds on the length of a row: turns, characters, tokens.

In: a parsed row. Out: the reason for which it is left out, a fixed sentence for counting, or None. Which answers of a tree are followed,
and what reviewers rejected, is decided where trees become dialogues (`filter.topAnswers` and `filter.rejected` of the source).
"""

from dataclasses import dataclass, fields

from finetune_assistant.curation.texts import spoken
from finetune_trainer.data.dialogues import Dialogue, Parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Bounds, both inclusive; None is none. Turns are messages of users and assistants; characters and tokens those of a whole row."""

    min_turns: int | None = None
    max_turns: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None
    max_tokens: int | None = None

    @property
    def are_any(self) -> bool:
        """Whether any bound is set but that of tokens, which need a tokenizer."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name != "max_tokens")

    def refusal(self, item: Parsed) -> str | None:
        """Why a row is too short or too long. A document has no turns, and passes bounds on them.

        >>> from finetune_trainer.data.dialogues import Document
        >>> Lengths(max_characters=3).refusal(Document(source="x", row=1, tree="x", text="long"))
        'more than 3 characters'
        """
        turns = None
        if isinstance(item, Dialogue):
            turns = characters = 0
            for message in item.messages:
                role = message[0]
                if role != "system":
                    characters += len(message[1])
                    if role != "tool":
                        turns += 1
        else:
            characters = sum(map(len, spoken(item)))
        if turns is not None:
            if self.min_turns is not None and turns < self.min_turns:
                return f"fewer than {self.min_turns:,} turns"
            if self.max_turns is not None and turns > self.max_turns:
                return f"more than {self.max_turns:,} turns"
        if self.min_characters is not None and characters < self.min_characters:
            return f"fewer than {self.min_characters:,} characters"
        if self.max_characters is not None and characters > self.max_characters:
            return f"more than {self.max_characters:,} characters"
        return None

    def refusal_of_tokens(self, num_tokens: int) -> str | None:
        """Why a row of so many tokens is too long."""
        return f"more than {self.max_tokens:,} tokens" if self.max_tokens is not None and num_tokens > self.max_tokens else None
