"""Workers start again in place: a rank is killed, and the same driver goes on in the same Ray."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Tiny
from tests.trainer.pods.stages import Stages, lines

from finetune_api.jobfile import parse_job
from finetune_trainer.checkpoints.claims import IDENTITY_KEY
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.pods.pod import run_stage
from finetune_trainer.pods.prepare import prepared
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.kept_runs import kept_runs, life_of

pytestmark = [pytest.mark.training, pytest.mark.timeout(1200)]

TOTAL_STEPS = 16
# A checkpoint every so many steps.
EVERY = 4


def test_a_rank_that_is_killed_costs_the_steps_since_the_newest_checkpoint_and_nothing_else(
    tiny: Tiny, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """Masters and moments end as those of a run that nobody disturbed, in one attempt of one driver, which counts a failure."""
    undisturbed = ready(tiny, tmp_path / "undisturbed", ray_environment)
    with undisturbed.training() as process:
        assert [event["step"] for event in lines(process) if event.get("kind") == "StepDone"] == list(range(1, TOTAL_STEPS + 1))
        assert process.wait() == 0, errors(undisturbed)

    killed = ready(tiny, tmp_path / "killed", ray_environment | {"FINETUNE_FAILURES_LEFT": "1"})
    ends, again, resumed = disturbed(killed, lambda: os.kill(ranks(ray_environment)[-1], signal.SIGKILL))
    assert ends["reason"] == "TrainingFailed"
    assert "of the run died (killed, or out of memory)" in ends["message"]
    assert len(ends["hosts"]) == 1
    assert (again["count"], again["charged"]) == (1, 1)
    assert resumed["step"] >= EVERY
    assert state(killed) == state(undisturbed)
    assert measured(killed) == measured(undisturbed), "every step once, with the loss that it has"

    # One attempt, with the logs of both starts of its ranks; two claims.
    storage = DirectoryStorage(killed.folder / "storage")
    (attempt,) = kept_runs(storage)["training"]
    assert attempt.in_order()[:5] == ["driver", "rank-0", "rank-1", "rank-0.2", "rank-1.2"]
    assert [end.outcome for who in ("rank-0.2", "rank-1.2") if (end := life_of(storage, attempt, who).end)] == ["Done", "Done"]
    assert len(list(storage.list("claims/"))) == 2


def test_a_node_that_is_gone_is_replaced_by_one_that_joins(
    tiny: Tiny, tmp_path: Path, ray_cluster: tuple[dict[str, str], Callable[[], "subprocess.Popen[bytes]"]]
) -> None:
    """As KubeRay replaces a pod: the new one is another node of Ray, which no selector of the first workers names. It costs no failure."""
    environment, join = ray_cluster
    _, lost = join(), join()
    stages = ready(tiny, tmp_path / "lost", environment | {"FINETUNE_FAILURES_LEFT": "0"}, nodes=2, workersPerNode=1)

    def replace() -> None:
        os.killpg(lost.pid, signal.SIGKILL)
        join()

    ends, again, resumed = disturbed(stages, replace)
    assert (ends["reason"], len(ends["hosts"])) == ("WorkerLost", 1)
    assert (again["count"], again["charged"]) == (1, 0)
    assert resumed["step"] >= EVERY
    assert [step for step, *_ in measured(stages)] == list(range(1, TOTAL_STEPS + 1))


def disturbed(stages: Stages, disturb: Callable[[], None]) -> list[dict[str, Any]]:
    """Train to the end, with something done when the first checkpoint is there; what was told of it: Restarting, Restarted, Resumed."""
    events: list[tuple[float, dict[str, Any]]] = []
    struck = 0.0
    with stages.training() as process:
        for event in lines(process):
            events.append((time.monotonic(), event))
            if event.get("kind") == "CheckpointCommitted" and not struck:
                struck = time.monotonic()
                disturb()
        assert process.wait() == 0, errors(stages)
    told = [(at, event) for at, event in events if event.get("kind") in ("Restarting", "Restarted", "Resumed")]
    assert [event["kind"] for _, event in told] == ["Restarting", "Restarted", "Resumed"]
    first = next(at for at, event in events if event.get("kind") == "StepDone" and at > told[2][0])
    seconds = [f"{at - struck:.1f}" for at in (*(at for at, _ in told), first)]
    print(f"seconds until it was told, ranks lived, they had restored, a new step was done: {', '.join(seconds)}")
    return [event for _, event in told]


def ready(tiny: Tiny, folder: Path, environment: dict[str, str], **workers: int) -> Stages:
    """A job that was prepared, with its frozen run."""
    folder.mkdir()
    spec = yaml.safe_load(tiny.job.read_text())["spec"]
    spec["model"]["name"] = str(tiny.model)
    spec["dataset"]["sources"] = [{"path": str(tiny.dialogues)}]
    spec["training"] |= {"epochs": None, "maxSteps": TOTAL_STEPS}
    spec["checkpoints"] = {"storage": str(folder / "storage"), "every": {"steps": EVERY}}
    spec["workers"] |= workers
    spec["publish"] = None
    raw = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "in-place"}, "spec": spec}
    (folder / "job.json").write_text(json.dumps(raw))
    stages = Stages(folder, environment)
    assert run_stage(prepared, stages.pod()) == 0
    stages.freeze(parse_job(raw))
    return stages


def errors(stages: Stages) -> str:
    return (stages.folder / "train.err").read_text()[-3000:]


def ranks(environment: dict[str, str]) -> list[int]:
    """Processes of Ray Train's workers in the Ray of this test."""
    mark = f"RAY_AUTH_TOKEN={environment['RAY_AUTH_TOKEN']}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "comm").read_text().startswith("ray::RayTrainWo") and mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # no process, or gone
            continue
    return sorted(found)


def state(stages: Stages) -> list[tuple[str, ...]]:
    """Digests of the masters and moments of the last checkpoint, by rank; other bytes have others."""
    storage = DirectoryStorage(stages.folder / "storage")
    identity = json.loads(storage.get(IDENTITY_KEY))["identity"]
    newest = CheckpointStore(storage, identity=identity, job="in-place").newest_verified()
    assert newest is not None
    assert newest.step == TOTAL_STEPS
    return [part.digests for part in newest.objects]


def measured(stages: Stages) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm, as metrics.jsonl has them."""
    found = [json.loads(line) for line in (stages.folder / "storage/metrics.jsonl").read_text().splitlines()]
    return [(one["step"], one["loss"], one["grad_norm"]) for one in found if one["kind"] == "StepDone"]
