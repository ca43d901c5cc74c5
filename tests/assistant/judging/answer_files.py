"""Files of answers, and pairs, for tests of judges and votes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_assistant.judging.answers import Pair


def pair(number: int, a: str = "a longer answer", b: str = "short", **fields: str) -> Pair:
    """A pair whose first answer is the longer one."""
    return Pair(key=f"p{number}", turns=(("user", f"Question {number}?"),), answer_a=f"{a} {number}", answer_b=f"{b} {number}", **fields)


def answers_file(path: Path, answers: Sequence[str], *, model: str = "", rows: Mapping[int, Mapping[str, Any]] | None = None) -> Path:
    """Row i answers `Question i?`; `rows` changes some."""
    lines = []
    for number, answer in enumerate(answers):
        row = {"prompt": f"Question {number}?", "answer": answer, **({"model": model} if model else {}), **(rows or {}).get(number, {})}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
