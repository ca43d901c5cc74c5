"""A namespace with a job in it, and what looks at it; and a job's life, which many tests disturb in their own ways."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import ROOT
from tests.control_plane.operators import Operator, Operators
from tests.control_plane.played import Admin, RealKubelet, eventually
from tests.operator import builders
from tests.testcluster.control_plane import ControlPlane

from finetune_api.keys import API_VERSION, KIND
from finetune_operator import kinds
from finetune_operator.runtime.api import Api

Json = dict[str, Any]
HUB = {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}}


class Stage:
    """A namespace of its own. `kubelet` plays what no control plane does: pods and KubeRay."""

    def __init__(self, plane: ControlPlane, started: Operators, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        plane.kubectl("create", "namespace", namespace)
        self.api = Api.connect(plane.kubeconfig, user_agent="test")
        self.admin = Admin(self.api, namespace)
        self.kubelet = RealKubelet(self.admin)
        self._started = started
        self.mine: list[Operator] = []

    def operator(self, kubeconfig: Path | None = None, *arguments: str) -> Operator:
        flags = ("--namespaces", self.namespace, "--operator-namespace", self.namespace, *arguments)
        operator = self._started.start(kubeconfig or self.plane.kubeconfig, *flags)
        self.mine.append(operator)
        return operator

    @contextmanager
    def deployment(self, *arguments: str) -> Iterator[list[Operator]]:
        """An operator that is started again whenever it ends; all that there were."""
        found, over = [self.operator(None, *arguments)], threading.Event()

        def tend() -> None:
            while not over.wait(0.2):
                if not found[-1].alive:
                    found.append(self.operator(None, *arguments))

        thread = threading.Thread(target=tend)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join(30)

    def submit(self, name: str = builders.NAME, **spec: Any) -> None:
        job = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": builders.spec_mapping(**spec)}
        self.api.create(kinds.FINETUNEJOBS, self.namespace, job)

    def change(self, **spec: Any) -> None:
        self.api.merge_patch(kinds.FINETUNEJOBS, self.namespace, builders.NAME, {"spec": spec})

    def touch(self, word: str) -> None:
        """Change a label that means nothing to anybody: it is looked at, since labels may name a queue."""
        patch = {"metadata": {"labels": {"example.org/touched": word}}}
        self.api.merge_patch(kinds.FINETUNEJOBS, self.namespace, builders.NAME, patch)

    @property
    def job(self) -> Json:
        return self.api.get(kinds.FINETUNEJOBS, self.namespace, builders.NAME)

    @property
    def status(self) -> Json:
        status: Json = self.job.get("status", {})
        return status

    def condition(self, kind: str) -> tuple[str, str]:
        found = next((c for c in self.status.get("conditions", []) if c["type"] == kind), None)
        return (found["status"], found["reason"]) if found else ("absent", "")

    def until(self, kind: str, status: str, reason: str | None = None) -> None:
        """Wait for a condition."""

        def holds() -> bool:
            found = self.condition(kind)
            return found[0] == status and reason in (None, found[1])

        eventually(f"{kind}={status}/{reason} in {self.namespace}", holds, say=self.told)

    def told(self) -> str:
        """For a person who reads a failure."""
        logs = "\n".join(operator.lines()[-3000:] for operator in self.mine[-2:])
        return f"{json.dumps(self.status, indent=1)[-5000:]}\n{logs}"

    def rayjob(self, name: str) -> Json:
        found: Json = eventually(f"RayJob {name}", lambda: self.api.get(kinds.RAYJOBS, self.namespace, name), say=self.told)
        return found

    def names(self, resource: Any) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.admin.of(resource))

    @property
    def events(self) -> list[tuple[str, str]]:
        """Reason and note of each event about the job."""
        found = [event for event in self.admin.of(kinds.EVENTS) if event["regarding"].get("kind") == KIND]
        return sorted((event["reason"], event["note"]) for event in found)


def operator_of_one_namespace(stage: Stage, *, without: str = "") -> None:
    """An operator with the chart's own rules in a Role, but for those on one kind."""
    user = f"operator-{stage.namespace}"
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "operator", "namespace": stage.namespace},
        "rules": [leases, *(rule for rule in chart_rules() if rule["resources"] != [without])],
    }
    stage.api.create(kinds.ROLES, stage.namespace, role)
    stage.plane.kubectl("create", "rolebinding", "operator", "-n", stage.namespace, "--role=operator", f"--user={user}")
    stage.operator(stage.plane.user_kubeconfig(user))


def chart_rules() -> list[Json]:
    """The rules that install.yaml gives the operator."""
    documents = yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text())
    found = next(
        d for d in documents if d and d["kind"] in ("ClusterRole", "Role") and any("rayjobs" in r["resources"] for r in d["rules"])
    )
    rules: list[Json] = found["rules"]
    return rules


def life(stage: Stage) -> None:
    """A job from apply to published, with one failed attempt."""
    stage.submit(publish=HUB, failurePolicy={"backoffSeconds": 1})
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    stage.kubelet.ray_pods("starchat-1-abcde")
    eventually("the first attempt's pods were seen", lambda: stage.status["attempts"][0]["runningTime"], say=stage.told)
    stage.kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    stage.kubelet.finish("starchat-1", "FAILED")
    stage.rayjob("starchat-2")
    stage.kubelet.train("starchat-2")
    stage.kubelet.complete("-publish-", builders.published())
    stage.until("Succeeded", "True")


def check_life(stage: Stage, *, waits: int = 1, lingering: tuple[str, ...] = (), keeps_report: bool = True) -> None:
    """The end of that life is the same whatever was done to the operator: each thing once, and told once.

    `waits`: how many words at most a pod's long wait may have had. `lingering`: RayJobs that the operator may have deleted after their
    attempts' end, because by its clock KubeRay took too long to end them. `keeps_report`: nobody deleted the report after the training,
    when it is made no more.
    """
    status = stage.status
    assert [(a["number"], a["outcome"], a.get("charged", False)) for a in status["attempts"]] == [
        (1, "Failed", True),
        (2, "Finished", False),
    ]
    assert (status["attempt"], status["usage"]["chargedFailures"]) == (2, 1)
    assert status["publication"]["revision"] == "b" * 40
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert conditions["Succeeded"] == ("True", "Succeeded")
    assert conditions["Reconciling"] == ("False", "Succeeded")
    assert conditions["Failed"][0] == conditions["Stalled"][0] == "False"

    assert {*stage.names(kinds.RAYJOBS), *lingering} == {"starchat-1", "starchat-2"}
    assert [name.split("-")[1] for name in stage.names(kinds.JOBS)] == ["prepare", "publish"]
    assert [name for name in stage.names(kinds.CONFIG_MAPS) if name != "kube-root-ca.crt"] == [status["run"]["configMap"]]
    assert stage.names(kinds.FINETUNEREPORTS) in ([["starchat"]] if keeps_report else [["starchat"], []])
    assert stage.names(kinds.ROLES) == stage.names(kinds.ROLE_BINDINGS) == ["starchat-finetune"]

    told = stage.events
    assert len(set(told)) == len(told), told
    reasons = [reason for reason, _ in told]
    twice = {"AttemptRunning": 2, "PodsWait": waits}
    assert not {reason for reason in reasons if reasons.count(reason) > twice.get(reason, 1)}, told
    wanted = ("Planned", "Prepared", "AttemptStarted", "AttemptFailed", "AttemptFinished", "Trained", "Published", "Succeeded")
    assert set(wanted) <= set(reasons), told
