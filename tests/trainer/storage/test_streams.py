"""Parts on several threads: a slow one holds up no other, few are in memory, and the first error ends it."""

import threading
from collections.abc import Iterator

import pytest

from finetune_trainer.storage.streams import at_once

PARALLEL = 3


def test_a_slow_item_holds_up_no_other() -> None:
    others = threading.Semaphore(0)

    def send(item: int) -> int:
        if item:
            others.release()
        else:  # the first waits until all after it are through
            for _ in range(1, 10):
                assert others.acquire(timeout=20), "the items after it wait for it"
        return item * item

    assert at_once(send, range(10), PARALLEL) == [item * item for item in range(10)]


def test_one_item_is_ready_for_the_next_free_thread_and_no_more_are_made() -> None:
    made, go = [], threading.Event()

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            if item == PARALLEL + 1:  # in the hand, while one is ready and the others are under way
                threading.Timer(0.3, go.set).start()
            yield item

    seen: list[int] = []

    def send(_: int) -> None:
        assert go.wait(20)
        seen.append(len(made))

    at_once(send, items(), PARALLEL)
    assert min(seen) >= PARALLEL + 2
    assert seen[0] == PARALLEL + 2, "nothing more was made before the first item was through"


def test_the_first_error_ends_it() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    def send(item: int) -> None:
        if item == 2:
            raise ZeroDivisionError("item 2")

    with pytest.raises(ZeroDivisionError, match="item 2"):
        at_once(send, items(), PARALLEL)
    assert len(made) < 100


def test_an_error_of_the_items_is_theirs() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("no second")

    with pytest.raises(ZeroDivisionError, match="no second"):
        at_once(lambda item: item, items(), PARALLEL)
