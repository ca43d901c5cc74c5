"""The real operator process on a real API server. Kubelets and KubeRay are played; Jobs and garbage are controlled for real."""

import json
import re
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE
from tests.operator import builders
from tests.testcluster.binaries import kuberay_crds
from tests.testcluster.control_plane import ControlPlane

from finetune_api.keys import API_VERSION, KIND
from finetune_operator import kinds
from finetune_operator.runtime.api import Api, NotFound
from finetune_operator.runtime.lease import LEASES

from .killing_proxy import KillingProxy, killing_proxy
from .operators import Operator, Operators, operators
from .played import Admin, RealKubelet, eventually

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
HUB = {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}}


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane) -> None:
    """Our CRDs and KubeRay's, served."""
    for folder in (ROOT / "manifests/crd", kuberay_crds()):
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", folder)
    api = Api.connect(control_plane.kubeconfig, user_agent="test")
    for resource in (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS, kinds.RAYJOBS):
        eventually(f"{resource.plural} are served", lambda r=resource: api.list_pages(r, None)[1])  # type: ignore[misc]
    api.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    with operators(tmp_path_factory.mktemp("operators")) as found:
        yield found


class Stage:
    """A namespace with a job in it, and what looks at it."""

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


@pytest.fixture
def stage(control_plane: ControlPlane, crds: None, started: Operators, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[-50:].strip("-")
    found = Stage(control_plane, started, name)
    yield found
    for operator in found.mine:
        operator.kill()


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KillingProxy]:
    folder = control_plane.authority.folder
    trust = ssl.create_default_context(cafile=control_plane.authority.certificate)
    trust.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    with killing_proxy(control_plane.url, trust) as found:
        yield found


def life(stage: Stage, *, job: str = builders.NAME) -> None:
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


def end_state(stage: Stage) -> tuple[object, ...]:
    """What has to be the same however the operator died."""
    made = (kinds.JOBS, kinds.RAYJOBS, kinds.CONFIG_MAPS, kinds.FINETUNEREPORTS, kinds.ROLES, kinds.ROLE_BINDINGS)
    objects = {resource.plural: [name for name in stage.names(resource) if name != "kube-root-ca.crt"] for resource in made}
    attempts = [(a["number"], a["outcome"], a.get("charged", False)) for a in stage.status["attempts"]]
    conditions = [(c["type"], c["status"], c["reason"]) for c in stage.status["conditions"]]
    return objects, attempts, conditions, stage.status["usage"]["chargedFailures"], stage.status["publication"]["revision"]


def test_a_job_goes_from_apply_to_published_and_everything_goes_with_it(stage: Stage) -> None:
    operator = stage.operator()
    life(stage)
    objects, attempts, conditions, charged, _ = end_state(stage)
    assert attempts == [(1, "Failed", True), (2, "Finished", False)]
    assert charged == 1
    assert ("Reconciling", "False", "Succeeded") in conditions
    assert isinstance(objects, dict)
    assert objects["rayjobs"] == ["starchat-1", "starchat-2"]
    assert len(objects["jobs"]) == 2

    line = stage.plane.kubectl("get", "ftj", "-n", stage.namespace, "--no-headers")
    assert "Succeeded" in line
    told = stage.plane.kubectl("get", "events", "-n", stage.namespace, "-o", "json", "--field-selector=involvedObject.kind=FineTuneJob")
    reasons = [event["reason"] for event in json.loads(told)["items"]]
    assert [reasons.count(reason) for reason in ("AttemptStarted", "AttemptFailed", "Succeeded")] == [2, 1, 1]
    for reason in ("Prepared", "AttemptStarted", "AttemptFailed", "AttemptFinished", "Trained", "Published", "Succeeded"):
        assert reason in reasons

    assert '"attempt": 2' in operator.lines()
    stage.api.delete(kinds.FINETUNEJOBS, stage.namespace, builders.NAME)
    for resource in (kinds.JOBS, kinds.RAYJOBS, kinds.FINETUNEREPORTS, kinds.ROLES, kinds.ROLE_BINDINGS):
        eventually(f"no {resource.plural} are left", lambda r=resource: not stage.admin.of(r))  # type: ignore[misc]


def test_a_second_look_writes_nothing(stage: Stage, proxy: KillingProxy, tmp_path: Path) -> None:
    kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
    operator = stage.operator(kubeconfig, "--leader-election", "false")
    life(stage)
    operator.stop()
    before = len(proxy.writes)
    again = stage.operator(kubeconfig, "--leader-election", "false")
    stage.submit("other")
    eventually("the other job was looked at", lambda: any("other-prepare-" in name for name in stage.names(kinds.JOBS)), say=stage.told)
    again.stop()
    assert not [write for write in proxy.writes[before:] if "starchat" in write]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_write_the_end_is_the_same(stage: Stage, proxy: KillingProxy, tmp_path: Path, when: str) -> None:
    """Every process gets one new write done: `before` it dies as its second is about to be sent, `after` before the first's answer.

    A creation that a former process had done already is not new, and no patch is ever old.
    """
    kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
    guard = Guard(lambda: stage.operator(kubeconfig, "--leader-election", "false"))

    def before(request: str) -> bool:
        return guard.allows(request) if when == "before" else guard.alive()

    def after(request: str) -> bool:
        return guard.dies_after(request) if when == "after" else True

    proxy.before, proxy.after = before, after
    guard.start()
    try:
        life(stage)
    finally:
        guard.end()
    assert guard.deaths >= len(set(proxy.writes)) - 2
    objects, attempts, conditions, charged, revision = end_state(stage)
    assert attempts == [(1, "Failed", True), (2, "Finished", False)]
    assert isinstance(objects, dict)
    assert objects["rayjobs"] == ["starchat-1", "starchat-2"]
    assert len(objects["jobs"]) == 2
    assert len(objects["configmaps"]) == 1
    assert charged == 1
    assert revision == "b" * 40
    assert ("Succeeded", "True", "Succeeded") in conditions


class Guard:
    """Kills the operator at its writes, and starts another."""

    def __init__(self, start: Callable[[], Operator]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._over = False
        self._done = 0
        self._made: set[str] = set()
        self._operator: Operator | None = None
        self.deaths = 0

    def start(self) -> None:
        self._operator, self._done = self._start(), 0

    def end(self) -> None:
        with self._lock:
            self._over = True

    def alive(self) -> bool:
        """One write under way at a time, so that each death is at a known write."""
        with self._lock:
            return self._operator is not None and self._operator.alive

    def allows(self, request: str) -> bool:
        with self._lock:
            if self._over or request in self._made:
                return True
            if self._done >= 1:
                self._again()
                return False
            self._note(request)
            self._done += 1
            return True

    def dies_after(self, request: str) -> bool:
        with self._lock:
            if self._over or request in self._made:
                return True
            self._note(request)
            self._again()
            return False

    def _note(self, request: str) -> None:
        if request.startswith("POST "):
            self._made.add(request)

    def _again(self) -> None:
        assert self._operator is not None
        self._operator.kill()
        self.deaths += 1
        self.start()


@pytest.mark.parametrize("election", ["true", "false"])
def test_an_api_server_that_restarts_delays_and_changes_nothing(stage: Stage, election: str) -> None:
    """A leader that can't renew its lease ends, and is started again, as the kubelet would; without a lease nothing ends."""
    with stage.deployment("--leader-election", election) as incarnations:
        stage.submit(publish=HUB)
        stage.kubelet.complete("-prepare-", builders.prepared())
        stage.rayjob("starchat-1")
        stage.plane.restart_api_server()
        stage.kubelet.train("starchat-1")
        stage.kubelet.complete("-publish-", builders.published())
        stage.until("Succeeded", "True")
    assert election == "true" or len(incarnations) == 1
    assert [a["outcome"] for a in stage.status["attempts"]] == ["Finished"]
    assert stage.names(kinds.RAYJOBS) == ["starchat-1"]
    told = stage.plane.kubectl("get", "events", "-n", stage.namespace, "-o", "jsonpath={.items[*].reason}").split()
    assert not {"KubeRayAbsent", "AttemptDeleted"} & set(told)


def test_of_two_operators_one_leads_and_the_other_takes_over(stage: Stage) -> None:
    first = stage.operator()
    eventually("a leader", lambda: "leading" in first.lines(), say=stage.told)
    second = stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    assert '"made"' not in second.lines()
    first.stop()
    stage.kubelet.train("starchat-1")
    stage.until("Succeeded", "True")
    assert "leading" in second.lines()
    assert stage.names(kinds.RAYJOBS) == ["starchat-1"]
    lease = stage.api.get(LEASES, stage.namespace, "finetune-operator")
    assert f"_{second.pid}_" in lease["spec"]["holderIdentity"]


def test_a_leader_that_slept_writes_nothing_when_it_wakes(stage: Stage) -> None:
    first = stage.operator()
    eventually("a leader", lambda: "leading" in first.lines(), say=stage.told)
    first.send(signal.SIGSTOP)
    second = stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    first.send(signal.SIGCONT)
    eventually("the first one ends", lambda: not first.alive, say=first.lines)
    assert '"made"' not in first.lines()
    stage.kubelet.train("starchat-1")
    stage.until("Succeeded", "True")
    assert second.alive


def test_suspend_and_resume(stage: Stage) -> None:
    stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    stage.kubelet.ray_pods("starchat-1-abcde")
    stage.until("Trained", "False", "Training")
    stage.change(suspend=True)
    eventually(
        "the driver is asked",
        lambda: stage.api.get(kinds.FINETUNEREPORTS, stage.namespace, builders.NAME)["spec"]["stop"]["cluster"] == "starchat-1-abcde",
        say=stage.told,
    )
    stage.kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    eventually("the RayJob is deleted", lambda: stage.names(kinds.RAYJOBS) == [], say=stage.told)
    stage.kubelet.remove_ray_pods("starchat-1-abcde")
    stage.until("Suspended", "True")
    stage.change(suspend=False)
    stage.rayjob("starchat-2")
    stage.kubelet.train("starchat-2")
    stage.until("Succeeded", "True")
    assert [a["outcome"] for a in stage.status["attempts"]] == ["Stopped", "Finished"]
    assert stage.status["attempts"][1]["firstStep"] == 7


def test_an_identity_with_rights_in_one_namespace_is_enough(stage: Stage) -> None:
    """The chart's own rules, in a Role."""
    user = f"operator-{stage.namespace}"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "operator", "namespace": stage.namespace},
        "rules": [*chart_rules(), {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}],
    }
    stage.api.create(kinds.ROLES, stage.namespace, role)
    stage.plane.kubectl("create", "rolebinding", "operator", "-n", stage.namespace, "--role=operator", f"--user={user}")
    stage.operator(stage.plane.user_kubeconfig(user))
    life(stage)
    assert stage.condition("Succeeded")[0] == "True"
    assert "Forbidden" not in stage.told()


def chart_rules() -> list[Json]:
    """The rules that install.yaml gives the operator."""
    documents = yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text())
    found = next(
        d for d in documents if d and d["kind"] in ("ClusterRole", "Role") and any("rayjobs" in r["resources"] for r in d["rules"])
    )
    rules: list[Json] = found["rules"]
    return rules


def test_a_stranger_is_not_adopted(stage: Stage) -> None:
    stage.operator()
    foreign = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "starchat-finetune"}}
    stage.api.create(kinds.SERVICE_ACCOUNTS, stage.namespace, foreign)
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.until("Stalled", "True", "NameTaken")
    assert stage.names(kinds.RAYJOBS) == []
    with pytest.raises(NotFound):
        stage.api.get(kinds.ROLES, stage.namespace, "starchat-finetune")


def test_wrong_data_is_a_condition_and_no_gpu_pod(stage: Stage) -> None:
    stage.operator()
    stage.submit()
    stage.until("Prepared", "False", "Preparing")
    eventually("the scheduler's words", lambda: "no nodes available" in str(stage.status["conditions"]), say=stage.told)
    stage.kubelet.fail("-prepare-", builders.failed())
    stage.until("Failed", "True", "InvalidData")
    assert stage.names(kinds.RAYJOBS) == []


def test_what_planning_refuses_is_a_condition_and_no_pod(stage: Stage) -> None:
    stage.operator()
    for refusal in REFUSALS:
        spec = {**refusal.spec, "checkpoints": {**STORAGE, **refusal.spec.get("checkpoints", {})}}
        job = mapping(**spec)
        stage.api.create(kinds.FINETUNEJOBS, stage.namespace, job | {"metadata": {"name": refusal.name}})

    def conditions(name: str) -> dict[str, Json]:
        found = stage.api.get(kinds.FINETUNEJOBS, stage.namespace, name).get("status", {}).get("conditions", [])
        return {condition["type"]: condition for condition in found}

    for refusal in REFUSALS:
        planned = eventually(refusal.name, lambda r=refusal: conditions(r.name)["Planned"], say=stage.told)  # type: ignore[misc]
        assert (planned["status"], planned["reason"]) == ("False", refusal.reason), refusal.name
        for words in refusal.words:
            assert words in planned["message"]
    assert stage.names(kinds.JOBS) == []


def test_probes_and_metrics(stage: Stage) -> None:
    operator = stage.operator()
    stage.submit()
    stage.until("Planned", "True")
    port = eventually("a port", lambda: re.search(r'"port": (\d+)', operator.lines()))[1]
    metrics = _curl(f"http://127.0.0.1:{port}/metrics")
    assert 'finetune_jobs{stage="Preparing"} 1.0' in metrics
    assert 'controller_runtime_reconcile_total{controller="finetunejob"' in metrics
    assert "leader_election_master_status" in metrics
    assert "caches ok" in _curl(f"http://127.0.0.1:{port}/readyz")
    assert "workers ok" in _curl(f"http://127.0.0.1:{port}/healthz")


def _curl(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_sigterm_ends_the_program_with_code_0(stage: Stage) -> None:
    flags = ["--kubeconfig", str(stage.plane.kubeconfig), "--trainer-image", "trainer:1", "--http-port", "0", "--http-host", "127.0.0.1"]
    command = [sys.executable, "-m", "finetune_operator", *flags, "--namespaces", stage.namespace, "--operator-namespace", stage.namespace]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if '"working"' in line:
                    break
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert "lease given back" in rest
