"""training/signs.py: what counts as progress between two steps."""

import time
from pathlib import Path

from finetune_trainer.training.signs import Signs, bytes_moved


def wait_until_told(told: list[str], count: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while len(told) < count:
        assert time.monotonic() < deadline, told
        time.sleep(0.01)


def test_a_thousand_signs_are_one_call() -> None:
    told: list[str] = []
    signs = Signs(told.append, every_seconds=3600)
    for _ in range(1000):
        signs("the evaluation after step 8")
    assert told == ["the evaluation after step 8"]


def test_a_step_of_many_micro_batches_tells_of_each_that_is_done() -> None:
    """A thousand rows on one GPU: the step alone takes longer than the driver waits."""
    told: list[str] = []
    micro_batches = Signs(told.append, every_seconds=0.0).of_each("micro-batches of step 1", [1, 2, 3])
    assert len(micro_batches) == 3
    assert told == [], "nothing is done yet"
    for done, micro_batch in enumerate(micro_batches, start=1):
        assert micro_batch == done
        assert len(told) == done
    assert list(micro_batches[1:]) == [2, 3]


def test_reading_is_progress_and_waiting_is_none(tmp_path: Path) -> None:
    told: list[str] = []
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 21))
    with Signs(told.append, every_seconds=0.01).while_reading("loading the model"):
        time.sleep(0.3)  # a rank that waits for another
        assert told == []
        file.read_bytes()
        wait_until_told(told, 1)
    assert set(told) == {"loading the model"}


def test_bytes_are_counted_where_the_system_counts_them(tmp_path: Path) -> None:
    before = bytes_moved()
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert bytes_moved() - before >= 1 << 20
    assert bytes_moved("no-such-process") == 0
