"""A few cases of every target, always the same ones; `make fuzz` does a hundred thousand."""

from pathlib import Path

from tests.fuzz.run import Tally, run_batch
from tests.fuzz.targets import targets


def test_what_is_damaged_is_read_or_refused_in_words(tmp_path: Path) -> None:
    for target in targets(tmp_path):
        tally = Tally()
        run_batch(target, 8 * target.share, seed=1, tally=tally)
        assert not tally.failure, f"{target.name}: {tally.failure}"
        assert tally.cases, target.name
