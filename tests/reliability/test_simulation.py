"""Goodput at published rates of failure, with the costs that were measured."""

import pytest
from tests.reliability.simulation import MEASURED, WANTED, Costs, goodput, slowest_return


@pytest.mark.parametrize(("hours", "wanted"), WANTED)
def test_the_goodput_that_is_wanted_is_there(hours: float, wanted: float) -> None:
    assert goodput(MEASURED, hours) >= wanted
    assert slowest_return(MEASURED, hours, wanted) > MEASURED.back


def test_it_agrees_with_what_one_reckons_on_paper() -> None:
    """Cost over interval, and for each failure half an interval, an upload and the way back, whose products are small."""
    costs = Costs(blocked=2.0, upload=30.0, detection=30.0, restart=50.0, restore=10.0)
    hours = 24.0
    interval = (2 * costs.blocked * hours * 3600) ** 0.5
    lost = costs.blocked / interval + (interval / 2 + costs.upload + costs.back) / (hours * 3600)
    assert 1 - goodput(costs, hours, lives=100) == pytest.approx(lost, rel=0.05)
