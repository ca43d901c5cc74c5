"""`make upgrade`: the first chart on a real cluster, this one in its place and back again, beside a training that steps.

What was seen becomes the table of docs/cluster.md. Needs root, as `make cluster` does, and the history back to the first chart.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.operator import SYSTEM, Jobs, chart_values, helm
from tests.conftest import ROOT, Tiny
from tests.pages import with_table
from tests.testcluster.cluster import Cluster, cluster
from tests.testcluster.host_python import check_place
from tests.testcluster.images import trainer_image
from tests.testcluster.operator_image import built_image
from tests.upgrade.former import CHART, former_tree
from tests.upgrade.page import DOCUMENT, Row, table

Json = dict[str, Any]
JOB = "runs-on"
NAMESPACE = "upgrade"
# So many more steps are waited for beside each release.
STEPS = 5
# Long enough for all of it on any machine; it is suspended in the end.
LONG: Json = {"training__maxSteps": 5000, "checkpoints__every": {"steps": 100_000}, "publish": None}
RELEASE = "finetune-operator"
DEFINITION = "finetunejobs.finetune.dev"
FORMER_TRAINER = "cluster.test/former-trainer:1"


def main() -> int:
    check_place()
    with tempfile.TemporaryDirectory(prefix="finetune-former-") as place:
        former = former_tree(Path(place), "Dockerfile", ".dockerignore", "requirements", "operator", "trainer", CHART)
        images = [built_image("operator", root=former), built_image("operator")]
        with cluster(Path(tempfile.mkdtemp(prefix="finetune-cluster-"))) as made:
            images.append(trainer_image(made.folder / "images", FORMER_TRAINER, packages=[former / "operator", former / "trainer"]))
            for image in images:
                made.import_image(image)
            rows = list(Upgrade(made, former, *(image.name for image in images)).story())
    written = table(rows)
    print(written)
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), "upgrade", written), encoding="utf-8")
    return 0


class Upgrade:
    """A cluster with a job that trains, and the charts that are installed on it one after the other."""

    def __init__(self, made: Cluster, former: Path, former_operator: str, operator: str, former_trainer: str) -> None:
        self._cluster = made
        former_images = chart_values(former_operator, former_trainer)
        # The trainer of a newer chart has another name; a job that has begun goes on with the image that it began with.
        self._charts = {
            "former": [former / CHART, *former_images],
            "former without definitions": [former / CHART, *former_images, "--set=crds.enabled=false"],
            "this": [ROOT / CHART, *chart_values(operator, made.trainer_image)],
        }

    def story(self) -> Iterator[Row]:
        """Each release in turn, and what had become of the training beside it. Raises AssertionError with what a person would look at."""
        self._cluster.apply(SYSTEM, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._helm("install", "former")
        self._jobs = Jobs.ready(self._cluster, NAMESPACE, Tiny().dialogues)
        source = {"name": f"s3://finetune/data/{self._jobs.data}", "credentialsSecret": {"name": "s3"}}
        self._jobs.apply(JOB, dataset__sources=[source], **LONG)
        self._jobs.wait_until_trains(JOB, attempt=1)
        old_definition = self._definition()
        self._before = self._record()

        yield self._beside("`helm upgrade` to this chart", lambda: self._helm("upgrade", "this"))
        new_definition = self._definition()
        assert new_definition != old_definition
        yield self._beside(
            "`helm upgrade` to the former one, `crds.enabled=false`", lambda: self._helm("upgrade", "former without definitions")
        )
        assert self._definition() == new_definition
        yield self._beside("`helm upgrade` to this chart again", lambda: self._helm("upgrade", "this"))
        yield self._beside(
            "`helm rollback` to the first release", lambda: helm(self._cluster, "rollback", RELEASE, "1", "--wait", "--timeout=180s")
        )
        assert self._definition() == old_definition, "docs/cluster.md says that a plain rollback takes the definitions back"
        yield self._beside("`helm upgrade` to this chart once more", lambda: self._helm("upgrade", "this"))
        yield self._stopped_and_resumed()

    def _beside(self, what: str, act: Callable[[], object]) -> Row:
        """The row of a release during which the training went on: the same attempt, pods and objects, and steps after it."""
        begun, first = time.monotonic(), self._step()
        act()
        there = self._step()
        self._jobs.wait(JOB, lambda status: status["progress"]["step"] >= there + STEPS)
        found = self._record()
        assert found == self._before, f"{what}\nbefore: {json.dumps(self._before, indent=1)}\nafter: {json.dumps(found, indent=1)}"
        return self._row(what, begun, first)

    def _stopped_and_resumed(self) -> Row:
        """Suspended by this operator, resumed with the image that it began with: each step was done once, and nothing is charged."""
        begun, first = time.monotonic(), self._step()
        self._suspend()
        self._jobs.patch("finetunejob", JOB, suspend=False)
        self._jobs.wait_until_trains(JOB, attempt=2)
        self._suspend()
        status = self._jobs.get(JOB)["status"]
        ended = [(one["number"], one["outcome"], one.get("charged", False)) for one in status["attempts"][:2]]
        assert ended == [(1, "Stopped", False), (2, "Stopped", False)], self._jobs.told(JOB)
        assert status["attempts"][1]["firstStep"] == status["attempts"][0]["lastStep"], "a step was lost"
        assert {one["runDigest"] for one in status["attempts"][:2]} == {self._before["run"]["digest"]}
        done = self._jobs.measured_steps(JOB)
        assert done == list(range(1, status["attempts"][1]["lastStep"] + 1)), "every step once"
        return self._row("suspended, resumed, suspended", begun, first)

    def _suspend(self) -> None:
        self._jobs.patch("finetunejob", JOB, suspend=True)
        self._jobs.wait_for(JOB, "Suspended", seconds=300)

    def _row(self, what: str, begun: float, first: int) -> Row:
        status = self._jobs.get(JOB)["status"]
        return Row(
            what=what,
            seconds=time.monotonic() - begun,
            first_step=first,
            last_step=status["progress"]["step"],
            attempts=len([one for one in status["attempts"] if one.get("lastStep")]),
            charged=status.get("usage", {}).get("chargedFailures", 0),
        )

    def _record(self) -> Json:
        """What no release may touch: the attempt, its charges, the frozen run, and the objects and pods that run."""
        status = self._jobs.get(JOB)["status"]
        kinds = ("rayjobs", "rayclusters", "jobs", "configmaps", "finetunereports", "pods")
        return {
            "attempts": [{key: one.get(key) for key in ("number", "rayJob", "outcome", "runDigest")} for one in status["attempts"]],
            "charged": status.get("usage", {}).get("chargedFailures", 0),
            "run": {key: status["run"][key] for key in ("digest", "identity", "configMap", "preparationDigest", "image")},
            "objects": sorted([one["kind"], one["metadata"]["name"], one["metadata"]["uid"]] for one in self._jobs.objects(*kinds)),
        }

    def _step(self) -> int:
        return int(self._jobs.get(JOB)["status"]["progress"]["step"])

    def _definition(self) -> Json:
        found: Json = json.loads(self._cluster.kubectl("get", "crd", DEFINITION, "-o=json"))
        schema: Json = found["spec"]["versions"][0]["schema"]
        return schema

    def _helm(self, verb: str, chart: str) -> None:
        helm(self._cluster, verb, RELEASE, *map(str, self._charts[chart]))


if __name__ == "__main__":
    sys.exit(main())
