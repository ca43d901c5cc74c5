"""The machine's clock."""

import threading
from datetime import UTC

from finetune_operator.runtime.clock import SystemClock


def test_it_goes_forward_and_waits() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    assert clock.wait(threading.Event(), 0.01) is False
    assert clock.monotonic() - before >= 0.009
    assert clock.now().tzinfo is UTC


def test_it_does_not_wait_for_what_has_been() -> None:
    clock, event, condition = SystemClock(), threading.Event(), threading.Condition()
    assert clock.wait(event, -1) is False
    event.set()
    assert clock.wait(event, 3600) is True
    with condition:
        clock.wait_until(condition, clock.monotonic() - 1)


def test_a_notification_ends_a_wait_without_a_deadline() -> None:
    clock, condition, woken = SystemClock(), threading.Condition(), threading.Event()

    def wait() -> None:
        with condition:
            clock.wait_until(condition, None)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not woken.wait(0.01):
        with condition:
            condition.notify_all()
    thread.join(20)
