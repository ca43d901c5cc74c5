"""Where the curves are kept: `metrics.jsonl`, one object a line, and TensorBoard's event files.

In: events. Out: files that read like those of one run that was never interrupted: what a resumed run will do again is
taken back first. TensorBoard's own writer is used, so neither torch nor TensorFlow is imported.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from finetune_api.errors import InvalidInput
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.reporting.events import EvaluationDone, Event, Resumed, StepDone, StoppedEarly, from_json, to_json

Measurement = StepDone | EvaluationDone
# What metrics.jsonl keeps.
Kept = Measurement | StoppedEarly


def read_metrics(path: Path) -> list[Kept]:
    """Every measurement of a metrics.jsonl, in order; none when the file is absent.

    A last line that a crash cut short is left out. Any other line that is no measurement raises InvalidInput with its number.
    """
    return list(_kept(path)) if path.exists() else []


def _kept(path: Path) -> Iterator[Kept]:
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, _cut_line = text.rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            event = from_json(line)
        except ValueError as error:
            raise InvalidInput(f"{path}, line {number}: {error}; move the file away, and the same command starts a new one") from error
        if isinstance(event, Kept):
            yield event


class MetricsFile:
    """A sink that appends StepDone, EvaluationDone and StoppedEarly to metrics.jsonl.

    On `Resumed(step)` later lines are dropped; a step that is done again without it (the run began anew) drops them too.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, making its folder; a cut last line is removed."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = read_metrics(path)
        self._last_step = max((event.step for event in kept if isinstance(event, StepDone)), default=0)
        self._evaluated = {event.step for event in kept if isinstance(event, EvaluationDone)}
        self._stopped_early = any(isinstance(event, StoppedEarly) for event in kept)
        self._file: TextIO | None = None
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._rewrite(kept)

    def record(self, event: Event) -> None:
        """Append a measurement; drop what a resumed run does again. Other events are not for this file."""
        if isinstance(event, Resumed):
            self._drop_after(event.step)
        elif isinstance(event, StepDone):
            if event.step <= self._last_step:
                self._drop_after(event.step - 1)
            self._last_step = event.step
            self._append(event)
        elif isinstance(event, EvaluationDone) and event.step not in self._evaluated:
            # The same state has the same loss: an evaluation repeated after a resume adds nothing.
            self._evaluated.add(event.step)
            self._append(event)
        elif isinstance(event, StoppedEarly) and not self._stopped_early:
            self._stopped_early = True
            self._append(event)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, event: Kept) -> None:
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(to_json(event) + "\n")
        self._file.flush()

    def _drop_after(self, step: int) -> None:
        self._last_step = min(self._last_step, step)
        self._evaluated = {evaluated for evaluated in self._evaluated if evaluated <= step}
        self._stopped_early = False  # whoever goes on after that step wasn't stopped there
        before = read_metrics(self._path)
        kept: list[Kept] = [event for event in before if event.step <= step and not isinstance(event, StoppedEarly)]
        if len(kept) < len(before):
            self._rewrite(kept)

    def _rewrite(self, events: list[Kept]) -> None:
        """Replace the file in one move: a crash leaves the old one or the new one."""
        self.close()
        write_atomically(self._path, "".join(to_json(event) + "\n" for event in events))


class TensorBoardSink:
    """A sink that writes scalars for TensorBoard under `folder`; the step is the horizontal axis.

    Event files can't be edited: on `Resumed(step)` a new session tells TensorBoard to hide what was recorded beyond it.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Nothing is written, and TensorBoard isn't imported, before the first measurement."""
        self._folder = folder
        self._clock = clock
        self._writer: Any = None

    def record(self, event: Event) -> None:
        """Write a measurement's scalars."""
        if isinstance(event, Resumed):
            self._hide_after(event.step)
        elif isinstance(event, Measurement):
            self._scalars(event.step, scalars(event))
            if isinstance(event, EvaluationDone):
                self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._add(step=step, summary=summary)

    def _hide_after(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        # TensorBoard purges every scalar of an earlier file from this step on.
        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._writer.flush()

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventFileWriter(str(self._folder), flush_secs=10)
        self._writer.add_event(TensorBoardEvent(wall_time=self._clock(), **fields))


def scalars(event: Measurement) -> dict[str, float]:
    """Tag -> value: one chart each. Those of `train` and `eval` have the names that Transformers' Trainer gives them (5.23, and TRL
    with it), so that curves of both lie in one chart."""
    if isinstance(event, EvaluationDone):
        return {"eval/loss": event.loss} | ({} if event.perplexity is None else {"eval/perplexity": event.perplexity})
    known = {"speed/mfu": event.mfu, "speed/rank_spread": event.spread}
    return {tag: value for tag, value in known.items() if value is not None} | {
        "train/loss": event.loss,
        "train/learning_rate": event.learning_rate,
        "train/grad_norm": event.grad_norm,
        "train/epoch": event.epoch,
        "speed/tokens_per_second": event.tokens_per_second,
        "speed/wall_tokens_per_second": event.wall_tokens_per_second,
        "speed/step_seconds": event.step_seconds,
        "speed/memory_gib": event.memory_bytes / 2**30,
        "tokens/supervised": event.supervised_tokens / event.steps,
        "tokens/all": event.tokens / event.steps,
    }
