"""`finetune run` as a user types it, with real workers, DeepSpeed and S3: whole, killed, stopped, damaged, and run twice at once."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from examples.demo.s3_server import S3Server

from finetune_api.errors import RunConflict
from finetune_api.plan import Machine, plan
from finetune_cli.app import main
from finetune_cli.earlier_runs import calibration_of
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.launch.session import MARK_ENV, PREFIX
from finetune_trainer.publishing.model_folder import read_exported
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.s3_client import S3Credentials
from finetune_trainer.training.compiled_ops import compiled_ops_folder, turn

# Each run takes half a minute on two cores, more on a busy machine.
pytestmark = [pytest.mark.training, pytest.mark.timeout(1800)]

FINETUNE = Path(sys.executable).with_name("finetune")
BUCKET = "finetune-tests"
TOTAL_STEPS = 12
SETTINGS = {
    "dataset.sources.0.path": Path(__file__).parent.parent / "data/tiny_dialogues.jsonl",
    "training.epochs": "null",
    "training.maxSteps": TOTAL_STEPS,
    "training.maxSequenceLength": 128,
    "training.microBatchSize": 1,
    "training.globalBatchSize": 4,
    "training.dropout": 0.1,
    "training.precision": "fp32",  # whatever this machine's CPU is fast at: losses are compared to a part in 10^5
    "checkpoints.every.steps": 2,
}


@dataclass
class Run:
    """One `finetune run --json` and what it has printed."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def until(self, kind: str, step: int | None = None) -> dict[str, Any]:
        """Read on to an event; the test fails if the run ends before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1].get("kind") == kind and step in {None, self.events[-1].get("step")}:
                return self.events[-1]
        raise AssertionError(f"ended without {kind} {step}: {self.events[-3:]}, exit {self.process.wait()}")

    def end(self) -> int:
        """Read to the end; the exit code."""
        assert self.process.stdout is not None
        self.events += [json.loads(line) for line in self.process.stdout]
        return self.process.wait()

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("kind") == kind]

    @property
    def error(self) -> dict[str, Any]:
        """The error object that `--json` ends with."""
        return self.events[-1]


@dataclass(frozen=True)
class Place:
    """A run folder and the storage beside it."""

    folder: Path
    prefix: str
    server: S3Server

    @contextlib.contextmanager
    def running(self, tiny_job: Path, **changes: object) -> Iterator[Run]:
        """The command, running; ended with the block if it has not ended before."""
        settings = SETTINGS | {
            "checkpoints.storage": f"s3://{BUCKET}/{self.prefix}",
            "checkpoints.endpoint": self.server.endpoint,
            "publish.directory.path": self.folder.with_name(self.folder.name + "-published"),
        }
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        command = [FINETUNE, "run", tiny_job, "--json", "--run-folder", self.folder]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        keys = {"AWS_ACCESS_KEY_ID": self.server.access_key, "AWS_SECRET_ACCESS_KEY": self.server.secret_key}
        with (self.folder.with_name(self.folder.name + ".err")).open("ab") as errors:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | keys,
                start_new_session=True,
            )
        try:
            yield Run(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def checkpoints(self) -> CheckpointStore:
        run = RunFolder(self.folder).frozen_run()
        assert run is not None
        keys = S3Credentials(access_key=self.server.access_key, secret_key=self.server.secret_key)
        storage = open_storage(f"s3://{BUCKET}/{self.prefix}", endpoint=self.server.endpoint, credentials=lambda: keys)
        return CheckpointStore(storage, identity=run.identity, job=run.job.metadata.name)

    def last(self) -> Manifest:
        newest = self.checkpoints().newest_verified()
        assert newest is not None
        return newest


def digests(place: Place) -> list[tuple[str, ...]]:
    """Of every byte of masters and moments, rank by rank."""
    last = place.last()
    assert last.step == TOTAL_STEPS
    return [one.digests for one in last.objects]


def exported_digests(place: Place) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((place.folder / "model/finetune_export.json").read_text())["files"]
    return {name: file for name, file in files.items() if name.endswith(".safetensors")}


def measured(place: Place) -> list[tuple[Any, ...]]:
    """What metrics.jsonl says, without times and memory."""
    lines = [json.loads(line) for line in (place.folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"], line["loss"], line.get("grad_norm"), line.get("learning_rate")) for line in lines]


def session_processes() -> dict[int, str]:
    """Every process of a session of ours, by id, with its short name: those with its mark, and those that write its log files."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            process = int(entry.name)
            marked = MARK_ENV.encode() in (entry / "environ").read_bytes()
            if marked or any(f"/{PREFIX}" in target(file) for file in (entry / "fd").iterdir()):
                found[process] = (entry / "comm").read_text(encoding="utf-8").strip()
    return found


def target(link: Path) -> str:
    """Where a link leads; an empty string when it is gone: a living process closes files while they are listed."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def wait_until_gone(seconds: float = 30.0) -> None:
    """Until no process of a session is left; the watchdog needs a moment."""
    deadline = time.monotonic() + seconds
    while left := session_processes():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole(s3: S3Server, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Run]:
    """A run that nobody disturbed, after one that was killed while it compiled DeepSpeed's op."""
    with turn(compiled_ops_folder()):
        left_behind = compiled_ops_folder() / "deepspeed_shm_comm/lock"
        left_behind.parent.mkdir(exist_ok=True)
        left_behind.touch()
    place = Place(tmp_path_factory.mktemp("whole") / "run", "whole", s3)
    with place.running(tiny.job) as run:
        assert run.end() == 0, run.events[-1]
    wait_until_gone()
    return place, run


def test_a_whole_run(whole: tuple[Place, Run]) -> None:
    place, run = whole
    steps, evaluations = run.of_kind("StepDone"), run.of_kind("EvaluationDone")
    assert [step["step"] for step in steps] == list(range(1, TOTAL_STEPS + 1))
    assert evaluations[0]["step"] == 0
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert [one["step"] for one in run.of_kind("CheckpointCommitted")] == list(range(2, TOTAL_STEPS + 1, 2))
    assert {"run.json", "job.yaml", "metrics.jsonl", "tensorboard", "report.html", "model"} <= {
        file.name for file in place.folder.iterdir()
    }
    published = Path(run.of_kind("Published")[0]["where"])
    assert (published / "model.safetensors").read_bytes() == (place.folder / "model/model.safetensors").read_bytes()
    assert not (place.folder / "logs").exists()


def test_a_run_calibrates_the_next_plan(whole: tuple[Place, Run]) -> None:
    """Without a peak of its CPUs anywhere, its steps tell their speed, and its processes what they hold before a model."""
    place, run = whole
    assert all(0 < step["footprint_bytes"] < step["memory_bytes"] for step in run.of_kind("StepDone"))
    frozen = RunFolder(place.folder).frozen_run()
    assert frozen is not None
    assert frozen.plan.seconds is None
    earlier = calibration_of([str(place.folder)], frozen.job)
    assert (earlier.runs, earlier.footprint_bytes) == (1, run.of_kind("StepDone")[0]["footprint_bytes"])
    again = plan(frozen.job, frozen.model_shape, frozen.data, Machine(fast_bf16=False), earlier)
    assert again.seconds is not None
    assert again.seconds > 0


def test_what_ranks_printed_is_kept_beside_the_checkpoints(
    whole: tuple[Place, Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = whole
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", place.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", place.server.secret_key)
    printed = []
    for rank in (0, 1):
        assert main(["logs", str(place.folder), "--rank", str(rank)]) == 0
        printed.append(capsys.readouterr().out)
    assert all(printed), "DeepSpeed says something on every rank"
    assert printed[0] != printed[1]
    assert place.server.secret_key not in "".join(printed)
    assert main(["logs", str(place.folder), "--rank", "2"]) == 2
    assert "there are driver, rank-0, rank-1" in capsys.readouterr().err
    assert main(["logs", str(place.folder), "--attempt", "1"]) == 0
    steps = [event["step"] for event in map(json.loads, capsys.readouterr().out.splitlines()) if event["kind"] == "StepDone"]
    assert steps == list(range(1, TOTAL_STEPS + 1))
    assert main(["logs", str(place.folder), "--attempt", "1", "--list", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert [(log["log"], log["outcome"]) for log in kept] == [("driver", "Done"), ("rank-0", "Done"), ("rank-1", "Done")]


def test_the_published_model_loads_in_plain_transformers_and_has_the_evaluation_loss(whole: tuple[Place, Run]) -> None:
    """The engine measured the loss of packed rows under ZeRO-3; a fresh process measures it again, dialogue by dialogue."""
    place, run = whole
    frozen = RunFolder(place.folder).frozen_run()
    assert frozen is not None
    script = f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from pathlib import Path
from finetune_trainer.preparation.store import PreparedData
model = AutoModelForCausalLM.from_pretrained({str(place.folder / "model")!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(place.folder / "model")!r})
assert len(tokenizer.encode("<|assistant|>", add_special_tokens=False)) == 1
data = PreparedData.open(Path({str(place.folder / "prepared" / frozen.data.fingerprint)!r}), "evaluation")
total = count = 0
for index in range(data.num_examples):
    ids, labels = torch.tensor(data.ids(index).astype("int64"))[None], torch.tensor(data.labels(index))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    total += torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum").item()
    count += int((labels[0, 1:] != -100).sum())
print(total / count)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(run.of_kind("EvaluationDone")[-1]["loss"], rel=1e-5)


def test_the_checkpoints_storage_is_all_that_an_export_needs(whole: tuple[Place, Run], tmp_path: Path) -> None:
    place, _ = whole
    server = place.server
    keys = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    command = [FINETUNE, "export", f"s3://{BUCKET}/{place.prefix}", "--step", str(TOTAL_STEPS), "--output", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | keys, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = read_exported(tmp_path / "model").files, read_exported(place.folder / "model").files
    described = {"README.md"}  # this machine isn't asked where it was trained
    assert {name: ours[name] for name in ours.keys() - described} == {name: theirs[name] for name in theirs.keys() - described}


def test_the_same_command_again_changes_nothing(whole: tuple[Place, Run], tiny: Any) -> None:
    place, _ = whole
    before, events = exported_digests(place), (place.folder / "metrics.jsonl").read_bytes()
    with place.running(tiny.job) as run:
        assert run.end() == 0
    assert not run.of_kind("StepDone")
    assert any("are done already" in notice["message"] for notice in run.of_kind("Notice"))
    assert exported_digests(place) == before
    assert (place.folder / "metrics.jsonl").read_bytes() == events


def test_killed_and_stopped_it_ends_bit_identical(whole: tuple[Place, Run], s3: S3Server, tiny: Any, tmp_path: Path) -> None:
    """Killed, damaged, stopped, and damaged again after its end: it goes on, at another world size, too."""
    reference, undisturbed = whole
    place = Place(tmp_path / "run", "killed", s3)

    # kill -9 of the driver: nothing is left running, and the lock goes with it.
    with place.running(tiny.job) as run:
        run.until("CheckpointCommitted", step=4)
        run.process.kill()
        run.process.wait()
    wait_until_gone()
    killed_at = place.last().step
    assert 4 <= killed_at < TOTAL_STEPS - 2

    # A byte of its last checkpoint changes: the steps after the one before it are trained again.
    damage(place, killed_at)
    done = killed_at - 2

    # Ctrl-C and `timeout` signal the whole group, in which the ranks are too: a checkpoint of the step at hand, and exit code 130.
    with place.running(tiny.job) as run:
        assert run.until("Resumed")["step"] == done
        run.until("StepDone", step=done + 1)
        os.killpg(run.process.pid, signal.SIGINT)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 130
        assert run.error["error"] == "Interrupted"
    wait_until_gone()
    stopped_at = place.last().step
    assert done < stopped_at < TOTAL_STEPS
    assert f"stopped after step {stopped_at} of {TOTAL_STEPS}" in run.error["message"]

    # The same command goes on to the end.
    with place.running(tiny.job) as run:
        assert run.end() == 0
    assert run.of_kind("Resumed")[0]["step"] == stopped_at
    assert digests(place) == digests(reference)
    assert exported_digests(place) == exported_digests(reference)
    assert measured(place) == measured(reference)

    # A byte of the last two checkpoints changes before the model is exported again: what came after the one before them is trained again.
    # Rows and their order are the same with one worker; the sums are taken in another order, so the loss is equal to rounding.
    damage(place, TOTAL_STEPS)
    damage(place, TOTAL_STEPS - 2)
    shutil.rmtree(place.folder / "model")
    with place.running(tiny.job, workers__workersPerNode=1) as run:
        first = run.until("StepDone")
        # kill -9 of the worker: the run fails, says so and how to go on.
        (worker,) = (pid for pid, name in session_processes().items() if name == "rank-0")
        os.kill(worker, signal.SIGKILL)
        assert run.end() == 1
    wait_until_gone()
    notices = [notice["message"] for notice in run.of_kind("Notice")]
    assert any("what came after the checkpoint before it is trained again" in notice for notice in notices)
    assert any("trained by torch alone" in notice for notice in notices), "ZeRO's checkpoint, and one worker"
    assert sum("can't be used, the one before it is tried" in notice for notice in notices) == 2
    resumed_at = run.of_kind("Resumed")[0]["step"]
    assert first["step"] == resumed_at + 1 < TOTAL_STEPS - 2
    assert first["loss"] == pytest.approx(undisturbed.of_kind("StepDone")[resumed_at]["loss"], rel=1e-5)
    assert run.error["error"] == "TrainingFailed"
    assert "of the run died (killed, or out of memory); the same command goes on" in run.error["message"]


def damage(place: Place, step: int) -> None:
    """Change one byte of a checkpoint in the storage, of a master's: an export reads nothing else."""
    checkpoints = place.checkpoints()
    key = checkpoints.open(step).objects[1].key
    content = bytearray(checkpoints.storage.get(key))
    content[0] ^= 1
    checkpoints.storage.put(key, content)


@pytest.mark.thorough
def test_a_run_that_ends_early_ends_there_after_a_kill_too(s3: S3Server, tiny: Any, tmp_path: Path) -> None:
    """Evaluated every two steps; no loss falls by 100, so the second evaluation after that of step 0 is one too many."""
    place = Place(tmp_path / "run", "early", s3)
    stops = {"evaluation__everySteps": 2, "evaluation__earlyStopping__patience": 2, "evaluation__earlyStopping__minDelta": 100}
    with place.running(tiny.job, **stops) as run:
        run.until("CheckpointCommitted", step=2)
        run.process.kill()
        run.process.wait()
    wait_until_gone()
    known = place.last().extra["evaluations"]
    assert [step for step, _ in known] == [0, 2]
    with place.running(tiny.job, **stops) as run:
        assert run.end() == 0
    assert [one["step"] for one in run.of_kind("EvaluationDone")] == [4]
    (early,) = run.of_kind("StoppedEarly")
    assert early["message"].startswith(f"stopped early at step 4 of {TOTAL_STEPS}: none of the last 2 evaluations was better than the loss")
    last = place.last()
    assert last.step == early["step"] == run.of_kind("Finished")[0]["step"] == 4
    assert last.extra["evaluations"] == [*known, [4, early["loss"]]]
    assert read_exported(place.folder / "model").step == 4
    assert main(["get", str(place.folder), "--json"]) == 0


def test_two_runs_at_once_in_one_folder(s3: S3Server, tiny: Any, tmp_path: Path) -> None:
    place = Place(tmp_path / "run", "twice", s3)
    place.folder.mkdir()
    with RunFolder(place.folder).locked(), place.running(tiny.job) as second:
        assert second.end() == RunConflict.exit_code
    assert second.error["error"] == "RunConflict"
    assert f"is in use by process {os.getpid()}" in second.error["message"]


def test_another_job_in_the_same_folder_is_refused_by_field(whole: tuple[Place, Run], tiny: Any) -> None:
    place, _ = whole
    with place.running(tiny.job, training__optimizer__learningRate=0.5) as run:
        assert run.end() == 2
    assert run.error["error"] == "RunConflict"
    assert "spec.training.optimizer.learningRate differs" in run.error["message"]


def test_another_job_on_the_same_storage_is_refused(whole: tuple[Place, Run], tiny: Any, tmp_path: Path) -> None:
    place, _ = whole
    with Place(tmp_path / "run", place.prefix, place.server).running(tiny.job, training__seed=7) as run:
        assert run.end() == 2
    assert run.error["error"] == "RunConflict"
    assert "belongs to job 'tiny'" in run.error["message"]
