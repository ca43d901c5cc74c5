"""What is done to a control plane at a random moment of a job's life: rows of `shown`, which names these; no test of a layer.

The moment: before one of the things that kubelet and KubeRay do in `life`, and up to two seconds later, while the operator is at work.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest
from tests.control_plane.conftest import control_plane, crds, proxy, stage, started
from tests.control_plane.stage import Stage, check_life, life
from tests.operator import builders

from finetune_operator import kinds
from finetune_operator.runtime.api import Conflict, NotFound

__all__ = ["control_plane", "crds", "proxy", "stage", "started"]

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(900)]

SEEDS: Final = range(3)
_PLAYS: Final = 7  # what kubelet and KubeRay do in a life
_SERVERS: Final = ("etcd", "kube-apiserver")


class _Disturbed:
    """Plays what `played` plays; before one of its plays something happens."""

    def __init__(self, played: Any, number: int, happens: Callable[[], None]) -> None:
        self._played, self._left, self._happens = played, number, happens

    def __getattr__(self, name: str) -> Any:
        play = getattr(self._played, name)
        if name not in ("complete", "rayjob", "ray_pods", "report", "finish", "train"):
            return play

        def disturbed(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._happens()
            return play(*arguments, **named)

        return disturbed


def _moment(stage: Stage, draw: str, happens: Callable[[], None]) -> None:
    """Let it happen at the moment that `draw` makes."""
    chance = random.Random(draw)
    number, seconds = chance.randint(1, _PLAYS), chance.uniform(0, 2)
    print(f"moment: before play {number} of {_PLAYS}, after {seconds:.2f} s")

    def later() -> None:
        time.sleep(seconds)
        happens()

    stage.kubelet = _Disturbed(stage.kubelet, number, later)  # type: ignore[assignment]


@pytest.mark.parametrize("seed", SEEDS)
def test_both_operators_are_killed(stage: Stage, seed: int) -> None:
    _moment(stage, f"operators-killed {seed}", lambda: [operator.kill() for operator in stage.mine if operator.alive] and None)
    with stage.deployment(), stage.deployment():
        life(stage)
    check_life(stage)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("server", _SERVERS)
def test_a_server_is_killed(stage: Stage, server: str, seed: int) -> None:
    """With SIGKILL, and started again with what it had on its disk."""

    def happens() -> None:
        processes = stage.plane.processes
        (process,) = [one for one in processes.running() if one.name == server]
        os.kill(process.pid, signal.SIGKILL)
        process.reap()
        processes.stop(server)
        stage.plane.start_etcd() if server == "etcd" else stage.plane.start_api_server()

    _moment(stage, f"{server}-killed {seed}", happens)
    with stage.deployment():
        life(stage)
    check_life(stage)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_user_deletes_the_report(stage: Stage, seed: int) -> None:
    def happens() -> None:
        with suppress(NotFound):
            stage.api.delete(kinds.FINETUNEREPORTS, stage.namespace, builders.NAME)

    _moment(stage, f"report-deleted {seed}", happens)
    with stage.deployment():
        life(stage)
    check_life(stage, keeps_report=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_user_edits_the_report(stage: Stage, seed: int) -> None:
    """Into one of another attempt that claims to be done."""
    lie = {"cluster": "starchat-9-zzzzz", "outcome": "Finished", "step": 10**6, "totalSteps": 10**6}

    def happens() -> None:
        with suppress(NotFound):
            stage.api.merge_patch(kinds.FINETUNEREPORTS, stage.namespace, builders.NAME, {"status": lie}, subresource="status")

    _moment(stage, f"report-edited {seed}", happens)
    with stage.deployment():
        life(stage)
    check_life(stage)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_user_edits_a_rayjob(stage: Stage, seed: int) -> None:
    """Its command and its labels: a RayJob that runs is not made anew by that, and is still the attempt's."""

    def happens() -> None:
        for item in stage.admin.of(kinds.RAYJOBS):
            patch = {"metadata": {"labels": {"example.org/touched": "yes"}}, "spec": {"entrypoint": "echo mine"}}
            stage.api.merge_patch(kinds.RAYJOBS, stage.namespace, item["metadata"]["name"], patch)

    _moment(stage, f"rayjob-edited {seed}", happens)
    with stage.deployment():
        life(stage)
    check_life(stage)


@contextmanager
def _writers(stage: Stage, count: int) -> Iterator[None]:
    """Others who write to the job all the time."""
    over = threading.Event()

    def write(number: int) -> None:
        words = 0
        while not over.wait(0.02):
            words += 1
            with suppress(NotFound, Conflict):
                stage.touch(f"{number}-{words}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("seed", SEEDS)
def test_others_write_to_the_job_all_the_time(stage: Stage, seed: int) -> None:
    print(f"moment: all the time, {2 + seed} writers at 50 writes a second")
    with stage.deployment(), _writers(stage, 2 + seed):
        life(stage)
    check_life(stage)
