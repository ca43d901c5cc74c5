"""training/signs.py: what counts as progress between two steps."""

import time
from pathlib import Path
from typing import Any

from finetune_trainer.training.signs import Signs, bytes_moved


class Mailbox:
    """A handle of the mailbox, as Ray gives it to a rank."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @property
    def progress(self) -> Any:
        return self

    def remote(self, what: str) -> None:
        self.told.append(what)


def wait_until_told(mailbox: Mailbox, count: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while len(mailbox.told) < count:
        assert time.monotonic() < deadline, mailbox.told
        time.sleep(0.01)


def test_a_thousand_signs_are_one_call() -> None:
    mailbox = Mailbox()
    signs = Signs(mailbox, every_seconds=3600)
    for _ in range(1000):
        signs("the evaluation after step 8")
    assert mailbox.told == ["the evaluation after step 8"]


def test_a_step_of_many_micro_batches_tells_of_each_that_is_done() -> None:
    """A thousand rows on one GPU: the step alone takes longer than the driver waits."""
    mailbox = Mailbox()
    micro_batches = Signs(mailbox, every_seconds=0.0).of_each("micro-batches of step 1", [1, 2, 3])
    assert len(micro_batches) == 3
    assert mailbox.told == [], "nothing is done yet"
    for done, micro_batch in enumerate(micro_batches, start=1):
        assert micro_batch == done
        assert len(mailbox.told) == done
    assert list(micro_batches[1:]) == [2, 3]


def test_reading_is_progress_and_waiting_is_none(tmp_path: Path) -> None:
    mailbox = Mailbox()
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 21))
    with Signs(mailbox, every_seconds=0.01).while_reading("loading the model"):
        time.sleep(0.3)  # a rank that waits for another
        assert mailbox.told == []
        file.read_bytes()
        wait_until_told(mailbox, 1)
    assert set(mailbox.told) == {"loading the model"}


def test_bytes_are_counted_where_the_system_counts_them(tmp_path: Path) -> None:
    before = bytes_moved()
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert bytes_moved() - before >= 1 << 20
    assert bytes_moved("no-such-process") == 0
