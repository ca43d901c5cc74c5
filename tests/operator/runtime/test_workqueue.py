"""The work queue: client-go's semantics, under a clock that stands still."""

import random
import threading
from collections import Counter

import pytest
from tests.operator.runtime.fake_clock import FakeClock, eventually

from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.workqueue import WorkQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    return WorkQueue(clock)


def taken(queue: WorkQueue[str]) -> list[str]:
    """All that is ready now, each done at once."""
    keys = []
    while (key := queue.get(timeout=0)) is not None:
        keys.append(key)
        queue.done(key)
    return keys


def test_keys_come_in_order_and_once(queue: WorkQueue[str]) -> None:
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert len(queue) == 3
    assert taken(queue) == ["a", "b", "c"]


def test_a_key_added_while_it_is_processed_comes_again_when_done_and_not_before(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.get(timeout=0) is None
    queue.done("a")
    assert taken(queue) == ["a"]


def test_a_key_that_is_done_without_having_been_added_again_is_gone(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.get()
    queue.done("a")
    assert queue.get(timeout=0) is None


def test_of_several_delays_the_earliest_counts_whichever_came_first(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("b", 5)
    queue.add_after("b", 10)
    clock.advance(4.9)
    assert taken(queue) == []
    clock.advance(0.2)
    assert sorted(taken(queue)) == ["a", "b"]
    clock.advance(100)
    assert taken(queue) == [], "the later wishes are forgotten"


def test_a_delay_of_nothing_is_now(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0)
    queue.add_after("b", -1)
    assert taken(queue) == ["a", "b"]


def test_a_delay_stays_when_the_key_is_processed_before_it_ends(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 60)
    queue.add("a")
    assert taken(queue) == ["a"]
    clock.advance(60)
    assert taken(queue) == ["a"]


def test_what_becomes_due_while_it_is_processed_waits_until_done(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add("a")
    queue.get()
    queue.add_after("a", 1)
    clock.advance(2)
    assert queue.get(timeout=0) is None
    queue.done("a")
    assert taken(queue) == ["a"]


def test_the_back_off_doubles_from_5_ms_to_a_minute_with_jitter_until_forgotten(clock: FakeClock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock)
    for failure in range(25):
        least = min(0.005 * 2**failure, 60)
        queue.add_rate_limited("a")
        assert queue.failures("a") == failure + 1
        clock.advance(least * 0.99)
        assert queue.get(timeout=0) is None, least
        clock.advance(least * 0.22)
        assert taken(queue) == ["a"], least
    queue.forget("a")
    assert queue.failures("a") == 0
    queue.add_rate_limited("a")
    clock.advance(0.0061)
    assert taken(queue) == ["a"]


def test_the_back_off_is_the_keys_own(queue: WorkQueue[str], clock: FakeClock) -> None:
    for _ in range(10):
        queue.add_rate_limited("a")
    queue.add_rate_limited("b")
    clock.advance(0.0061)
    assert "b" in taken(queue)


def test_the_server_may_ask_for_more_patience(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_rate_limited("a", at_least_seconds=30)
    clock.advance(29)
    assert taken(queue) == []
    clock.advance(8)
    assert taken(queue) == ["a"]


def test_jitter_spreads_keys_that_failed_together(clock: FakeClock) -> None:
    queue: WorkQueue[int] = WorkQueue(clock)
    for key in range(200):
        queue.add_rate_limited(key, at_least_seconds=10)
    clock.advance(11)
    assert 40 < len(queue) < 160


def test_get_gives_up_at_its_timeout(queue: WorkQueue[str], clock: FakeClock) -> None:
    got: list[str | None] = []
    thread = threading.Thread(target=lambda: got.append(queue.get(timeout=5)))
    thread.start()
    clock.advance(4)
    queue.add_after("a", 100)
    thread.join(0.05)
    assert thread.is_alive()
    clock.advance(2)
    thread.join(20)
    assert got == [None]


def test_shutting_down_wakes_who_waits_and_gives_out_nothing_more(queue: WorkQueue[str]) -> None:
    got: list[str | None] = []
    threads = [threading.Thread(target=lambda: got.append(queue.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.shut_down()
    for thread in threads:
        thread.join(20)
    assert got == [None] * 3
    queue.add("a")
    queue.add_after("b", 0)
    assert queue.shutting_down
    assert queue.get() is None
    assert len(queue) == 0


def test_done_after_shut_down_is_allowed(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.get()
    queue.add("a")
    queue.shut_down()
    queue.done("a")
    assert queue.get() is None


def test_a_worker_that_waits_for_a_late_key_takes_an_earlier_one_that_comes_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue(SystemClock())
    queue.add_after("late", 3600)
    got: list[str | None] = []
    waiting = [threading.Thread(target=lambda: got.append(queue.get()), daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    queue.add_after("soon", 0.05)
    queue.add_after("sooner", 0.01)
    eventually(lambda: len(got) == 2)
    assert sorted(map(str, got)) == ["soon", "sooner"]
    queue.shut_down()
    for thread in waiting:
        thread.join(20)
    assert not any(thread.is_alive() for thread in waiting)


def test_eight_workers_never_share_a_key_and_miss_no_addition() -> None:
    queue: WorkQueue[int] = WorkQueue(SystemClock())
    wanted, seen = Counter[int](), Counter[int]()
    lock, busy, shared = threading.Lock(), set[int](), []

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                if key in busy:
                    shared.append(key)
                busy.add(key)
                seen[key] = wanted[key]
            with lock:
                busy.discard(key)
            queue.done(key)

    def produce(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(1500):
            key = chance.randrange(20)
            with lock:
                wanted[key] += 1
            if chance.random() < 0.5:
                queue.add(key)
            else:
                queue.add_after(key, chance.random() * 0.002)

    workers = [threading.Thread(target=work) for _ in range(8)]
    producers = [threading.Thread(target=produce, args=(seed,)) for seed in range(3)]
    for thread in workers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    eventually(lambda: seen == wanted)
    queue.shut_down()
    for thread in workers:
        thread.join(20)
    assert shared == []
    assert not any(thread.is_alive() for thread in workers)


def test_wishes_that_get_earlier_and_earlier_leave_no_litter(queue: WorkQueue[str], clock: FakeClock) -> None:
    for seconds in range(5000, 0, -1):
        queue.add_after("a", seconds)
    assert len(queue._heap) < 200
    clock.advance(1)
    assert taken(queue) == ["a"]


def test_a_delay_that_no_clock_can_wait_for_kills_no_worker() -> None:
    """Some job's ttlSecondsAfterFinished of 300 years was everybody's end."""
    queue: WorkQueue[str] = WorkQueue(SystemClock())
    for number, seconds in enumerate((9_999_999_999, 2.0**63, float("inf"))):
        queue.add_after(f"late-{number}", seconds)
    got: list[str | None] = []
    waiting = threading.Thread(target=lambda: got.append(queue.get()), daemon=True)
    waiting.start()
    waiting.join(0.05)  # it waits by now, or has died
    queue.add("soon")
    eventually(lambda: got == ["soon"])


def test_a_long_delay_ends_early_rather_than_never(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 9_999_999_999)
    clock.advance(86_401)
    assert taken(queue) == ["a"]


def test_what_is_urgent_comes_first(queue: WorkQueue[str]) -> None:
    for key in ("a", "b", "c"):
        queue.add(key, urgent=False)
    queue.add("d")
    queue.add("b")
    queue.add("d", urgent=False)
    assert len(queue) == 4
    assert taken(queue) == ["d", "b", "a", "c"]


def test_a_key_that_becomes_urgent_while_it_is_processed_comes_first_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.get() == "a"
    queue.add("b", urgent=False)
    queue.add("a", urgent=False)
    queue.add("a")
    queue.done("a")
    assert taken(queue) == ["a", "b"]


def test_an_hour_that_has_come_waits_for_what_is_urgent_and_a_failure_does_not(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("due", 1)
    queue.add_rate_limited("failed")
    clock.advance(2)
    queue.add("changed")
    assert taken(queue) == ["changed", "failed", "due"]
