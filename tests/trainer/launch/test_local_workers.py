"""launch/local_workers.py: real processes, whose placement does what a rank may do before it has trained anything."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.exported_models import base_folder, training_run

from finetune_api.errors import InvalidStorage, OutOfMemory, TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.launch import driver
from finetune_trainer.launch.local_workers import LineToDriver, apart, local_workers, warm
from finetune_trainer.launch.mailbox import Mailbox
from finetune_trainer.reporting.events import FanOut, Notice
from finetune_trainer.training.places import Places

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True)
class Does:
    """A placement with which each rank does something of its own, by rank."""

    deeds: tuple[Callable[[], None], ...]
    base: str
    storage: str

    def here(self, run: TrainingRun, *, weights: bool) -> Places:
        self.deeds[int(os.environ["RANK"])]()
        raise AssertionError("the deed ends the rank")

    def nodes(self, run: TrainingRun) -> int:
        return 1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose_connection() -> None:
    time.sleep(0.3)
    raise ConnectionError("closed by peer")


def refuse() -> None:
    raise InvalidStorage("no such bucket")


def take_too_much() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def wait() -> None:
    threading.Event().wait()


def tell_surroundings() -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    told = {name: os.environ[name] for name in names}
    deaf = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM})
    name = Path("/proc/self/comm").read_text(encoding="ascii").strip()
    print("printed by a rank")
    raise ValueError(json.dumps(told | {"deaf": deaf, "threads": torch.get_num_threads(), "name": name}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """Of two workers on the CPU, which share an import of torch."""
    warm(["finetune_trainer.training.collectives", "finetune_trainer.training.rank"])
    one = training_run(base_folder(tmp_path_factory.mktemp("run") / "base", "llama"))
    return one.model_copy(update={"plan": one.plan.model_copy(update={"world_size": 2, "device": "cpu"})})


def trained(run: TrainingRun, folder: Path, *deeds: Callable[[], None], stop: threading.Event | None = None) -> int:
    with local_workers(run, Does(deeds, str(folder), str(folder / "storage")), attempt="once", cpus=6, logs=folder) as workers:
        return driver.train(workers, gpu=False, sink=FanOut([]), stop=stop or threading.Event())


def living_ranks() -> list[str]:
    return [process.name for process in multiprocessing.active_children() if process.name.startswith("rank-")]


def test_a_rank_that_was_killed_explains_the_one_that_waited_for_it(run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"^worker 1 of the run died \(killed, or out of memory\); the same command goes on"):
        trained(run, tmp_path / "logs", lose_connection, die)
    assert "closed by peer" in (tmp_path / "logs/rank-0.log").read_text()
    assert living_ranks() == []


def abort() -> None:
    """As gloo does where its ranks disagree."""
    os.write(2, b"terminate called: sizes differ\n")
    os.abort()


def test_a_rank_that_a_library_ended_is_told_with_its_last_line(run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"^worker 1 of the run died \(exit code -6: terminate called: sizes differ\); the same"):
        trained(run, tmp_path / "logs", wait, abort)


def test_what_a_rank_refuses_comes_back_as_its_error_and_ends_the_rank_that_waits(run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(InvalidStorage, match="no such bucket"):
        trained(run, tmp_path / "logs", refuse, wait)
    assert living_ranks() == []


def test_a_rank_that_runs_out_of_memory_says_what_needs_less(run: TrainingRun, tmp_path: Path) -> None:
    rows = run.plan.micro_batch_size
    with pytest.raises(OutOfMemory, match=rf"^worker 1 ran out of memory with micro-batches of {rows} rows? .*; set spec\.training\."):
        trained(run, tmp_path / "logs", wait, take_too_much)
    assert living_ranks() == []


def test_what_a_rank_finds_around_it(run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun has it, its part of the CPUs, and deaf to what a terminal sends to all."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(TrainingFailed, match=r"^worker 1 failed: ValueError: .*; the same command goes on") as caught:
        trained(run, tmp_path / "logs", wait, tell_surroundings)
    told = json.loads(str(caught.value).removeprefix("worker 1 failed: ValueError: ").partition("; the same")[0])
    assert told == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "3",
        "threads": 3,
        "deaf": [signal.SIGINT, signal.SIGTERM],
        "name": "rank-1",
    }
    assert (tmp_path / "logs/rank-1.log").read_text().splitlines()[1] == "printed by a rank"


def test_nothing_is_left_of_ranks_that_hang(run: TrainingRun, tmp_path: Path) -> None:
    with local_workers(run, Does((wait, wait), str(tmp_path), str(tmp_path / "storage")), attempt="once", cpus=2, logs=tmp_path) as workers:
        fitting = threading.Thread(target=pytest.raises, args=(Exception, workers.fit))
        fitting.start()
        while len(living_ranks()) < 2:
            time.sleep(0.01)
    fitting.join()
    assert living_ranks() == []


def test_a_call_is_made_apart_where_ranks_are_forked(run: TrainingRun) -> None:
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(InvalidStorage, match="no such bucket"):
        apart(refuse)


def test_a_driver_imports_neither_torch_nor_ray() -> None:
    """Ranks do, while the driver prepares the data."""
    modules = "finetune_assistant.job_evaluation.stage, finetune_trainer.pipeline"
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'transformers', 'ray', 'deepspeed'}} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def test_a_rank_and_its_driver_talk() -> None:
    """What a rank tells arrives in order; what it asks is answered."""
    mailbox = Mailbox()
    ours, theirs = multiprocessing.Pipe()

    def answer() -> None:
        for _ in range(5):
            told, *arguments = ours.recv()
            ours.send(getattr(mailbox, told)(*arguments))

    threading.Thread(target=answer, daemon=True).start()
    line = LineToDriver(theirs)
    line.record(Notice(message="first"))
    line.progress("loading the model")
    assert not line.stop_requested()
    mailbox.request_stop()
    assert line.stop_requested()
    line.finish(7)
    assert [str(event) for event in mailbox.take()] == [str(Notice(message="first"))]
    assert mailbox.outcome() == (7, None)
    assert mailbox.sign().what == "step 2 of this attempt"
