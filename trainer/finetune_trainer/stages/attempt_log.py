"""What the driver of a run on this machine tells of an attempt, kept beside what its ranks print: events as lines, and how it ended."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from finetune_api.keys import TRAINING
from finetune_trainer.reporting.events import Event, FanOut, Notice, Sink, to_json
from finetune_trainer.stages.local_run import LocalRun, checkpoints_of
from finetune_trainer.storage.kept_logs import End, LogPlace, kept


class _Lines:
    """A sink that writes an event a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def record(self, event: Event) -> None:
        print(to_json(event), file=self._file, flush=True)

    def close(self) -> None:
        """The file is closed by who opened it."""


@contextmanager
def attempt_kept(local: LocalRun, attempt: str, sink: Sink) -> Iterator[Sink]:
    """For the block a sink that tells `sink`, and whose events are the driver's log in the job's storage."""
    place = LogPlace(checkpoints_of(local).storage)
    with tempfile.TemporaryDirectory(prefix="finetune-log-") as folder:
        log = Path(folder) / "log"
        with (
            kept(
                place,
                f"{TRAINING}/{attempt}/driver",
                [log],
                masked=local.secrets.masked,
                warn=lambda text: sink.record(Notice(message=text)),
            ),
            log.open("w", encoding="utf-8", errors="replace") as file,
        ):
            try:
                yield FanOut([sink, _Lines(file)])
            except BaseException as error:
                place.end = End.of(error)
                raise
            place.end = End(outcome="Done")
