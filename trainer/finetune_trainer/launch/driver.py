"""The driver: ranks come to life, and what they report becomes events.

In: the ranks of one attempt as a launcher starts them, a sink and a request to stop. Out: the number of steps done. Ranks talk to the
driver through a mailbox; the driver never looks into a rank. Nor does it trust a launcher to notice that one is gone: whatever Ray
does, an attempt without a sign of progress ends (`patience`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_api import errors
from finetune_api.errors import FineTuneError, InvalidSpec, NoProgress, OutOfMemory, TrainingFailed, WorkerLost, WorkerPreempted
from finetune_trainer.launch import patience as limits
from finetune_trainer.launch.bounded import in_thread
from finetune_trainer.launch.patience import Patience
from finetune_trainer.reporting.events import Sink, Stopping

# How often the driver empties the mailbox. Progress bars need no more, and an empty call costs about a millisecond.
POLL_SECONDS = 0.2

# Errors that stand for a rank whose process is gone: what Ray Train 2.60 gives, and ours.
_DEATHS = {
    "ActorDiedError",
    "RayActorError",
    "WorkerCrashedError",
    "WorkerHealthCheckFailedError",
    "OutOfMemoryError",
    "NodeDiedError",
    "RankDied",
}

# How long a launcher may take to end the ranks once the loop has ended.
ENDING_SECONDS = 120.0
# How often the launcher is asked which nodes are there, and how long after it has lost one it may take to end the ranks. Nothing
# can be committed any more by then, and a pod that waits for a checkpoint would keep its GPUs for it.
LOOK_SECONDS = 5.0
LEFT_SECONDS = 30.0


class Workers(Protocol):
    """The ranks of one attempt, as a launcher starts them: Ray Train's (`ray_workers`), or processes of this machine (`local_workers`)."""

    mailbox: Any
    """What they tell; its questions are methods of `mailbox.Mailbox`, for `ask`."""

    def fit(self) -> None:
        """Start the ranks and wait until all have ended. Raises what ended them; its `worker_failures` has the errors by rank."""

    def ask(self, question: Any) -> Any:
        """The mailbox's answer to one of its questions; None when there is none in time. Raises TrainingFailed when it can't be asked."""

    def gone(self) -> list[str]:
        """Hosts of the run that are lost now."""
        ...

    def departed(self, failure: Exception) -> list[str]:
        """Hosts whose loss explains why `fit` raised `failure`, looked for as long as it takes to notice one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Workers ended without a word of their own. `departed`: hosts of theirs that have left Ray; `ranks`: those whose process is gone."""

    error: TrainingFailed
    departed: Sequence[str]
    ranks: Sequence[int]


def train(workers: Workers, *, gpu: bool, sink: Sink, stop: threading.Event) -> int:
    """Run the workers until they are done or stopped; the number of optimizer steps that are done and committed.

    Raises the FineTuneError that a worker ended with, or TrainingFailed when one died without a word.
    """
    ended = run_once(workers, gpu=gpu, sink=sink, stop=stop)
    if isinstance(ended, Death):
        raise ended.error
    return ended


def run_once(workers: Workers, *, gpu: bool, sink: Sink, stop: threading.Event, began: Callable[[], None] = lambda: None) -> int | Death:
    """The same, where a death is no error: whoever asks may start the workers again. `began` is called at the first sign of a rank."""
    first_step = limits.SHORTEST_SECONDS if gpu else limits.FIRST_CPU_STEP_SECONDS
    patience = Patience(now=time.monotonic, shortest_seconds=limits.SHORTEST_SECONDS, first_step_seconds=first_step)
    failure = follow(workers.fit, workers.mailbox, workers.ask, patience, workers.gone, sink=sink, stop=stop, began=began)
    done, reported = workers.ask(workers.mailbox.outcome) or (None, None)
    if failure is not None and done is None and reported is None:
        departed = workers.departed(failure)
        error = lost(failure, departed)
        error.__cause__ = failure
        return Death(error=error, departed=departed, ranks=died(failure))
    return steps_done(done, reported, failure)


def steps_done(done: int | None, reported: tuple[str, str] | None, failure: Exception | None) -> int:
    """What the workers came to, from the mailbox's outcome and from what Ray says. Raises the error that they ended with.

    A pod that was asked to stop goes as soon as its checkpoint is committed: Ray may see it die before it sees it done.
    """
    if reported is not None:
        raise _reported_error(*reported) from failure
    if done is None:
        raise TrainingFailed(f"{_cause(failure)}; the same command goes on from the newest checkpoint") from failure
    return done


def follow(
    fit: Callable[[], Any],
    mailbox: Any,
    ask: Callable[[Any], Any],
    patience: Patience,
    gone: Callable[[], list[str]],
    *,
    sink: Sink,
    stop: threading.Event,
    began: Callable[[], None] = lambda: None,
    poll_seconds: float = POLL_SECONDS,
) -> Exception | None:
    """Pass events on until `fit` ends; what it raised. It runs in a thread, since Ray would take over Ctrl-C in the main one.

    `gone`: hosts of the run that have left Ray. `began`: called at the first sign. Also ends when the loop has ended and `fit` hasn't.
    Raises NoProgress when the patience is exhausted, and WorkerLost when hosts are gone and `fit` waits for them.
    """
    raised: list[Exception] = []

    def fit_in_thread() -> None:
        try:
            fit()
        except Exception as error:  # whatever it is, it is looked at below, in the thread that can tell the user
            raised.append(error)

    has_begun = False

    def see() -> None:
        """Take in the newest sign; the first is told."""
        nonlocal has_begun
        sign = ask(mailbox.sign)
        if sign is not None:
            patience.see(sign)
            if sign.count and not has_begun:
                has_begun = True
                began()

    thread = in_thread(fit_in_thread)
    asked, ended_at = False, None
    looked_at, left_at = patience.now(), None
    while thread.is_alive():
        if stop.is_set() and not asked:
            sink.record(Stopping(reason="a stop was requested; a checkpoint follows this step"))
            ask(mailbox.request_stop)
            asked = True
        for event in ask(mailbox.take) or ():
            sink.record(event)
        see()
        done, _ = ask(mailbox.outcome) or (None, None)
        if done is not None:
            ended_at = ended_at or patience.now()
            if patience.now() - ended_at >= ENDING_SECONDS:
                break
        elif (told := patience.exhausted()) is not None:
            raise NoProgress(f"{told}; the same command goes on from the newest checkpoint")
        elif patience.now() - looked_at >= LOOK_SECONDS:
            looked_at, hosts = patience.now(), gone()
            left_at = (left_at or looked_at) if hosts else None
            if left_at is not None and looked_at - left_at >= LEFT_SECONDS:
                raise _left(hosts)
        thread.join(poll_seconds)
    see()
    for event in ask(mailbox.take) or ():
        sink.record(event)
    return raised[0] if raised else None


def lost(failure: Exception, departed: Sequence[str]) -> TrainingFailed:
    """What became of workers that ended without a word of their own. `departed`: hosts of the run that have left Ray."""
    where = f" on {', '.join(departed)}" if departed else ""
    again = "the same command goes on from the newest checkpoint"
    if was_preempted(failure):
        return WorkerPreempted(f"the workers{where} were taken away by others; {again}")
    if departed:
        return _left(departed)
    if "OutOfMemoryError" in (type(error).__name__ for error in _deaths(failure)):
        return OutOfMemory(f"{_cause(failure)}, since its node's memory ran out; set spec.training.microBatchSize lower: {again}")
    return TrainingFailed(f"{_cause(failure)}; {again}")


def _left(hosts: Sequence[str]) -> WorkerLost:
    return WorkerLost(
        f"{', '.join(hosts)} left Ray in the middle, and nobody said why; the same command goes on from the newest checkpoint"
    )


def was_preempted(failure: Exception) -> bool:
    """Whether Ray was told that a worker's node goes (Ray 2.60): by a PreemptionError, or by a mark on the error of the worker's actor."""
    return type(failure).__name__ == "PreemptionError" or any(getattr(error, "preempted", False) for error in _deaths(failure))


def _deaths(failure: Exception) -> list[Exception]:
    """What Ray says of each worker that ended."""
    errors: dict[int, Exception] = getattr(failure, "worker_failures", {})
    return [getattr(error, "health_check_failure", error) for error in errors.values()]


def _reported_error(reason: str, message: str) -> FineTuneError:
    """The error that a worker named, as the class that has its exit code."""
    kind = getattr(errors, reason, None)
    if isinstance(kind, type) and issubclass(kind, FineTuneError) and not issubclass(kind, InvalidSpec):
        return kind(message)
    return TrainingFailed(message)


def died(failure: Exception) -> list[int]:
    """Ranks whose process is gone, where others only failed because of that."""
    failures: dict[int, Exception] = getattr(failure, "worker_failures", {})
    return sorted(rank for rank, error in failures.items() if type(error).__name__ in _DEATHS)


def _cause(failure: Exception | None) -> str:
    """One line about what ended the workers: the rank that died before the ranks that waited for it."""
    failures: dict[int, Exception] = getattr(failure, "worker_failures", {})
    if failure is not None and (ranks := died(failure)):
        how = getattr(failures[ranks[0]], "how", "killed, or out of memory")
        return f"worker {', '.join(map(str, ranks))} of the run died ({how})"
    for rank, error in sorted(failures.items()):
        return f"worker {rank} failed: {last_line(error)}"
    return f"the workers failed: {last_line(failure)}" if failure else "the workers ended without a result"


def last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
