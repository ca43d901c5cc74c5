"""Rows for tests of curation: written for them, with a text that can be made long, and alike."""

import random

from finetune_trainer.data.dialogues import Dialogue, Message

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}


def dialogue(*contents: str, system: str | None = None, row: int = 1, tree: str = "", ids: tuple[str, ...] = ()) -> Dialogue:
    """User and assistant in turn; `ids` are those of messages of a tree."""
    roles = ("user", "assistant")
    turns = [Message(role=roles[index % 2], content=text, id=ids[index] if ids else None) for index, text in enumerate(contents)]  # type: ignore[arg-type]
    first = [] if system is None else [Message(role="system", content=system)]
    return Dialogue(source="rows.jsonl", row=row, tree=tree or f"tree {row}", messages=(*first, *turns))


def sentence(num_words: int, seed: int = 0) -> str:
    """Words that no dictionary has, drawn from 26**3 of three letters."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=3)) for _ in range(num_words))
