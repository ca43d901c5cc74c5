"""The lease: the shared cases, and its settings."""

import pytest
from tests.operator.runtime.fake_clock import FakeClock
from tests.operator.runtime.lease_cases import LeaseCases

from finetune_operator.runtime.api import Api
from finetune_operator.runtime.lease import LeaderElector


class TestLease(LeaseCases):
    """Against the API in memory."""


@pytest.mark.parametrize(("lease", "deadline", "retry"), [(10, 10, 2), (15, 3, 2), (15, 10, 0), (0.9, 0.5, 0.1)])
def test_settings_that_could_not_work_are_refused(api: Api, lease: float, deadline: float, retry: float) -> None:
    with pytest.raises(ValueError, match="use 15, 10 and 2"):
        LeaderElector(
            api,
            namespace="n",
            name="l",
            identity="a",
            clock=FakeClock(),
            lease_seconds=lease,
            renew_deadline_seconds=deadline,
            retry_seconds=retry,
        )


def test_who_never_led_may_not_write(api: Api) -> None:
    elector = LeaderElector(api, namespace="n", name="l", identity="a", clock=FakeClock())
    assert not elector.may_write()
    assert elector.seconds_to_write() == 0
