"""Prompts that ask for code: our 115, and files of others.

In: JSON lines with `prompt`, and if they are there `id`, `kind` (write or review) and `language`. Out: prompts. Ours are three quarters
requests to write code, and one quarter code with a mistake that wants a review. Who answers them is unknown here.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from finetune_api.errors import InvalidData

OURS = Path(__file__).with_name("code_prompts.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`kind` and `language` are empty where a file doesn't say them."""

    id: str
    prompt: str
    kind: str = ""
    language: str = ""


@cache
def code_prompts() -> tuple[Prompt, ...]:
    """Our 115, in the order of their file.

    >>> len(code_prompts()), sum(prompt.kind == "write" for prompt in code_prompts())
    (115, 86)
    """
    return tuple(read_prompts(OURS))


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, such as a set of the Hub saved as JSON lines: only `prompt` must be there. Raises InvalidData, naming the row."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} can't be read: {getattr(error, 'strerror', None) or error}; give a file of JSON lines") from error
    prompts = [_prompt(line, f"{path} row {number}", number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise InvalidData(f"{path} holds no prompts; write one {{'prompt': ...}} a line")
    return prompts


def _prompt(line: str, place: str, number: int) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidData(f"{place} is no JSON: {error}; write one object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise InvalidData(f"{place} has no text `prompt`; write {{'prompt': 'Sort a list.'}}")
    names = {name: str(row.get(name) or "") for name in ("kind", "language")}
    return Prompt(id=str(row.get("id") or number), prompt=row["prompt"], **names)
