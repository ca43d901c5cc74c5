"""What many rows are like: turns, roles, lengths, what of them is learnt, languages, and what is not used.

In: examined rows one by one, and their examples where a tokenizer is given. Out: numbers, as an object for machines; `page` shows them.
Nothing here grows with the number of rows.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_assistant.curation.distribution import Distribution
from finetune_assistant.curation.pipeline import Examined
from finetune_trainer.data.dialogues import Dialogue, Document


@dataclass(slots=True)
class Statistics:
    """Of the rows that were added; whether those that something speaks against are among them, the caller decides."""

    rows: Counter[str] = field(default_factory=Counter)  # by source
    kinds: Counter[str] = field(default_factory=Counter)
    messages: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(Distribution))  # characters, by role
    languages: Counter[str] = field(default_factory=Counter)
    turns: Distribution = field(default_factory=Distribution)
    characters: Distribution = field(default_factory=Distribution)
    learnt_characters: int = 0
    tokens: Distribution = field(default_factory=Distribution)  # of an example
    supervised_tokens: int = 0
    with_system: int = 0
    with_tools: int = 0

    def add(self, found: Examined) -> None:
        """Measure a row."""
        item = found.item
        self.rows[item.source] += 1
        if found.language is not None:
            self.languages[found.language] += 1
        if isinstance(item, Dialogue):
            self.kinds["dialogues"] += 1
            self._add_dialogue(item)
        elif isinstance(item, Document):
            self.kinds["documents"] += 1
            self.characters.add(len(item.text))
            self.learnt_characters += len(item.text)
        else:
            self.kinds["rows of tokens"] += 1

    def _add_dialogue(self, dialogue: Dialogue) -> None:
        by_role = self.messages
        characters = turns = 0
        for message in dialogue.messages:
            role, length = message[0], len(message[1])
            by_role[role].add(length)
            characters += length
            if role == "assistant":
                turns += 1
                if message[6] is not False:  # learnt
                    self.learnt_characters += length
            elif role == "user":
                turns += 1
        self.turns.add(turns)
        self.characters.add(characters)
        if dialogue.messages[0][0] == "system":
            self.with_system += 1
        if dialogue.tools:
            self.with_tools += 1

    def add_tokens(self, tokens: int, supervised: int) -> None:
        """Count an example: its tokens, and those of them that are learnt."""
        self.tokens.add(tokens)
        self.supervised_tokens += supervised

    @property
    def supervised_share(self) -> float:
        """The share of tokens that are learnt; of characters where no tokenizer counted tokens."""
        if self.tokens.total:
            return self.supervised_tokens / self.tokens.total
        return self.learnt_characters / self.characters.total if self.characters.total else 0.0

    def described(self, not_used: Mapping[str, int]) -> dict[str, Any]:
        """All of it for `--json`."""
        found: dict[str, Any] = {
            "rows": self.rows.total(),
            "sources": dict(self.rows),
            "kinds": dict(self.kinds),
            "turns": self.turns.described(),
            "characters": self.characters.described(),
            "messages": {role: {"number": lengths.number, "characters": lengths.described()} for role, lengths in self.messages.items()},
            "withSystem": self.with_system,
            "withTools": self.with_tools,
            "supervisedShare": round(self.supervised_share, 4),
            "supervisedShareOf": "tokens" if self.tokens.total else "characters",
            "notUsed": dict(not_used),
        }
        if self.tokens.total:
            found["tokens"] = self.tokens.described() | {"supervised": self.supervised_tokens}
        if self.languages:
            found["languages"] = dict(self.languages.most_common())
        return found
