"""The driver: which of Ray's nodes train, what the workers came to, and what is said when a GPU isn't there."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, Tiny

from finetune_api.errors import InvalidStorage, NoProgress, OutOfMemory, TrainingFailed, WorkerLost, WorkerPreempted
from finetune_trainer.launch.driver import follow, lost, steps_done
from finetune_trainer.launch.patience import Patience, Sign
from finetune_trainer.launch.ray_workers import worker_nodes
from finetune_trainer.machine import this_machine
from finetune_trainer.reporting.events import Event, FanOut


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": f"id-of-{name}", "NodeManagerHostname": name, "Alive": alive, "Resources": resources}


def test_the_head_and_lost_nodes_do_not_train() -> None:
    head, gone = node("head", memory=1e9), node("w0", alive=False, CPU=8.0, GPU=8.0)
    workers = [node("w2", CPU=8.0, GPU=8.0), node("w1", CPU=8.0, GPU=8.0)]
    assert [one["NodeManagerHostname"] for one in worker_nodes([head, gone, *workers], gpu=False)] == ["w1", "w2"]
    assert [one["NodeManagerHostname"] for one in worker_nodes([head, node("w3", CPU=8.0), *workers], gpu=True)] == ["w1", "w2"]


def test_what_is_done_counts_even_if_the_workers_died_afterwards() -> None:
    """A pod that goes when its checkpoint is committed may be gone before Ray knows that it was done."""
    assert steps_done(7, None, RuntimeError("worker 0 died")) == 7


def test_a_worker_that_died_without_a_word() -> None:
    with pytest.raises(TrainingFailed, match=r"the workers failed: no such actor; the same command goes on from the newest checkpoint"):
        steps_done(None, None, RuntimeError("no such actor"))
    with pytest.raises(TrainingFailed, match=r"the workers ended without a result"):
        steps_done(None, None, None)


def test_what_a_worker_said_comes_back_as_its_error() -> None:
    with pytest.raises(InvalidStorage, match="no such bucket"):
        steps_done(None, ("InvalidStorage", "no such bucket"), RuntimeError("worker 1 failed"))


class Mailbox:
    """The mailbox's handle: what is asked of it is a method, which `ask` calls. `steps`: at which poll each step is done."""

    def __init__(self, clock: "Clock", *, steps: list[int], finishes: int | None = None) -> None:
        self.clock, self.steps, self.finishes, self.polls = clock, steps, finishes, 0

    def take(self) -> list[Event]:
        self.polls += 1
        self.clock.seconds += 60
        return []

    def sign(self) -> Sign:
        done = sum(self.polls >= poll for poll in self.steps)
        return Sign(count=done, steps=done, what=f"step {done} of this attempt")

    def outcome(self) -> tuple[int | None, None]:
        return (len(self.steps) if self.finishes is not None and self.polls >= self.finishes else None, None)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def nobody() -> list[str]:
    return []


def followed(
    clock: Clock, mailbox: Mailbox, ask: Callable[[Any], Any], fit: Callable[[], None], gone: Callable[[], list[str]] = nobody
) -> Exception | None:
    return follow(fit, mailbox, ask, Patience(now=clock), gone, sink=FanOut([]), stop=threading.Event(), poll_seconds=0.0)


def call(question: Callable[[], Any]) -> Any:
    return question()


@pytest.fixture
def for_ever() -> Iterator[Callable[[], None]]:
    """What Ray Train's `fit` does when it waits for a node that is gone."""
    over = threading.Event()
    yield lambda: over.wait() and None
    over.set()


def test_ranks_that_do_not_get_on_end_the_attempt_whatever_ray_does(for_ever: Callable[[], None]) -> None:
    clock = Clock()
    mailbox = Mailbox(clock, steps=[1, 2, 3])
    with pytest.raises(NoProgress, match=r"no step and no progress of any other kind for 600 s; the last was step 3 of this attempt"):
        followed(clock, mailbox, call, for_ever)
    assert mailbox.polls == 3 + 10


def test_a_mailbox_that_does_not_answer_ends_the_attempt_too(for_ever: Callable[[], None]) -> None:
    clock = Clock()

    def late(question: Any) -> None:
        clock.seconds += 30

    with pytest.raises(NoProgress, match="for 630 s; the last was starting"):
        followed(clock, Mailbox(clock, steps=[]), late, for_ever)


def test_a_node_that_left_ray_ends_the_attempt_though_ray_train_waits_for_it(for_ever: Callable[[], None]) -> None:
    clock = Clock()
    mailbox = Mailbox(clock, steps=[1, 2, 3])
    with pytest.raises(WorkerLost, match=r"^worker-7 left Ray in the middle, and nobody said why; the same command goes on"):
        followed(clock, mailbox, call, for_ever, lambda: ["worker-7"] if clock.seconds >= 180 else [])
    assert mailbox.polls == 4, "seen after the third, believed after the fourth"


def test_a_node_that_comes_back_to_ray_is_no_loss(for_ever: Callable[[], None]) -> None:
    clock = Clock()
    away = {120.0, 240.0}
    assert (
        followed(clock, Mailbox(clock, steps=[1, 2, 3, 4, 5], finishes=5), call, for_ever, lambda: ["w"] * (clock.seconds in away)) is None
    )


def test_workers_that_are_done_need_not_end(for_ever: Callable[[], None]) -> None:
    clock = Clock()
    mailbox = Mailbox(clock, steps=[1, 2], finishes=2)
    assert followed(clock, mailbox, call, for_ever) is None
    assert clock.seconds == 2 * 60 + 120 + 60  # and a last look for events


class Death(Exception):
    preempted = False


class Failure(Exception):
    """As Ray Train's WorkerGroupError."""

    def __init__(self, **deaths: bool) -> None:
        super().__init__("the group failed")
        self.worker_failures = {int(rank[1:]): Death("gone") for rank in deaths}
        for error, preempted in zip(self.worker_failures.values(), deaths.values(), strict=True):
            error.preempted = preempted


def test_what_took_workers_away_is_told_apart() -> None:
    """Of ranks that fail together, the one whose node was taken explains the others."""
    assert type(lost(Failure(r0=False, r1=True), ["w1"])) is WorkerPreempted
    assert str(lost(Failure(r0=False, r1=True), ["w1"])).startswith("the workers on w1 were taken away by others; the same command")
    assert type(lost(Failure(r0=False, r1=False), ["w1"])) is WorkerLost
    assert type(lost(Failure(r0=False), [])) is TrainingFailed
    killed = Failure(r0=False, r1=False)
    killed.worker_failures[1] = type("OutOfMemoryError", (Exception,), {})("Ray's memory monitor killed it")
    assert type(lost(killed, [])) is OutOfMemory
    assert str(lost(killed, [])).startswith("worker 1 of the run died (killed, or out of memory), since its node's memory ran out; set")
    assert type(lost(type("PreemptionError", (Exception,), {})("node drained"), [])) is WorkerPreempted


BLIND = """
import sys, threading
from pathlib import Path
from tests.exported_models import base_folder, training_run
from finetune_api.errors import TrainingFailed
from finetune_trainer.launch import driver
from finetune_trainer.training.places import Places
from finetune_trainer.reporting.events import FanOut
from finetune_trainer.launch.ray_session import local_ray
from finetune_trainer.launch.ray_workers import RayWorkers
folder = Path(sys.argv[1])
run = training_run(base_folder(folder / "base", "llama"))
run = run.model_copy(update={"plan": run.plan.model_copy(update={"device": "gpu"})})
places = Places(model=str(folder / "base"), prepared=str(folder), base=str(folder), storage=str(folder / "storage"))
with local_ray(num_cpus=2, num_gpus=2, dashboard=False, logs=folder / "logs"):
    try:
        driver.train(RayWorkers(run, places, attempt="once"), gpu=True, sink=FanOut([]), stop=threading.Event())
    except TrainingFailed as error:
        told = error
print(told)
"""


@pytest.mark.training
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(this_machine().gpus), reason="workers see GPUs here")
@pytest.mark.thorough
def test_workers_that_were_given_gpus_and_see_none(tmp_path: Path) -> None:
    """Ray believes what it is told of GPUs; NCCL's own words would come from inside it, and name no node."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", BLIND, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert re.search(r"^workers on \S+ were given GPUs and see none; check the NVIDIA driver .*: cpu$", done.stdout, re.M), done.stderr


STOPPED = """
import sys
from finetune_trainer.launch import patience
patience.SHORTEST_SECONDS = 20.0
from finetune_cli.app import main
sys.argv = ["finetune", "run", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.training
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("victim", "how", "options", "told_of"),
    [
        # Alive for the kernel, silent for ever. The other rank waits for it in a collective.
        ("rank-1", signal.SIGSTOP, (), ("no step and no progress of any other kind for",)),
        # All that Ray started on the machine ends with it. Which of two asks first is chance.
        ("raylet", signal.SIGKILL, ("--dashboard",), ("whose raylet died", "Ray on the driver's node no longer answers")),
    ],
    ids=["a rank is stopped", "the raylet is killed"],
)
def test_what_workers_do_not_survive_ends_the_run_and_leaves_nothing_behind(
    tmp_path: Path, tiny: Tiny, victim: str, how: signal.Signals, options: tuple[str, ...], told_of: tuple[str, ...]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(tokenizer=ROOT / "examples/tiny", data=tiny.dialogues), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", STOPPED, str(job), "--run-folder", str(tmp_path / "run"), *options]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    started: list[int] = []
    try:
        wait_until(lambda: read(tmp_path / "run/metrics.jsonl").count('"StepDone"') > 3, run)  # from here on patience knows a step
        started = [process for name in ("rank-0", "rank-1", "ray::RayTrainWo", "raylet") for process in below(run.pid, name)]
        os.kill(below(run.pid, victim)[0], how)
        told, _ = run.communicate(timeout=240)
        print(told)
    finally:
        run.kill()
        left = [process for process in started if Path(f"/proc/{process}").exists()]
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in left))
    assert run.returncode == 1, told
    assert any(words in told for words in told_of), told


JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {{name: stopped}}
spec:
  model: {{name: {tokenizer}, initialization: random}}
  dataset: {{sources: [{{path: {data}}}]}}
  training: {{maxSteps: 10000, maxSequenceLength: 256, microBatchSize: 2, globalBatchSize: 4, logEverySteps: 1}}
  workers: {{device: cpu, gpusPerNode: 0, workersPerNode: 2}}
"""


def below(driver: int, name: str) -> list[int]:
    """Processes that descend from this driver and have this short name."""
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in processes if read(Path(f"/proc/{process}/comm")).strip() == name and is_below(process, driver)]


def is_below(process: int, ancestor: int) -> bool:
    while process > 1 and process != ancestor:
        status = read(Path(f"/proc/{process}/status"))
        process = int(next((line.split()[1] for line in status.splitlines() if line.startswith("PPid:")), "0"))
    return process == ancestor


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def wait_until(there: Callable[[], bool], run: "subprocess.Popen[str] | None" = None, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert run is None or run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
