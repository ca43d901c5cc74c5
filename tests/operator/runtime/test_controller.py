"""Workers: keys are reconciled, failures come back, stopping waits."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.operator.runtime.fake_clock import FakeClock, eventually

from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.controller import Controller, Requeue
from finetune_operator.runtime.errors import Conflict, NotPermitted, TooManyRequests
from finetune_operator.runtime.workqueue import WorkQueue


class Running:
    """A controller on a clock that stands still; `answer` decides what a reconcile does."""

    def __init__(self, answer: Callable[[str], Requeue | None], workers: int = 2, **more: Any) -> None:
        self.clock = FakeClock()
        self.queue: WorkQueue[str] = WorkQueue(self.clock)
        self.seen: list[str] = []
        self._answer = answer
        self.controller = Controller(self.queue, self._reconcile, clock=self.clock, workers=workers, name="jobs", **more)

    def _reconcile(self, key: str) -> Requeue | None:
        self.seen.append(key)
        return self._answer(key)

    def times(self, count: int) -> None:
        eventually(lambda: len(self.seen) == count and not self.controller._busy)

    def __enter__(self) -> "Running":
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.shut_down()
        for thread in self.controller._threads:
            thread.join(20)


def test_a_key_is_reconciled_and_forgotten() -> None:
    with Running(lambda key: None) as running:
        running.queue.add("a")
        running.times(1)
        running.clock.advance(10_000)
        assert running.queue.get(timeout=0) is None
        assert running.seen == ["a"]


def test_a_key_comes_back_when_it_asked_to() -> None:
    with Running(lambda key: Requeue(60)) as running:
        running.queue.add("a")
        running.times(1)
        running.clock.advance(59)
        assert len(running.queue) == 0
        running.clock.advance(2)
        running.times(2)


def test_a_failure_is_logged_once_with_its_key_and_comes_back_after_its_back_off() -> None:
    errors: list[Exception] = [ZeroDivisionError("of the reconcile"), KeyError("b")]

    def answer(key: str) -> None:
        if errors:
            raise errors.pop(0)

    with capture_logs() as logs, Running(answer) as running:
        running.queue.add("default/a")
        running.times(1)
        assert running.queue.failures("default/a") == 1
        running.clock.advance(0.007)
        running.times(2)
        running.clock.advance(0.013)
        running.times(3)
        assert running.queue.failures("default/a") == 0, "success forgets"
    failures = [entry for entry in logs if entry["event"] == "reconcile failed"]
    assert [(entry["key"], entry["failures"], entry["exc_info"]) for entry in failures] == [("default/a", 1, True), ("default/a", 2, True)]


class Panics:
    """Counts what is told to be a fault of the program."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, workers: int, active: Callable[[], int]) -> None: ...

    def reconciled(self, result: str, seconds: float) -> None: ...

    def panicked(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("error", "panics"),
    [(ValueError("who knows"), 1), (LookupError("foreseen"), 0), (KeyError("foreseen, too"), 0), (TooManyRequests("slow"), 0)],
)
def test_only_what_nobody_foresees_is_a_panic(error: Exception, panics: int) -> None:
    def answer(key: str) -> None:
        raise error

    found = Panics()
    with capture_logs() as logs, Running(answer, metrics=found, foreseen=(LookupError,)) as running:
        running.queue.add("a")
        running.times(1)
    assert found.count == panics
    assert {entry["log_level"] for entry in logs} == {"error" if panics else "warning"}


@pytest.mark.parametrize("error", [Conflict("changed"), NotPermitted("no lease")])
def test_what_is_nobodys_fault_is_no_warning(error: Exception) -> None:
    def answer(key: str) -> None:
        raise error

    with capture_logs() as logs, Running(answer) as running:
        running.queue.add("a")
        running.times(1)
    assert {entry["log_level"] for entry in logs} == {"info"}


def test_an_api_server_that_asks_for_patience_gets_it() -> None:
    def answer(key: str) -> None:
        raise TooManyRequests("slow down", status=429, retry_after_seconds=30)

    with Running(answer) as running:
        running.queue.add("a")
        running.times(1)
        running.clock.advance(29)
        assert len(running.queue) == 0
        running.clock.advance(8)
        running.times(2)


def test_stopping_waits_for_what_is_under_way_and_drops_what_waits() -> None:
    go_on, stopped = threading.Event(), list[bool]()

    def answer(key: str) -> None:
        go_on.wait(20)

    running = Running(answer, workers=1)
    with running:
        running.queue.add("a")
        running.queue.add("b")
        eventually(lambda: running.seen == ["a"])
        stopping = threading.Thread(target=lambda: stopped.append(running.controller.stop(limit_seconds=20)))
        stopping.start()
        eventually(lambda: running.queue.shutting_down)
        assert stopped == []
        go_on.set()
        stopping.join(20)
    assert stopped == [True]
    assert running.seen == ["a"]


def test_stopping_gives_up_at_its_limit() -> None:
    go_on = threading.Event()

    def answer(key: str) -> None:
        go_on.wait(20)

    queue: WorkQueue[str] = WorkQueue(SystemClock())
    controller = Controller(queue, answer, clock=SystemClock(), workers=1)
    controller.start()
    queue.add("a")
    eventually(lambda: controller._busy)
    with capture_logs() as logs:
        assert controller.stop(limit_seconds=0.05) is False
    assert [(entry["event"], entry["key"]) for entry in logs] == [("stopped in the middle of a reconcile", "a")]
    go_on.set()
    controller._threads[0].join(20)


def test_a_worker_that_is_stuck_is_a_problem() -> None:
    go_on = threading.Event()

    def answer(key: str) -> None:
        go_on.wait(20)

    with Running(answer) as running:
        assert running.controller.problem() is None
        running.queue.add("default/a")
        eventually(lambda: running.controller._busy)
        running.clock.advance(299)
        assert running.controller.problem() is None
        running.clock.advance(2)
        assert str(running.controller.problem()).endswith("has been at default/a for 301 s")
        go_on.set()
        eventually(lambda: running.controller.problem() is None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_died_is_a_problem() -> None:
    class Killed(BaseException):
        pass

    def answer(key: str) -> None:
        raise Killed

    with Running(answer) as running:
        running.queue.add("a")
        eventually(lambda: running.controller.problem() == "1 of 2 workers have died")
