"""What a lease promises. The same cases run against the API in memory and against a real API server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.operator.runtime.fake_clock import FakeClock, eventually
from tests.operator.runtime.faulty_api import Fault, FaultyApi
from tests.operator.runtime.objects import NAMESPACE

from finetune_operator.runtime.api import Api, Json
from finetune_operator.runtime.lease import LEASES, LeaderElector

NAME = "operator"
RENEWALS = "PUT .*/leases/"


class Candidate:
    """An elector in a thread of its own, with a clock of its own, and what it told."""

    def __init__(self, api: Api, identity: str, clock: FakeClock) -> None:
        self.clock = clock
        self.told: list[str] = []
        self.leading: list[bool] = []
        self.kept: list[bool] = []
        self.could_write_when_stopped: bool | None = None
        self.hold_stopping = threading.Event()
        self.hold_stopping.set()
        self.stop = threading.Event()
        self.elector = LeaderElector(api, namespace=NAMESPACE, name=NAME, identity=identity, clock=clock, on_leading=self.leading.append)
        self.thread = threading.Thread(target=self._run, name=identity, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.kept.append(self.elector.run(self.stop, lambda: self.told.append("started"), self._stopped))

    def _stopped(self) -> None:
        self.could_write_when_stopped = self.elector.may_write()
        self.told.append("stopped")
        self.hold_stopping.wait(20)

    def leads(self) -> None:
        """Return when it does."""
        eventually(lambda: self.elector.may_write() and "started" in self.told)
        self.clock.asleep("lease")

    def waits(self) -> None:
        """Return when it sleeps before its next try to take the lease."""
        self.clock.asleep(self.thread.name)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def candidate(api: Api, identity: str, clock: FakeClock | None = None) -> Iterator[Candidate]:
    running = Candidate(api, identity, clock or FakeClock())
    try:
        yield running
    finally:
        running.end()


def spec(api: Api) -> Json:
    found: Json = api.get(LEASES, NAMESPACE, NAME)["spec"]
    return found


class LeaseCases:
    """Fixtures: `server` (a FaultyApi), `api` (its client)."""

    def test_the_first_takes_it_and_gives_it_back(self, api: Api) -> None:
        with candidate(api, "a") as a:
            a.leads()
            held = spec(api)
            assert (held["holderIdentity"], held["leaseDurationSeconds"], held["leaseTransitions"]) == ("a", 15, 0)
            assert a.told == ["started"]
        assert a.told == ["started", "stopped"]
        assert a.could_write_when_stopped, "what is under way may be finished"
        assert not a.elector.may_write()
        assert a.kept == [True]
        assert a.leading == [True, False]
        assert not spec(api).get("holderIdentity")

    def test_the_next_starts_at_once_when_it_was_given_back(self, api: Api) -> None:
        with candidate(api, "a") as a, candidate(api, "b") as b:
            eventually(lambda: a.elector.may_write() or b.elector.may_write())
            first, second = (a, b) if a.elector.may_write() else (b, a)
            second.waits()
            first.end()
            second.clock.advance(3.1)
            second.leads()
            assert spec(api)["leaseTransitions"] >= 1

    def test_it_is_renewed_and_stays_held(self, api: Api, server: FaultyApi) -> None:
        with candidate(api, "a") as a:
            a.leads()
            for number in range(1, 11):
                before = spec(api)["renewTime"]
                a.clock.advance(3.1)
                eventually(lambda before=before: spec(api)["renewTime"] != before)
                a.clock.asleep("lease")
                assert server.count(RENEWALS) == number, "one call a renewal"
                assert a.elector.may_write()
            assert a.told == ["started"]

    def test_a_holder_is_judged_by_when_its_lease_was_seen_to_change_not_by_its_clock(self, api: Api) -> None:
        with candidate(api, "a") as a:
            a.leads()
            clock = FakeClock()
            clock.jump(10 * 365 * 86400)  # by its clock the lease ran out years ago
            with candidate(api, "b", clock) as b:
                b.waits()
                for _ in range(4):
                    clock.advance(3.1)
                    b.waits()
                assert not b.elector.may_write()
                before = spec(api)["renewTime"]
                a.clock.advance(3.1)
                eventually(lambda: spec(api)["renewTime"] != before)
                for _ in range(4):
                    clock.advance(3.1)
                    b.waits()
                assert not b.elector.may_write(), "24.8 s after the first sight, 12.4 s after the last change"
                clock.advance(3.1)
                b.waits()
                clock.advance(3.1)
                b.leads()
                assert spec(api)["holderIdentity"] == "b"

    @pytest.mark.parametrize("action", ["cut", "refuse", "page"])
    def test_errors_shorter_than_the_deadline_change_nothing(self, api: Api, server: FaultyApi, action: str) -> None:
        with candidate(api, "a") as a:
            a.leads()
            fault = Fault(match="leases", action=action, times=4)  # type: ignore[arg-type]
            server.faults.append(fault)
            for _ in range(2):
                a.clock.advance(3.1)
                a.clock.asleep("lease")
            fault.times = 0
            before = spec(api)["renewTime"]
            a.clock.advance(3.1)
            eventually(lambda: spec(api)["renewTime"] != before)
            a.clock.asleep("lease")
            assert a.told == ["started"]
            assert a.elector.seconds_to_write() == 15

    def test_a_renewal_whose_answer_is_lost_is_not_mistaken_for_another_holder(self, api: Api, server: FaultyApi) -> None:
        with candidate(api, "a") as a:
            a.leads()
            server.faults.append(Fault(match=RENEWALS, action="lose"))
            a.clock.advance(3.1)
            eventually(lambda: server.count(RENEWALS) == 1)
            a.clock.asleep("lease")
            a.clock.advance(3.1)
            eventually(lambda: a.elector.seconds_to_write() == 15)
            assert a.told == ["started"]
            assert spec(api)["leaseTransitions"] == 0

    def test_errors_never_end_the_waiting(self, api: Api, server: FaultyApi) -> None:
        server.faults.append(Fault(match="leases", action="cut", times=1))
        server.faults.append(Fault(match="leases", action="refuse", status=403, times=1))
        server.faults.append(Fault(match="leases", action="page", times=1))
        with candidate(api, "a") as a:
            for _ in range(3):
                a.waits()
                a.clock.advance(3.1)
            a.leads()

    def test_out_of_reach_for_too_long_is_lost_before_another_can_lead(self, api: Api, server: FaultyApi) -> None:
        with candidate(api, "a") as a:
            a.leads()
            server.faults.append(Fault(match="leases", action="cut", times=10**6))
            for _ in range(3):
                a.clock.advance(3)
                a.clock.asleep("lease")
            assert a.elector.may_write()
            assert a.elector.seconds_to_write() == pytest.approx(6)
            a.clock.advance(1)
            assert not a.elector.may_write(), "5 s before anybody else may"
            a.thread.join(20)
            assert a.told == ["started", "stopped"]
            assert a.could_write_when_stopped is False
            assert a.kept == [False]
            assert a.leading == [True, False]

    def test_a_renewal_that_hangs_makes_nothing_late(self, api: Api, server: FaultyApi) -> None:
        with candidate(api, "a") as a:
            a.leads()
            server.faults.append(Fault(match=RENEWALS, action="hang", times=10**6))
            a.clock.advance(3.1)
            eventually(lambda: server.count(RENEWALS) == 1)
            a.clock.advance(7)
            assert not a.elector.may_write()
            eventually(lambda: a.told == ["started", "stopped"])
            assert a.kept == [], "told while the call still hangs"
            server.stopping.set()

    def test_a_paused_leader_that_wakes_late_may_not_write(self, api: Api, server: FaultyApi) -> None:
        with candidate(api, "a") as a:
            a.leads()
            a.clock.advance(3600)
            assert not a.elector.may_write(), "the very first question is answered no"
            a.thread.join(20)
            assert a.kept == [False]
            assert server.count(RENEWALS) == 0, "and it doesn't take the lease back behind the scenes"

    def test_a_clock_that_is_set_changes_nothing(self, api: Api) -> None:
        with candidate(api, "a") as a:
            a.leads()
            for jump in (-86400.0, 2 * 86400.0):
                a.clock.jump(jump)
                assert a.elector.may_write()
                before = spec(api)["renewTime"]
                a.clock.advance(3.1)
                eventually(lambda before=before: spec(api)["renewTime"] != before)
                a.clock.asleep("lease")
            assert a.told == ["started"]

    def test_it_is_renewed_while_the_last_work_is_finished(self, api: Api) -> None:
        with candidate(api, "a") as a:
            a.leads()
            a.hold_stopping.clear()
            a.stop.set()
            eventually(lambda: a.told == ["started", "stopped"])
            for _ in range(8):
                before = spec(api)["renewTime"]
                a.clock.asleep("lease")
                a.clock.advance(3.1)
                eventually(lambda before=before: spec(api)["renewTime"] != before)
            assert a.elector.may_write()
            assert spec(api)["holderIdentity"] == "a"
            a.hold_stopping.set()
            a.thread.join(20)
            assert not spec(api).get("holderIdentity")

    def test_someone_takes_it_away(self, api: Api) -> None:
        """As `kubectl edit` would: the holder sees it at its next renewal and doesn't take it back."""
        with candidate(api, "a") as a:
            a.leads()
            api.merge_patch(LEASES, NAMESPACE, NAME, {"spec": {"holderIdentity": "someone", "leaseDurationSeconds": 3600}})
            a.clock.advance(3.1)
            eventually(lambda: not a.elector.may_write())
            a.clock.advance(2.1)
            a.thread.join(20)
            assert a.kept == [False], "long before the deadline"
            assert a.could_write_when_stopped is False
            assert spec(api)["holderIdentity"] == "someone"

    def test_a_lease_that_someone_made_empty_or_deleted(self, api: Api) -> None:
        api.create(LEASES, NAMESPACE, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}})
        with candidate(api, "a") as a:
            a.leads()
            api.delete(LEASES, NAMESPACE, NAME)
            a.clock.advance(3.1)
            a.clock.asleep("lease")
            eventually(lambda: spec(api)["holderIdentity"] == "a")
            assert a.told == ["started"]

    def test_labels_and_strangers_fields_are_left_alone(self, api: Api) -> None:
        with candidate(api, "a") as a:
            a.leads()
            api.merge_patch(LEASES, NAMESPACE, NAME, {"metadata": {"labels": {"team": "ml"}}})
            before = spec(api)["renewTime"]
            a.clock.advance(3.1)
            eventually(lambda: spec(api)["renewTime"] != before)
            assert api.get(LEASES, NAMESPACE, NAME)["metadata"]["labels"] == {"team": "ml"}
