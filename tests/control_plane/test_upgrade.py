"""The chart of a former commit upgraded to this one and taken back, beside an attempt that runs. Both operators are the real ones,
as processes; kubelets and KubeRay are played.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.control_plane.operators import Operator, Operators, operators
from tests.control_plane.played import eventually
from tests.control_plane.stage import HUB, Stage
from tests.operator import builders
from tests.testcluster.binaries import binaries, kuberay_crds
from tests.testcluster.control_plane import ControlPlane, control_plane
from tests.upgrade.former import CHART, FORMER, FORMER_SOURCES, former_tree, is_at_hand

from finetune_operator import keys, kinds
from finetune_operator.runtime.api import Api

# What the API server makes of stored jobs of that chart is also in test_crd_updates.py, which needs no history.
pytestmark = [
    pytest.mark.control_plane,
    pytest.mark.skipif(not is_at_hand(), reason=f"the history doesn't go back to {FORMER}: git fetch --unshallow"),
]

Json = dict[str, Any]
CRD = "finetunejobs.finetune.dev"


@dataclass(slots=True, kw_only=True)
class Installed:
    """A cluster with the former chart, and the operators that a Deployment would run; none runs here, for there are no nodes."""

    plane: ControlPlane
    former: Path
    old: Operators
    new: Operators
    running: list[Operator] = field(default_factory=list)

    def helm(self, *arguments: str | Path) -> None:
        command = [binaries(["helm"])["helm"], *arguments, "--namespace=finetune-system", f"--kubeconfig={self.plane.kubeconfig}"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def crd(self) -> Json:
        found: Json = json.loads(self.plane.kubectl("get", "crd", CRD, "-o", "json"))
        schema: Json = found["spec"]["versions"][0]["schema"]
        return schema

    def operate(self, version: Operators, namespace: str) -> None:
        """The former replica ends as the kubelet ends it, and one of this version takes over."""
        for operator in self.running:
            operator.stop()
        self.running = [version.start(self.plane.kubeconfig, "--namespaces", namespace, "--operator-namespace", namespace)]

    def lines(self) -> str:
        return self.old.lines()[-3000:] + self.new.lines()[-3000:]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("upgrade")
    former = former_tree(folder / "former", "operator", CHART)
    (folder / "old").mkdir()
    (folder / "new").mkdir()
    with (
        control_plane(folder / "cluster") as plane,
        operators(folder / "old", code=former / "operator") as old,
        operators(folder / "new") as new,
    ):
        plane.kubectl("create", "namespace", "finetune-system")
        plane.kubectl("apply", "--server-side", "-f", kuberay_crds())
        found = Installed(plane=plane, former=former, old=old, new=new)
        found.helm("install", "finetune-operator", former / CHART)
        api = Api.connect(plane.kubeconfig, user_agent="test")
        for resource in (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS, kinds.RAYJOBS):
            eventually(f"{resource.plural} are served", lambda r=resource: api.list_pages(r, None)[1])  # type: ignore[misc]
        api.close()
        yield found


def record(stage: Stage) -> Json:
    """What no change of operators may touch: attempts, usage, the frozen run, and the objects that run."""
    status = stage.status
    attempts = [{key: attempt.get(key) for key in ("number", "rayJob", "outcome", "runDigest", "gpus")} for attempt in status["attempts"]]
    return {
        "attempts": attempts,
        "charged": status.get("usage", {}).get("chargedFailures", 0),
        "run": {key: status["run"][key] for key in ("digest", "identity", "configMap", "preparationDigest", "image")},
        "preparation": status["preparation"]["digest"],
        "objects": {
            resource.plural: sorted((item["metadata"]["name"], item["metadata"]["uid"]) for item in stage.admin.of(resource))
            for resource in (kinds.RAYJOBS, kinds.JOBS, kinds.CONFIG_MAPS, kinds.FINETUNEREPORTS, kinds.PODS, kinds.SERVICE_ACCOUNTS)
        },
    }


def told_sources(rayjob: Json) -> list[Json]:
    """The sources as the pods of an attempt read them."""
    template = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    found: list[Json] = json.loads(template["metadata"]["annotations"][keys.JOB_SPEC_ANNOTATION])["spec"]["dataset"]["sources"]
    return found


def test_a_job_goes_on_through_an_upgrade_and_the_way_back(installed: Installed) -> None:
    """Each operator takes over an attempt that the other began, goes on with it, sees it fail, and begins the next one of the same run."""
    stage = Stage(installed.plane, installed.new, "beside-a-training")
    told = installed.lines

    def begun(attempt: int) -> Json:
        """This attempt's RayJob, whose pods run."""
        rayjob = stage.rayjob(f"starchat-{attempt}")
        stage.kubelet.rayjob(f"starchat-{attempt}", "Running", job="RUNNING")
        stage.kubelet.ray_pods(f"starchat-{attempt}-abcde")
        eventually(
            f"attempt {attempt} runs", lambda: stage.status["attempts"][attempt - 1]["runningTime"], say=lambda: (stage.status, told())
        )
        return rayjob

    def steps(attempt: int, step: int) -> None:
        """The driver reports this step, and whoever operates now writes it down."""
        checkpoint = {"step": step, "attempt": attempt}
        stage.kubelet.report(f"starchat-{attempt}-abcde", step=step, totalSteps=20, loss=1.0, checkpoint=checkpoint)
        eventually(f"step {step} in the status", lambda: stage.status["progress"]["step"] == step, say=lambda: (stage.status, told()))

    def fails(attempt: int, step: int) -> None:
        stage.kubelet.report(f"starchat-{attempt}-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=step)
        stage.kubelet.finish(f"starchat-{attempt}", "FAILED")

    installed.operate(installed.old, stage.namespace)
    stage.submit(dataset={"sources": FORMER_SOURCES}, publish=HUB, failurePolicy={"backoffSeconds": 1, "maxFailures": 5})
    stage.kubelet.complete("-prepare-", builders.prepared())
    begun(1)
    steps(1, 3)
    before, old_crd = record(stage), installed.crd()

    installed.helm("upgrade", "finetune-operator", ROOT / CHART)
    new_crd = installed.crd()
    assert new_crd != old_crd
    installed.operate(installed.new, stage.namespace)
    steps(1, 5)
    assert record(stage) == before
    fails(1, 5)
    # The image that began the run reads its own words.
    assert [source.get("name") for source in told_sources(begun(2))] == [source["name"] for source in FORMER_SOURCES]
    steps(2, 7)
    after = record(stage)
    assert after["run"] == before["run"]

    # A plain rollback takes the newer definitions away; a job of the former chart loses nothing.
    installed.helm("rollback", "finetune-operator", "1")
    assert installed.crd() == old_crd
    installed.operate(installed.old, stage.namespace)
    steps(2, 8)
    assert record(stage) == after
    installed.helm("upgrade", "finetune-operator", ROOT / CHART)
    assert installed.crd() == new_crd

    # The way back of docs/cluster.md: the former chart, without its definitions.
    installed.helm("upgrade", "finetune-operator", installed.former / CHART, "--set", "crds.enabled=false")
    assert installed.crd() == new_crd
    steps(2, 9)
    assert record(stage) == after
    fails(2, 9)
    begun(3)

    installed.helm("upgrade", "finetune-operator", ROOT / CHART)
    assert installed.crd() == new_crd
    installed.operate(installed.new, stage.namespace)
    stage.kubelet.train("starchat-3")
    stage.kubelet.complete("-publish-", builders.published())
    stage.until("Succeeded", "True")
    attempts = stage.status["attempts"]
    assert [(one["number"], one["outcome"]) for one in attempts] == [(1, "Failed"), (2, "Failed"), (3, "Finished")]
    assert {one["runDigest"] for one in attempts} == {before["run"]["digest"]}

    # What this one wrote, the former one reads: it looks at the job and finds nothing to do.
    installed.operate(installed.old, stage.namespace)
    stage.change(ttlSecondsAfterFinished=1_000_000)
    eventually(
        "the former operator looked again", lambda: stage.status["observedGeneration"] == stage.job["metadata"]["generation"], say=told
    )
    assert stage.condition("Succeeded")[0] == "True"


def test_jobs_outlive_the_release(installed: Installed) -> None:
    """Uninstalled while nothing runs: jobs, definitions and what jobs own stay; installed again, they go on."""
    kept = Stage(installed.plane, installed.new, "kept")
    kept.submit(dataset={"sources": [{"path": "org/data"}]})
    installed.helm("uninstall", "finetune-operator")
    assert kept.job["spec"]["model"]
    installed.helm("install", "finetune-operator", ROOT / CHART)
    installed.operate(installed.new, kept.namespace)
    kept.kubelet.complete("-prepare-", builders.prepared())
    kept.rayjob("starchat-1")


def test_this_chart_takes_every_value_of_the_former_one(installed: Installed) -> None:
    former = installed.former / CHART
    installed.helm(
        "template", "finetune-operator", ROOT / CHART, "--values", former / "values.yaml", "--values", former / "ci/all-values.yaml"
    )
