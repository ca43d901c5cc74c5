"""Twenty small jobs at once in one namespace, on one operator that is killed in the middle: a row of `shown`; no test of a layer."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from tests.control_plane.conftest import control_plane, crds, proxy, stage, started
from tests.control_plane.played import RealKubelet, eventually
from tests.control_plane.stage import Stage
from tests.operator import builders

from finetune_operator import kinds

__all__ = ["control_plane", "crds", "proxy", "stage", "started"]

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(900)]

_JOBS: Final = 20
_WITHIN_SECONDS: Final = 15.0
# So long at most is waited for any step of a job: twenty take turns.
_STEP_SECONDS: Final = 300.0


def _condition(stage: Stage, name: str, kind: str) -> str:
    status = stage.api.get(kinds.FINETUNEJOBS, stage.namespace, name).get("status", {})
    return next((str(one["status"]) for one in status.get("conditions", []) if one["type"] == kind), "absent")


def _life(stage: Stage, name: str) -> None:
    """From apply to published, without a failure."""
    kubelet = RealKubelet(stage.admin, name)
    stage.submit(name, checkpoints={"storage": f"s3://bucket/{name}"}, publish={"hub": {"repository": f"org/{name}"}})
    kubelet.complete("-prepare-", builders.prepared())
    eventually(f"RayJob {name}-1", lambda: stage.api.get(kinds.RAYJOBS, stage.namespace, f"{name}-1"), seconds=_STEP_SECONDS)
    kubelet.train(f"{name}-1")
    kubelet.complete("-publish-", builders.published())
    eventually(f"{name} succeeded", lambda: _condition(stage, name, "Succeeded") == "True", seconds=_STEP_SECONDS)


@pytest.mark.parametrize("seed", range(3))
def test_twenty_jobs_at_once_end_as_if_each_were_alone(stage: Stage, seed: int) -> None:
    seconds, names = random.Random(f"twenty-jobs {seed}").uniform(0, _WITHIN_SECONDS), [f"small-{number}" for number in range(_JOBS)]
    print(f"moment: {seconds:.2f} s after the first was applied")
    with stage.deployment() as operators, ThreadPoolExecutor(_JOBS) as threads:
        killed = threading.Timer(seconds, lambda: operators[-1].kill())
        killed.start()
        lives = [threads.submit(_life, stage, name) for name in names]
        for life in lives:
            life.result()
        killed.join()
    found: dict[str, Any] = {job["metadata"]["name"]: job["status"] for job in stage.admin.of(kinds.FINETUNEJOBS)}
    attempts = {name: [(one["number"], one["outcome"]) for one in status["attempts"]] for name, status in found.items()}
    assert attempts == {name: [(1, "Finished")] for name in names}
    assert stage.names(kinds.RAYJOBS) == sorted(f"{name}-1" for name in names)
    assert Counter(name.rpartition("-")[0] for name in stage.names(kinds.JOBS)) == Counter(
        f"{name}-{stage_name}" for name in names for stage_name in ("prepare", "publish")
    )
    told = Counter((one["regarding"]["name"], one["reason"], one["note"]) for one in stage.admin.of(kinds.EVENTS) if "note" in one)
    ours = {key: count for key, count in told.items() if key[0] in names}
    assert set(ours.values()) == {1}, {key for key, count in ours.items() if count > 1}
    for name in names:
        assert {"Planned", "Prepared", "AttemptStarted", "Trained", "Published", "Succeeded"} <= {key[1] for key in ours if key[0] == name}
