"""What the events of an attempt come to: the status that the driver reports. Pure; the newest wins, and it stays small."""

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from finetune_api.bounded_text import shortened
from finetune_api.report import (
    LONGEST_RESTART,
    MOST_SLOW_HOSTS,
    SLOWEST_LENGTH,
    FineTuneReportStatus,
    ReportedCheckpoint,
    ReportedEvaluation,
    ReportedRestarts,
)
from finetune_api.times import timestamp
from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    EvaluationDone,
    Event,
    NodesChecked,
    Restarted,
    Restarting,
    Resumed,
    StepDone,
    StoppedEarly,
)

_RECENT_STEPS: Final = 20
_ATTEMPT: Final = re.compile(r"/attempt-0*([1-9]\d*)/")


@dataclass(slots=True)
class Progress:
    """What the events of this attempt come to."""

    status: FineTuneReportStatus
    now: Callable[[], datetime]
    _seconds: dict[int, float] = field(default_factory=dict)  # up to each step that was told, since the one before
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))  # of a step
    _evaluated: int | None = None  # step of the newest evaluation of this attempt
    _evaluating: float = 0.0  # seconds of an evaluation for each step from one to the next

    def take(self, event: Event) -> Literal["now", "later", "no"]:
        """Enter one event; when it should be reported."""
        match event:
            case StepDone():
                self._set(**self._step(event))
                return "later"
            case EvaluationDone():
                self._pace(event)
                loss = _number(event.loss)
                self._set(evaluation=None if loss is None else ReportedEvaluation(step=event.step, loss=loss))
                return "now"
            case CheckpointCommitted():
                attempt = _ATTEMPT.search(event.key)
                if attempt is None:  # never ours; but training doesn't fail for a report
                    return "no"
                self._set(
                    checkpoint=ReportedCheckpoint(
                        step=event.step,
                        attempt=int(attempt[1]),
                        bytes=event.bytes,
                        committed_at=timestamp(self.now()),
                        seconds=_rounded(_not_negative(max(event.seconds, event.write_seconds)), 1),
                    ),
                    goodput_seconds=round(self._seconds_up_to(event.step), 3),
                )
                return "now"
            case NodesChecked():
                self._set(slow_hosts=list(event.slow_hosts[:MOST_SLOW_HOSTS]) or None)
                return "now"
            case Resumed():
                self._resume(event.step)
                return "now"
            case Restarting():
                self._set(restarts=self._restarting(event))
                return "now"
            case Restarted() if (known := self.status.restarts) is not None:
                self._set(restarts=known.model_copy(update={"count": event.count, "charged": event.charged, "since": None}))
                return "now"
            case StoppedEarly():  # its step may be one that isn't logged
                self._set(step=event.step, total_steps=event.total_steps, eta_seconds=None)
                return "now"
        return "no"

    def _step(self, event: StepDone) -> dict[str, Any]:
        if event.step in self._seconds:  # done again: the run began anew without Resumed
            self._forget_after(event.step - 1)
        self._seconds[event.step] = _not_negative(event.seconds) or 0.0
        self._recent.append(self._seconds[event.step] / event.steps)
        left = max(event.total_steps - event.step, 0)
        return {
            "step": event.step,
            "total_steps": event.total_steps,
            # For kubectl's columns, which can't round; metrics.jsonl has all digits.
            "loss": _rounded(_number(event.loss), 4),
            "tokens_per_second": _rounded(_not_negative(event.tokens_per_second), 1),
            "spread": None if event.spread is None else _rounded(_not_negative(event.spread), 2),
            "slowest": event.slowest[:SLOWEST_LENGTH] or None,
            "wall_tokens_per_second": _rounded(_not_negative(event.wall_tokens_per_second), 1),
            "eta_seconds": round(left * (sum(self._recent) / len(self._recent) + self._evaluating), 1),
        }

    def _restarting(self, event: Restarting) -> ReportedRestarts:
        known = self.status.restarts
        return ReportedRestarts(
            count=known.count if known else 0,
            charged=known.charged if known else 0,
            since=timestamp(self.now()),
            reason=event.reason[:64],
            message=shortened(event.message, LONGEST_RESTART),
            hosts=list(event.hosts[:MOST_SLOW_HOSTS]) or None,
        )

    def _pace(self, event: EvaluationDone) -> None:
        """What evaluations add to the time that is left, once two of them tell how far they are apart."""
        if self._evaluated is not None and event.step > self._evaluated:
            self._evaluating = (_not_negative(event.seconds) or 0.0) / (event.step - self._evaluated)
        self._evaluated = event.step

    def _resume(self, step: int) -> None:
        """What came after that step will be done again."""
        self._forget_after(step)
        self._evaluated = None
        beyond = [kept for kept in ("evaluation", "checkpoint") if (one := getattr(self.status, kept)) is not None and one.step > step]
        measured = ("loss", "tokens_per_second", "wall_tokens_per_second", "spread", "slowest", "eta_seconds")
        # Workers that started again in place go on with the attempt, which began where its first ones did.
        began = {"first_step": step} if self.status.restarts is None else {}
        self._set(**began, step=step, goodput_seconds=round(self._seconds_up_to(step), 3), **dict.fromkeys((*beyond, *measured)))

    def _forget_after(self, step: int) -> None:
        self._seconds = {done: seconds for done, seconds in self._seconds.items() if done <= step}

    def _seconds_up_to(self, step: int) -> float:
        """Time of the steps that a checkpoint holds: those after it are lost when the attempt ends without another."""
        return math.fsum(seconds for done, seconds in self._seconds.items() if done <= step)

    def _set(self, **values: Any) -> None:
        self.status = self.status.model_copy(update=values)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _not_negative(value: float) -> float | None:
    return value if math.isfinite(value) and value >= 0 else None
