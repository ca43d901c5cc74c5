"""Kueue itself, and KubeRay itself, on an API server without nodes: who is admitted, who waits, who gives way, and what the job says.

Pods are made for real and stay pending. That a preempted training commits a checkpoint and goes on at the next step is a test of
tests/cluster.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.control_plane import queues
from tests.control_plane.conftest import CRDS
from tests.control_plane.operators import Operators
from tests.control_plane.played import Admin, RealKubelet, eventually
from tests.control_plane.stage import Stage
from tests.operator import builders
from tests.testcluster.binaries import binaries, kuberay_crds
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.control_plane import control_plane as running_control_plane
from tests.testcluster.kuberay import kuberay_command
from tests.testcluster.kueue import start_kueue
from tests.testcluster.processes import free_ports

from finetune_operator import kinds
from finetune_operator.runtime.api import Api, Resource

Json = dict[str, Any]

pytestmark = [pytest.mark.control_plane, pytest.mark.thorough, pytest.mark.timeout(300)]

NODES = Resource("", "v1", "nodes", "Node")
RAYCLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")
LOW, HIGH = ({"labels": {"kueue.x-k8s.io/priority-class": name}} for name in ("low", "high"))
# What the pods of one job ask for, and not of two.
ONE_JOB = {"cpu": "10", "memory": "20Gi", "nvidia.com/gpu": "16"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Our CRDs, KubeRay's operator and Kueue, with two priorities."""
    programs = binaries(("kuberay-operator", "kueue"))
    with running_control_plane(tmp_path_factory.mktemp("kueue") / "cluster") as plane:
        for folder in (CRDS, kuberay_crds()):
            plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", folder)
        health, metrics = (f"{plane.address}:{port}" for port in free_ports(2))
        kuberay = kuberay_command(programs["kuberay-operator"], plane.kubeconfig, health=health, metrics=metrics)
        plane.processes.start("kuberay-operator", kuberay)
        start_kueue(plane)
        api = Api.connect(plane.kubeconfig, user_agent="test")
        for manifest in (queues.flavor("any"), queues.priority("low", 10), queues.priority("high", 1000)):
            queues.make(api, manifest)
        api.close()
        yield plane


class Team(Stage):
    """A namespace with a LocalQueue `team` and quotas of its own, and an operator for it."""

    def __init__(self, plane: ControlPlane, started: Operators, name: str, quotas: dict[str, str]) -> None:
        super().__init__(plane, started, name)
        queues.make(self.api, queues.cluster_queue(name, quotas, flavor="any"))
        queues.make(self.api, queues.local_queue("team", name, name))
        self.operator()

    def prepared(self, name: str, **workers: Any) -> None:
        """A job in the queue that is prepared; preparation isn't queued."""
        self.submit(name, workers={"queueName": "team"} | workers)
        RealKubelet(self.admin, name).complete("-prepare-", builders.prepared())

    def seen(self, name: str) -> Json:
        """Status of one of several jobs."""
        status: Json = self.api.get(kinds.FINETUNEJOBS, self.namespace, name).get("status", {})
        return status

    def trained(self, name: str) -> Json:
        """The condition Trained."""
        return next((one for one in self.seen(name).get("conditions", []) if one["type"] == "Trained"), {"reason": "", "message": ""})

    def until_trained(self, name: str, reason: str, words: str = "") -> None:
        def holds() -> bool:
            found = self.trained(name)
            return found["reason"] == reason and words in found["message"]

        eventually(f"{name} is {reason}: {words}", holds, say=lambda: f"{self.trained(name)}\n{self.told_of(name)}")

    def until_ended(self, name: str, number: int) -> list[Json]:
        """The attempts, once so many have ended."""

        def ended() -> list[Json] | None:
            found: list[Json] = self.seen(name).get("attempts", [])
            return found if sum("outcome" in one for one in found) == number else None

        attempts: list[Json] = eventually(f"{number} attempts of {name} ended", ended, say=lambda: self.told_of(name))
        return attempts

    def told_of(self, name: str) -> str:
        workloads = [(one["metadata"]["name"], queues.conditions(one)) for one in self.admin.of(kinds.WORKLOADS)]
        return f"{self.seen(name)}\n{workloads}\n{self.mine[-1].lines()[-3000:]}"


MakeTeam = Callable[[dict[str, str]], Team]


@pytest.fixture
def team(plane: ControlPlane, started: Operators, request: pytest.FixtureRequest) -> Iterator[MakeTeam]:
    """Makes the test's namespace, given quotas; its operator is killed and its jobs are deleted after the test."""
    made: list[Team] = []

    def make(quotas: dict[str, str]) -> Team:
        name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
        made.append(Team(plane, started, name, quotas))
        return made[-1]

    yield make
    for one in made:
        for operator in one.mine:
            operator.kill()
        plane.kubectl("delete", "finetunejobs", "--all", "--namespace", one.namespace)


def test_who_does_not_fit_waits_and_who_matters_more_goes_first(team: MakeTeam) -> None:
    """Of three jobs for the quota of one the first gives way to the third. It keeps its RayJob and its place, before the second."""
    ours = team(ONE_JOB)
    ours.prepared("first", **LOW)
    first = ours.rayjob("first-1")
    ours.until_trained("first", "Starting", "0 of 3 pods run")
    ours.prepared("second", **LOW)
    ours.until_trained("second", "Queued", "insufficient unused quota for nvidia.com/gpu")
    ours.prepared("third", **HIGH)
    ours.until_trained("third", "Starting")
    (ended,) = ours.until_ended("first", 1)
    assert (ended["outcome"], ended["charged"]) == ("Preempted", False)
    assert "Preempted to accommodate a workload" in ended["message"]
    ours.until_trained("first", "Queued", "RayJob first-1 waits in queue team")

    ours.api.delete(kinds.FINETUNEJOBS, ours.namespace, "third")
    ours.until_trained("first", "Starting")
    ours.until_trained("second", "Queued")
    assert ours.names(kinds.RAYJOBS) == ["first-1", "second-1"]
    assert ours.rayjob("first-1")["metadata"]["uid"] == first["metadata"]["uid"]
    again = ours.seen("first")["attempts"]
    assert [one.get("outcome") for one in again] == ["Preempted", None]
    assert again[0]["rayJob"]["cluster"] != again[1]["rayJob"]["cluster"]
    assert ours.seen("first")["usage"].get("gpuHours", 0) == 0


def test_a_queue_that_can_never_take_the_job_says_so(team: MakeTeam) -> None:
    """A resource that the queue doesn't have, and a queue that isn't there: in Kueue's own words."""
    ours = team({"nvidia.com/gpu": "16"})
    ours.prepared("starchat")
    ours.until_trained("starchat", "Queued", "unavailable in ClusterQueue")
    assert "outcome" not in ours.seen("starchat")["attempts"][0], "it has not begun"
    ours.prepared("elsewhere", queueName="nobody")
    ours.until_trained("elsewhere", "Queued", "LocalQueue nobody doesn't exist")


def test_preparation_waits_in_the_queue_of_cpu_pods(team: MakeTeam) -> None:
    ours = team(ONE_JOB | {"cpu": "0"})
    ours.submit(cpuPods={"queueName": "team"})
    eventually(
        "preparation is queued",
        lambda: ours.condition("Prepared") == ("False", "Queued") and "insufficient quota for cpu" in str(ours.status["conditions"]),
        say=lambda: ours.told_of("starchat"),
    )
    assert ours.admin.of(kinds.PODS) == []
    more = queues.cluster_queue(ours.namespace, ONE_JOB, flavor="any")["spec"]
    ours.api.merge_patch(queues.CLUSTER_QUEUES, None, ours.namespace, {"spec": more})
    ours.kubelet.complete("-prepare-", builders.prepared())
    ours.until("Prepared", "True")


def test_a_topology_reaches_the_workers_and_they_land_in_one_rack(team: MakeTeam) -> None:
    """Three nodes in two racks, of which one has room for two workers; the head may be anywhere."""
    ours = team(ONE_JOB)
    for number, rack in enumerate("abb"):
        add_node(ours.api, f"node-{number}", rack)
    queues.make(ours.api, queues.topology("racks", "rack", "kubernetes.io/hostname"))
    queues.make(ours.api, queues.flavor("racked", nodeLabels={"pool": "gpus"}, topologyName="racks"))
    queues.make(ours.api, queues.cluster_queue("racked", ONE_JOB, flavor="racked"))
    queues.make(ours.api, queues.local_queue("racked", ours.namespace, "racked"))
    asked = {"kueue.x-k8s.io/podset-required-topology": "rack"}
    ours.prepared("starchat", queueName="racked", annotations=asked)

    def bound() -> list[Json]:
        found = ray_pods(ours, "worker")
        return found if len(found) == 2 and all(pod["spec"].get("nodeName") for pod in found) else []

    workers = eventually("the workers have nodes", bound, say=lambda: ours.told_of("starchat"))
    assert sorted(pod["spec"]["nodeName"] for pod in workers) == ["node-1", "node-2"]
    assert all(asked.items() <= pod["metadata"]["annotations"].items() for pod in workers)

    ours.prepared("elsewhere", annotations=asked)
    ours.until_trained("elsewhere", "Queued", 'Flavor "any" does not support TopologyAwareScheduling')


def test_what_other_schedulers_read_reaches_rayjob_raycluster_and_pods(team: MakeTeam) -> None:
    """The queues of Volcano and KAI are labels, and the scheduler has a field of its own."""
    ours = team(ONE_JOB)
    labels = {"volcano.sh/queue-name": "gpus", "kai.scheduler/queue": "gpus"}
    ours.prepared("starchat", labels=labels, schedulerName="volcano")
    workers = eventually("the workers' pods", lambda: ray_pods(ours, "worker"), say=lambda: ours.told_of("starchat"))
    for made in (ours.rayjob("starchat-1"), *ours.admin.of(RAYCLUSTERS), *workers):
        assert labels.items() <= made["metadata"]["labels"].items(), made["metadata"]
    assert {pod["spec"]["schedulerName"] for pod in workers} == {"volcano"}


def ray_pods(team: Team, kind: str) -> list[Json]:
    """Pods that KubeRay made."""
    return [pod for pod in team.admin.of(kinds.PODS) if pod["metadata"]["labels"].get("ray.io/node-type") == kind]


def add_node(api: Api, name: str, rack: str) -> None:
    """A node with eight GPUs that nobody runs."""
    labels = {"pool": "gpus", "rack": rack, "kubernetes.io/hostname": name}
    api.create(NODES, None, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    has = {"cpu": "16", "memory": "64Gi", "pods": "50", "nvidia.com/gpu": "8"}
    now = RealKubelet(Admin(api, "default")).timestamp()
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played", **times}
    api.merge_patch(NODES, None, name, {"status": {"capacity": has, "allocatable": has, "conditions": [ready]}}, subresource="status")


def test_pods_that_do_not_become_ready_make_room_until_kueue_gives_the_job_up(plane: ControlPlane, team: MakeTeam) -> None:
    """`waitForPodsReady`: evicted and queued again without charge; when Kueue gives up, the job says so, and what to do."""
    requeuing = {"backoffBaseSeconds": 1, "backoffLimitCount": 1}
    start_kueue(plane, waitForPodsReady={"timeout": "10s", "requeuingStrategy": requeuing})
    ours = team(ONE_JOB)
    ours.prepared("starchat")
    ours.until_trained("starchat", "Starting")
    attempts = ours.until_ended("starchat", 2)
    assert [(one["outcome"], one["charged"]) for one in attempts] == [("Preempted", False)] * 2, attempts
    assert "PodsReady timeout" in attempts[0]["message"]
    ours.until_trained("starchat", "Deactivated", "exceeding the maximum number of re-queuing retries")
    ours.until("Stalled", "True", "Deactivated")

    assert "suspend the job and resume it" in ours.trained("starchat")["message"]
    ours.change(suspend=True)
    # A pod that was bound to a node goes when the node's kubelet lets it go, and these nodes have none.
    plane.kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--namespace", ours.namespace)
    ours.until("Suspended", "True")
    ours.change(suspend=False)
    ours.until_trained("starchat", "Starting")
    ours.until("Stalled", "False")
    assert ours.seen("starchat")["attempt"] == 3
