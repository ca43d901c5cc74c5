"""Turns: so many a minute whoever takes them, none in a pause, none after a stop."""

import time

import pytest

from finetune_assistant.endpoint.pace import Pace, Stopped


def test_turns_are_an_interval_apart() -> None:
    pace = Pace(60)
    now = 1000.0
    assert pace.take(now) <= 0
    assert pace.take(now) == pytest.approx(1.0)
    assert pace.take(now + 0.25) == pytest.approx(0.75)
    assert pace.take(now + 1.0) <= 0
    assert pace.take(now + 1.0) == pytest.approx(1.0)


def test_without_a_rate_all_turns_are_now() -> None:
    assert all(Pace().take(1000.0) <= 0 for _ in range(5))


def test_a_pause_is_everybodys_and_never_gets_shorter() -> None:
    pace = Pace()
    pace.pause(100)
    pace.pause(5)
    assert pace.take(time.monotonic()) > 5


def test_after_a_stop_nobody_gets_a_turn() -> None:
    pace = Pace()
    pace.stop()
    with pytest.raises(Stopped):
        pace.wait()
