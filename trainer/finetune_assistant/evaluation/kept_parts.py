"""Parts of an evaluation on the disk: what one model came to in some tasks, so that an evaluation that was killed goes on after them.

In: a part that is done. Out: the same part, to whoever asks for that model, those tasks and these settings. A file that is damaged is no
part. How numbers come about is not known here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_api.json_text import json_value
from finetune_assistant.evaluation.results import Measurement
from finetune_trainer.files.atomic import make_folder, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Numbers of one model, and what it was loaded as."""

    revision: str | None
    dtype: str
    device: str
    window: int
    seconds: float
    results: tuple[Measurement, ...]


class KeptParts:
    """A folder of parts, a file each."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], saved: Callable[[], None] = lambda: None) -> None:
        """`settings`: all that numbers depend on beside model and tasks. `saved` is called after each part that is kept."""
        self._folder, self._settings, self._saved = folder, settings, saved

    def find(self, model: str, tasks: Sequence[str]) -> Part | None:
        """The part of a model, by its digest, in tasks; None when it isn't there."""
        try:
            row = json_value(self._path(model, tasks).read_text(encoding="utf-8"))
            return Part(**{**row, "results": tuple(Measurement(**one) for one in row["results"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, model: str, tasks: Sequence[str], part: Part) -> None:
        """Write a part, whole or not at all."""
        make_folder(self._folder)
        write_atomically(self._path(model, tasks), json.dumps(asdict(part), ensure_ascii=False) + "\n")
        self._saved()

    def _path(self, model: str, tasks: Sequence[str]) -> Path:
        identity = json.dumps([model, list(tasks), dict(self._settings)], sort_keys=True)
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
