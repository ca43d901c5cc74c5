"""Faults that tests of other layers do already, exhaustively or on a real cluster: a row is made by running them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.conftest import ROOT
from tests.reliability.local_faults import Unavailable
from tests.reliability.local_runs import Outcome

_SECONDS: Final = 3600
# Of what a failed test printed, for a person: its end.
_MOST_SHOWN: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`does`: in a few words. `tests`: pytest's names of what shows it. `says`: what is told of it there.

    `moments`: when it is done there, all in one row; empty where a seed draws a moment, which is printed. `only_by_name`: it needs root and
    real nodes, and takes long.
    """

    does: str
    tests: tuple[str, ...]
    says: str
    moments: str = ""
    only_by_name: bool = False

    def of_seed(self, seed: int) -> list[str]:
        """What pytest is given."""
        if self.moments:
            return [*self.tests]
        return [test.format(seed=seed) if "{seed}" in test else f"{test}[{seed}]" for test in self.tests]


def shown(fault: Shown, seed: int) -> Outcome:
    """Run its tests."""
    if fault.only_by_name and os.geteuid() != 0:
        raise Unavailable("it starts real nodes: run it as root")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *fault.of_seed(seed)]
    wide = os.environ | {"COLUMNS": "400"}  # pytest cuts its summary, and with it the reason, where lines end
    done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, timeout=_SECONDS, check=False)
    missed = "" if done.returncode == 0 else _missed(done.stdout, done.returncode)
    if missed:
        print(done.stdout[-_MOST_SHOWN:], flush=True)
    drawn = [line.removeprefix("moment: ") for line in done.stdout.splitlines() if line.startswith("moment: ")]
    return Outcome(moment=fault.moments or (drawn[0] if drawn else "none"), missed=missed, said="" if missed else fault.says)


def _missed(printed: str, code: int) -> str:
    """Why, in pytest's words; the name of the test where it says none.

    >>> _missed("PASSED a::b\\nFAILED tests/a.py::test_b[0] - AssertionError: not within 90 s: RayJob\\n", 1)
    'AssertionError: not within 90 s: RayJob'
    """
    failed = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        return f"pytest ended with exit code {code}"
    test, _, why = failed[0].partition(" - ")
    return (why or test)[:240]


_STORIES: Final = "tests/reliability/operator_stories.py"
_OPERATOR: Final = "tests/control_plane/test_operator.py"
_LEASES: Final = "tests/control_plane/test_operator_leases.py"
_CLUSTER: Final = "tests/cluster/test_finetunejob.py"

SHOWN: Final[Mapping[str, Shown]] = {
    "operator-killed": Shown(
        does="`kill -9` of the operator",
        tests=(f"{_OPERATOR}::test_killed_at_each_write_the_end_is_the_same",),
        moments="at each write: before it is sent, and after it was done",
        says="each event once, as without a fault",
    ),
    "operators-killed": Shown(
        does="`kill -9` of both operators",
        tests=(f"{_STORIES}::test_both_operators_are_killed",),
        says="each event once, as without a fault",
    ),
    "operator-asleep": Shown(
        does="the leading operator sleeps while it writes, another takes over, it wakes",
        tests=(
            f"{_LEASES}::test_a_leader_that_slept_while_it_wrote_does_no_harm_when_it_wakes",
            f"{_LEASES}::test_a_leader_whose_lease_is_taken_while_it_writes_writes_nothing_more",
        ),
        moments="as it makes the first attempt's RayJob, and at a status",
        says="the write that comes late is of an attempt that is over, and is undone",
    ),
    "api-server-killed": Shown(
        does="`kill -9` of the API server",
        tests=(f"{_STORIES}::test_a_server_is_killed[kube-apiserver-{{seed}}]",),
        says="each event once, as without a fault",
    ),
    "etcd-killed": Shown(
        does="`kill -9` of etcd",
        tests=(f"{_STORIES}::test_a_server_is_killed[etcd-{{seed}}]",),
        says="each event once, as without a fault",
    ),
    "network": Shown(
        does="refusals, cuts, lost and late answers, watches that end or say nothing",
        tests=("tests/control_plane/test_operator_faults.py::test_a_life_through_everything_that_a_network_does",),
        moments="at the first requests of each kind",
        says="each event once, as without a fault",
    ),
    "operator-clock": Shown(
        does="the operator's clock is set by hours, back and forth",
        tests=("tests/control_plane/test_operator_faults.py::test_clocks_that_are_set_by_hours_stop_nothing_and_begin_nothing_twice",),
        moments="at four stages of a job's life",
        says="each event once, but for a second word about pods that wait",
    ),
    "report-deleted": Shown(
        does="a user deletes the report",
        tests=(f"{_STORIES}::test_a_user_deletes_the_report",),
        says="an attempt's report is made again, nobody needs one after the training; each event once",
    ),
    "report-edited": Shown(
        does="a user writes a lie into the report's status",
        tests=(f"{_STORIES}::test_a_user_edits_the_report",),
        says="nothing: a report of no attempt is passed over",
    ),
    "rayjob-edited": Shown(
        does="a user edits the RayJob",
        tests=(f"{_STORIES}::test_a_user_edits_a_rayjob",),
        says="nothing: a RayJob is made once and never applied again",
    ),
    "rayjob-deleted": Shown(
        does="a user deletes the RayJob",
        tests=(
            "tests/operator/test_training.py::test_a_deleted_rayjob_is_followed_by_another_attempt",
            "tests/operator/test_training.py::test_a_deleted_rayjobs_pods_commit_before_the_next_attempt",
            "tests/operator/test_starts.py::test_a_rayjob_that_is_deleted_before_it_begins_again_and_again_is_a_start_that_fails",
            "tests/operator/test_week.py",
        ),
        moments="while it trains, before it begins, and by chance for a day and a week",
        says="attempt n+1 goes on; the attempt is uncharged",
    ),
    "conflicting-writers": Shown(
        does="others write to the job, 50 times a second each",
        tests=(f"{_STORIES}::test_others_write_to_the_job_all_the_time",),
        says="nothing: each event once",
    ),
    "twenty-jobs": Shown(
        does="20 jobs at once on one operator, which is killed in the middle",
        tests=("tests/reliability/many_jobs.py::test_twenty_jobs_at_once_end_as_if_each_were_alone",),
        says="each job ends as if it were alone: one attempt, each event once",
    ),
    "cluster-pods": Shown(
        does="RayJob suspended and deleted, a node drained, on two real nodes",
        tests=(f"{_CLUSTER}::test_whoever_takes_its_pods_away_it_commits_and_loses_no_step",),
        moments="while it trains",
        says="the attempts are uncharged, and each step is done once",
        only_by_name=True,
    ),
    "cluster-worker-killed": Shown(
        does="a worker's pod is deleted without grace",
        tests=(f"{_CLUSTER}::test_a_worker_that_dies_without_warning_costs_no_step",),
        moments="after a checkpoint",
        says="uncharged: its workers start again in the same attempt, or, where the pod still committed, the next attempt goes on",
        only_by_name=True,
    ),
    "cluster-node-killed": Shown(
        does="a node dies with its kubelet and all that it runs",
        tests=(f"{_CLUSTER}::test_a_node_that_dies_without_warning_costs_no_step",),
        moments="after a checkpoint",
        says="the attempt ends uncharged; what it held elsewhere is given back",
        only_by_name=True,
    ),
    "cluster-fewer-nodes": Shown(
        does="a node takes no pods, and later it does",
        tests=("tests/cluster/test_sizes.py::test_a_job_begins_on_one_node_and_takes_both_after_a_checkpoint",),
        moments="before the first attempt; after a checkpoint of the smaller one, an hour later by its status",
        says="with workers.minNodes the next attempt has one node, and after a checkpoint another has both; none is charged",
        only_by_name=True,
    ),
    "cluster-out-of-memory": Shown(
        does="the kernel ends a worker's container for its memory",
        tests=("tests/cluster/test_sizes.py::test_a_worker_that_runs_out_of_memory_goes_on_with_half_the_micro_batch",),
        moments="after a checkpoint",
        says="the attempt is charged as OutOfMemory; the next has half the micro-batch",
        only_by_name=True,
    ),
}
