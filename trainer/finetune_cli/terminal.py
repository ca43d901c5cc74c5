"""Progress for eyes and for machines: bars on a terminal, plain lines elsewhere, JSON lines on request.

In: events. Out: characters. What a number means is said in `finetune_trainer.reporting.events`; here it only gets a shape.
"""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    EvaluationDone,
    Event,
    Finished,
    NodesChecked,
    Notice,
    Published,
    Resumed,
    Sink,
    StageAdvanced,
    StageStarted,
    StepDone,
    StoppedEarly,
    Stopping,
    to_json,
)
from finetune_trainer.reporting.readable import count, duration, size

# Seconds between plain lines about the same stage: a log of an hour's run stays readable.
_PLAIN_PACE_SECONDS = 10.0
# Steps may take half a minute on a CPU; a shorter memory would leave the ETA empty between two of them.
_SPEED_MEMORY_SECONDS = 600.0


def progress_sink(*, as_json: bool) -> Sink:
    """The sink for standard output: JSON lines for `--json`, bars on a terminal, plain lines in a pipe or a log."""
    if as_json:
        return JsonSink(sys.stdout)
    # The stream of this moment: while Ray runs, sys.stdout is where libraries may print what nobody should read.
    console = ProgressConsole(highlight=False, file=sys.stdout)
    return BarSink(console) if console.is_terminal else LineSink(console)


class ProgressConsole(Console):
    """A console whose reader may go away (`| head`): that is an error of the sink, and no reason to end the run."""

    def on_broken_pipe(self) -> None:
        """Called in the handler of the BrokenPipeError: passes it on, where rich would leave by SystemExit."""
        raise


class JsonSink:
    """Every event as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which stays open."""
        self._stream = stream

    def record(self, event: Event) -> None:
        """One line, at once."""
        self._stream.write(to_json(event) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class LineSink:
    """Plain lines: what happens rarely at once, what happens often at a calm pace."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to `console`; `clock` in seconds decides the pace."""
        self._console = console
        self._clock = clock
        self._printed_at: float | None = None
        self._total: int | None = None
        self._unit = ""

    def record(self, event: Event) -> None:
        """Print the event's line, if it is time for one."""
        if isinstance(event, StageStarted):
            self._total, self._unit, self._printed_at = event.total, event.unit, None
        line = self._frequent(event) if isinstance(event, StepDone | StageAdvanced) else line_of(event)
        if line is not None:
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Nothing is held back."""

    def _frequent(self, event: StepDone | StageAdvanced) -> Text | None:
        if isinstance(event, StageAdvanced) and event.done == 0:
            return None  # that the stage began is told already
        now = self._clock()
        done, total = (event.step, event.total_steps) if isinstance(event, StepDone) else (event.done, self._total)
        if self._printed_at is not None and now - self._printed_at < _PLAIN_PACE_SECONDS and done != total:
            return None
        self._printed_at = now
        return _labelled("step" if isinstance(event, StepDone) else event.stage, _position(event, total, self._unit), "cyan")


class PacedLines:
    """How far something is, in per cent, where there is no terminal: the first line after a while, and none for what is quick."""

    def __init__(self, what: str, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds decides the pace."""
        self._what, self._stream, self._clock = what, stream, clock
        self._printed_at = clock()

    def say(self, done: int, total: int) -> None:
        """Print a line, if it is time for one."""
        if (now := self._clock()) - self._printed_at < _PLAIN_PACE_SECONDS:
            return
        self._printed_at = now
        self._stream.write(f"{self._what:<12} {done / max(1, total):.0%}\n")
        self._stream.flush()


class BarSink:
    """Bars on a terminal: one a stage, with ETA, loss and tokens/s; the rare events scroll by above them."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`, from the first stage on."""
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]\N{CHECK MARK}"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TextColumn("[cyan]{task.fields[position]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            speed_estimate_period=_SPEED_MEMORY_SECONDS,
        )
        self._task: TaskID | None = None
        self._total: int | None = None
        self._unit = ""

    def record(self, event: Event) -> None:
        """Move the bar, or print the event's line above it."""
        if isinstance(event, StageStarted):
            self._begin(event)
        elif isinstance(event, StepDone):
            self._advance(event.step, f"loss [bold]{event.loss:.4f}[/]  {_speed(event)}", total=event.total_steps)
        elif isinstance(event, StageAdvanced):
            self._advance(event.done, event.detail.replace("[", r"\["))
        else:
            self._print(event)

    def close(self) -> None:
        """Leave the bars as they are and give the cursor back."""
        self._progress.stop()

    def _begin(self, event: StageStarted) -> None:
        self._end()
        self._progress.start()
        self._total, self._unit = event.total, event.unit
        self._task = self._progress.add_task(event.stage, total=event.total, position=amount(0, event.total, event.unit), detail="")

    def _advance(self, done: int, detail: str, total: int | None = None) -> None:
        if self._task is not None:
            total = total or self._total
            self._progress.update(self._task, completed=done, total=total, position=amount(done, total, self._unit), detail=detail)

    def _end(self) -> None:
        """The stage is over: a bar whose length nobody knew is full now."""
        if self._task is None:
            return
        task = self._progress.tasks[-1]
        if task.total is None:
            done = max(1, int(task.completed))
            self._progress.update(self._task, total=done, completed=done)
        self._progress.stop_task(self._task)

    def _print(self, event: Event) -> None:
        if isinstance(event, Resumed) and self._task is not None:
            # Steps of an earlier attempt say nothing about this one's speed.
            self._progress.reset(self._task, completed=event.step)
        if isinstance(event, Finished):
            self._end()
            self._progress.stop()
        line = line_of(event)
        if line is not None:
            self._progress.console.print(line, soft_wrap=True)


def line_of(event: Event) -> Text | None:
    """One line for an event that happens rarely; None for a step or an advance.

    >>> line_of(Stopping(reason="Ctrl-C")).plain
    'stopping     Ctrl-C'
    """
    match event:
        case StageStarted():
            return _labelled(event.stage, "started" if event.total is None else amount(event.total, None, event.unit), "bold")
        case EvaluationDone():
            perplexity = event.note if event.perplexity is None else f"perplexity {event.perplexity:,.2f}"
            return _labelled("evaluation", f"step {event.step}  loss {event.loss:.4f}  {perplexity}", "magenta")
        case CheckpointCommitted():
            waited = f", training waited {duration(event.seconds)}" if event.seconds < event.write_seconds else ""
            written = duration(max(event.seconds, event.write_seconds))
            return _labelled("checkpoint", f"step {event.step}  {size(event.bytes)} in {written}{waited}", "blue")
        case Notice():
            return _labelled("note", event.message, "yellow")
        case NodesChecked():
            found = f": {', '.join(event.slow_hosts)} slow or faulty" if event.slow_hosts else ""
            return _labelled("checked", f"devices and network of all nodes in {duration(event.seconds)}{found}", "green")
        case Resumed():
            return _labelled("resumed", f"attempt {event.attempt} goes on after step {event.step}", "green")
        case Stopping():
            return _labelled("stopping", event.reason, "yellow")
        case StoppedEarly():
            return _labelled("trained", event.message, "green")
        case Published():
            return _labelled("published", f"{event.where}  revision {event.revision}", "green")
        case Finished():
            return _finished(event)
    return None


def amount(done: float, total: float | None, unit: str) -> str:
    """How much is done, of how much, in the stage's unit.

    >>> amount(3, 10, "steps"), amount(1200, None, "dialogues"), amount(2**20, 2**21, "bytes")
    ('3/10 steps', '1,200 dialogues', '1.0 MiB/2.0 MiB')
    """
    shown = size if unit == "bytes" else count
    text = shown(done) if total is None else f"{shown(done)}/{shown(total)}"
    return text if unit == "bytes" else f"{text} {unit}".rstrip()


def _position(event: StepDone | StageAdvanced, total: int | None, unit: str) -> str:
    if isinstance(event, StageAdvanced):
        return f"{amount(event.done, total, unit)}  {event.detail}".rstrip()
    left = duration((event.total_steps - event.step) * event.step_seconds)
    numbers = f"loss {event.loss:.4f}  learning rate {event.learning_rate:.2e}  {_speed(event)}"
    return f"{event.step}/{event.total_steps}  {numbers}  {left} left"


def _speed(event: StepDone) -> str:
    """Of steps, and where evaluations, checkpoints and waits take more than a twentieth of the time, with them."""
    speed = f"{event.tokens_per_second:,.0f} tokens/s"
    wall = event.wall_tokens_per_second
    return f"{speed} ({wall:,.0f} in all)" if 0 < wall < 0.95 * event.tokens_per_second else speed


def _finished(event: Finished) -> Text:
    loss = "" if event.loss is None else f"  loss {event.loss:.4f}"
    evaluation = "" if event.evaluation_loss is None else f"  evaluation loss {event.evaluation_loss:.4f}"
    lines = [_labelled("finished", f"{event.step} steps in {duration(event.seconds)}{loss}{evaluation}", "bold green")]
    lines += [_labelled(label, path, "green") for label, path in (("model", event.model), ("report", event.report)) if path]
    return Text("\n").join(lines)


def _labelled(label: str, text: str, style: str) -> Text:
    """A label of one width and the text, which is never read as markup."""
    return Text.assemble((f"{label:<12} ", style), text)
