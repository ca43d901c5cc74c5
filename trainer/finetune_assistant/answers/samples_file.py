"""The file that answers are written to: each as soon as it is there, and in the order of the prompts once all are.

In: answers, in any order. Out: JSON lines that hold a prompt's fields and its answer. A run that was killed leaves whole lines, of which a
cut last one is mended, and its settings beside them: the same command goes on there. Models are unknown here.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import InvalidData, RunConflict
from finetune_api.json_text import json_value
from finetune_assistant.prompts.prompt_rows import PromptRow, question_digest

# Fields that an answer adds to a row; the row's own of these names are replaced.
ADDED: Final = ("answer", "model", "finish_reason", "prompt_tokens", "new_tokens", "left_out", "sample")
Key = tuple[str, int, int]  # digest of a question, how many rows before it ask the same, number of the sample


@dataclass(slots=True)
class SamplesFile:
    """Answers on the disk. For one process, which `opened` sees to."""

    path: Path
    done: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add whole lines, which survive the process's end, and most power cuts."""
        data = "".join(_line(row) for row in rows).encode("utf-8", "surrogatepass")
        with self.path.open("ab") as file:
            file.write(data)

    def put_in_order(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file by these rows, whole or not at all."""
        from finetune_trainer.files.atomic import atomically

        with atomically(self.path) as draft, draft.open("x", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(_line(row) for row in rows)


def _line(row: Mapping[str, Any]) -> str:
    """Dates and the like, which Parquet has and JSON lacks, are written as text."""
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def settings_path(path: Path) -> Path:
    """Where the settings of a samples file are."""
    return path.with_name(f"{path.name}.settings.json")


def replaced_fields(rows: Sequence[PromptRow]) -> list[str]:
    """Names that rows have and that an answer takes for itself."""
    return [name for name in ADDED if any(name in row.fields for row in rows)]


def keys_of_rows(rows: Sequence[PromptRow], samples: int) -> Iterator[tuple[Key, PromptRow]]:
    """Each answer that is wanted, in the order of the file."""
    before: Counter[str] = Counter()
    for row in rows:
        digest = row.digest
        for sample in range(samples):
            yield (digest, before[digest], sample), row
        before[digest] += 1


@contextmanager
def opened(path: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[SamplesFile]:
    """The file with what it holds already, for this process alone.

    Raises InvalidData for a file that other settings, or another program, have written, and RunConflict while somebody writes it.
    """
    from finetune_trainer.files.locks import LockHeld, locked

    if not path.parent.is_dir():
        raise InvalidData(f"{path}: there is no folder {path.parent}; make it")
    lock = path.with_name(f".{path.name}.lock")
    try:
        with locked(lock):
            try:
                yield _begun(path, settings, overwrite)
            finally:
                lock.unlink(missing_ok=True)
    except LockHeld as held:
        raise RunConflict(f"{path}: process {held.holder} is writing it; wait for its end, or give another file") from None


def _begun(path: Path, settings: Mapping[str, Any], overwrite: bool) -> SamplesFile:
    from finetune_trainer.files.atomic import write_atomically

    if overwrite:
        path.unlink(missing_ok=True)
    if path.exists() and path.stat().st_size:
        _check_settings(path, settings)
        return SamplesFile(path=path, done=_done(path))
    write_atomically(settings_path(path), json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    path.touch()
    return SamplesFile(path=path)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Answers that were drawn otherwise are not mixed with new ones."""
    try:
        before = json_value(settings_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InvalidData(
            f"{path} is there, and {settings_path(path).name}, which tells how it was made, is not; give another file, or --overwrite"
        ) from None
    now = json.loads(json.dumps(settings))
    changed = [name for name in dict.fromkeys([*now, *before]) if now.get(name) != before.get(name)]
    if changed:
        told = ", ".join(f"{name} was {json.dumps(before.get(name))} and is {json.dumps(now.get(name))}" for name in changed[:3])
        raise InvalidData(f"{path} was made with other settings: {told}; give another file, or --overwrite")


def _done(path: Path) -> dict[Key, dict[str, Any]]:
    """Answers by what they answer. A last line that was cut is taken off the file."""
    done: dict[Key, dict[str, Any]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json_value(line)
                digest, sample = question_digest(row), int(row.get("sample", 0))
                done[digest, seen[digest, sample], sample] = {name: row[name] for name in ADDED if name in row}
                seen[digest, sample] += 1
                assert "answer" in row
            except (ValueError, TypeError, AttributeError, AssertionError):
                raise InvalidData(f"{path} row {number}: no answer of `finetune generate`; give another file, or --overwrite") from None
            whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return done
