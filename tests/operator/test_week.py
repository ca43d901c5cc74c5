"""Everything that a cluster does to a job, for up to a week, with the operator restarted and away now and then.

Who plays the cluster keeps books of its own: each pod's GPU seconds from binding to end. In the end RayJobs are few, hours that nobody was
billed for too, and a job that got nowhere says so.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import pytest

from finetune_operator import keys, kinds

from . import builders
from .fakes import Died, Kubelet, World
from .lives import HUB

Json = dict[str, Any]
DAY: Final = 24 * 3600.0
UNREADY: Final = {"type": "Ready", "status": "False"}
NO_GPUS: Final = "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."
GPUS: Final = 8


@dataclass
class Books:
    """GPU seconds by pod, as the cluster knows them."""

    bound: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def hours(self, now: float) -> float:
        return sum(self.ended.get(name, now) - since for name, since in self.bound.items()) * GPUS / 3600


class Cluster:
    """Plays Kubernetes and KubeRay for one job of two workers, and does one of its faults to each attempt."""

    def __init__(self, world: World, kubelet: Kubelet, fault: Callable[[], str], chance: random.Random) -> None:
        self.world, self.kubelet, self.fault, self.chance = world, kubelet, fault, chance
        self.books = Books()
        self.made = 0
        self.played: dict[str, str] = {}
        self.begun: dict[str, float] = {}
        self.steps = 0

    @property
    def now(self) -> float:
        return self.world.clock.monotonic()

    def play(self) -> None:
        """One turn: pods of RayJobs that are gone go, and those that are there get on or fall."""
        rayjobs = {item["metadata"]["name"]: item for item in self.world.api.of(kinds.RAYJOBS)}
        for pod in self.world.api.of(kinds.PODS):
            cluster = pod["metadata"]["labels"].get("ray.io/cluster")
            if cluster is not None and cluster.removesuffix("-abcde") not in rayjobs:
                self.remove(pod["metadata"]["name"])
        self.prepare_or_publish()
        for name in rayjobs:
            if name not in self.played:
                self.made += 1
                self.played[name], self.begun[name] = self.fault(), self.now
            self.train(name, self.played[name], self.now - self.begun[name])

    def prepare_or_publish(self) -> None:
        for job in self.world.api.of(kinds.JOBS):
            name = job["metadata"]["name"]
            if "-prepare-" in name and not job.get("status"):
                self.kubelet.complete("-prepare-", builders.prepared())
            if "-publish-" in name and not job.get("status"):
                self.kubelet.complete("-publish-", builders.published())

    def pods(self, name: str, **state: Any) -> None:
        cluster = f"{name}-abcde"
        for number in range(3):
            self.pod(cluster, number, **state)

    def pod(self, cluster: str, number: int, *, phase: str = "Running", unschedulable: str | None = None, **state: Any) -> None:
        container = keys.WORKER_CONTAINER if number else keys.HEAD_CONTAINER
        name = f"{cluster}-{number}"
        bound = None if unschedulable else self.kubelet.timestamp()
        if bound is not None and number:
            self.books.bound.setdefault(name, self.now)
        self.kubelet.ray_pod(cluster, number, container, phase=phase, unschedulable=unschedulable, bound=bound, **state)

    def remove(self, name: str) -> None:
        self.books.ended.setdefault(name, self.now)
        self.world.api.remove(kinds.PODS, builders.NAMESPACE, name)

    def shut_down(self, name: str) -> None:
        for number in range(3):
            if ("pods", builders.NAMESPACE, f"{name}-abcde-{number}") in self.world.api.objects:
                self.remove(f"{name}-abcde-{number}")

    def train(self, name: str, fault: str, age: float) -> None:
        cluster, status = f"{name}-abcde", self.world.api.objects["rayjobs", builders.NAMESPACE, name].get("status") or {}
        if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
            return
        if self.kuberay_ends(name, age) or self.stops(name, cluster, fault):
            return
        starting = not status
        if starting:
            self.kubelet.rayjob(name, "Initializing", job="")
        match fault:
            case "no GPUs":
                if starting:
                    self.pods(name, unschedulable=NO_GPUS)
            case "half of the GPUs":
                if starting:
                    self.pod(cluster, 0)
                    self.pod(cluster, 1)
                    self.pod(cluster, 2, unschedulable=NO_GPUS)
            case "image":
                if starting:
                    self.pods(name, phase="Pending")
                    waiting = {
                        "name": keys.WORKER_CONTAINER,
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}},
                    }
                    for number in range(3):
                        key = f"{cluster}-{number}"
                        self.world.api.change(kinds.PODS, builders.NAMESPACE, key, status={"containerStatuses": [waiting]})
            case "RayJob deleted at once":
                self.world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, name)
            case "no driver":
                if starting:
                    self.pods(name)
                    self.kubelet.rayjob(name, "Running", job="")
            case _:
                if starting:
                    self.pods(name)
                    self.kubelet.rayjob(name, "Running", job="RUNNING")
                    self.kubelet.report(cluster, outcome="Running", step=self.steps)
                elif age < 1800:
                    self.steps += 1
                    self.kubelet.report(cluster, outcome="Running", step=self.steps)
                else:
                    self.fall(name, cluster, fault)

    def kuberay_ends(self, name: str, age: float) -> bool:
        """At the deadline that the RayJob carries for when there is no operator."""
        allowed = self.world.api.objects["rayjobs", builders.NAMESPACE, name]["spec"].get("activeDeadlineSeconds")
        if allowed is None or age < allowed:
            return False
        self.kubelet.rayjob(name, "Failed", job="RUNNING", reason="DeadlineExceeded")
        self.shut_down(name)
        return True

    def stops(self, name: str, cluster: str, fault: str) -> bool:
        """Whether the driver does what it is asked to."""
        asked = self.world.api.of(kinds.FINETUNEREPORTS)[0]["spec"].get("stop") or {}
        if asked.get("cluster") != cluster or fault not in ("worker fails", "finishes", "preempted"):
            return False
        self.kubelet.report(cluster, outcome="Stopped", step=self.steps)
        self.kubelet.rayjob(name, "Complete", job="SUCCEEDED")
        self.shut_down(name)
        return True

    def fall(self, name: str, cluster: str, fault: str) -> None:
        """How an attempt that has trained for half an hour ends."""
        match fault:
            case "worker fails":
                self.kubelet.report(cluster, outcome="Failed", reason="TrainingFailed", message="loss is nan", step=self.steps)
                self.kubelet.rayjob(name, "Failed", job="FAILED")
                self.shut_down(name)
            case "node lost":
                pod = f"{cluster}-1"
                if ("pods", builders.NAMESPACE, pod) in self.world.api.objects:
                    self.world.api.change(kinds.PODS, builders.NAMESPACE, pod, status={"conditions": [UNREADY]})
            case "preempted":
                self.kubelet.report(cluster, outcome="Stopped", step=self.steps)
                self.kubelet.rayjob(name, "Failed", job="FAILED")
                self.shut_down(name)
            case "submitter lost":
                self.kubelet.submitter(name, phase="Failed", reason="Evicted", message="memory was low")
                self.kubelet.rayjob(name, "Failed", job="RUNNING", reason="SubmissionFailed", message="Job submission has failed")
                self.shut_down(name)
            case "RayJob deleted":
                self.world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, name)
            case "KubeRay never tells":  # and the driver says it again and again
                self.kubelet.report(cluster, outcome="Failed", reason="TrainingFailed", message="loss is nan", step=self.steps)
            case "finishes":
                self.kubelet.report(cluster, outcome="Finished", step=10, totalSteps=10)
                self.kubelet.rayjob(name, "Complete", job="SUCCEEDED")
                self.shut_down(name)
            case "silent":
                pass
            case other:
                raise AssertionError(other)


def live(world: World, cluster: Cluster, chance: random.Random, *, days: float, away: float = 0.0) -> None:
    """So many days, or until the job is over and all of its pods are gone. `away`: how often the operator is down for a while."""
    world.settle()
    while world.clock.monotonic() < days * DAY:
        cluster.play()
        if chance.random() < away:
            for _ in range(chance.randrange(1, 6)):
                world.clock.advance(chance.uniform(60, 1200))
                cluster.play()
            world.restart()
        decision = world.settle()
        over = world.condition("Failed")[0] == "True" or world.condition("Succeeded")[0] == "True"
        if over and not [pod for pod in world.api.of(kinds.PODS) if "ray.io/cluster" in pod["metadata"]["labels"]]:
            return
        wait = decision.requeue_after_seconds if decision is not None else None
        # KubeRay takes its pods away within seconds, which nothing announces here.
        world.clock.advance((10.0 if over else min(wait or 600.0, 600.0)) + chance.uniform(0, 20))


BEGINS_NEVER: Final = ("no GPUs", "half of the GPUs", "image", "no driver", "RayJob deleted at once")
CHARGED: Final = ("worker fails", "KubeRay never tells")
OTHERS_DO: Final = ("node lost", "preempted", "submitter lost", "RayJob deleted", "silent")


@pytest.mark.parametrize("fault", [*BEGINS_NEVER, *CHARGED])
def test_one_fault_for_ever(world: World, kubelet: Kubelet, fault: str) -> None:
    chance = random.Random(fault)
    world.submit(publish=HUB)
    cluster = Cluster(world, kubelet, lambda: fault, chance)
    live(world, cluster, chance, days=7)
    if fault in BEGINS_NEVER:
        assert world.condition("Failed") == ("True", "TooManyFailedStarts")
        assert cluster.made <= 11
    else:
        assert world.condition("Failed") == ("True", "TooManyFailures")
        assert cluster.made <= 4
    billed(world, cluster, away=False)


def billed(world: World, cluster: Cluster, *, away: bool) -> None:
    """What the status says agrees with the cluster's books; while the operator is away it may be late by what it then takes for an end."""
    usage = float(world.status["usage"]["gpuHours"])
    held = cluster.books.hours(cluster.now)
    tolerance = 2 * GPUS / 60 + (0.02 * held if not away else 0.1 * held)
    assert abs(usage - held) <= tolerance, (usage, held)


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_all_of_them(world: World, kubelet: Kubelet, seed: int) -> None:
    chance = random.Random(seed)
    world.submit(publish=HUB, failurePolicy={"maxFailures": 10})
    faults = (*BEGINS_NEVER, *CHARGED, *OTHERS_DO)
    cluster = Cluster(world, kubelet, lambda: chance.choice(faults), chance)
    live(world, cluster, chance, days=1, away=0.1)
    assert cluster.made <= 40
    billed(world, cluster, away=True)
    true = {condition["type"] for condition in world.status["conditions"] if condition["status"] == "True"}
    told = world.message("Trained") or world.message("Failed")
    assert told or true & {"Succeeded", "Suspended"}, world.status["conditions"]


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_counted_twice_though_the_operator_dies_at_any_write(world: World, kubelet: Kubelet, seed: int) -> None:
    """Before it or after it: what it has done is seen by the next one, and what it has counted stands in the status or doesn't."""
    chance = random.Random(f"dies {seed}")
    world.submit(publish=HUB, failurePolicy=WITHOUT_END)
    cluster = Cluster(world, kubelet, lambda: chance.choice((*BEGINS_NEVER, *CHARGED, *OTHERS_DO)), chance)
    seen: list[dict[str, float]] = []
    deaths = 0
    while world.clock.monotonic() < DAY / 4:
        cluster.play()
        fatal, when = len(world.api.calls) + chance.randrange(4), chance.choice(("before", "after"))
        setattr(world.api, when, _killing(fatal))
        try:
            world.settle()
        except Died:
            deaths += 1
            world.api.before = world.api.after = lambda number, call: None
            world.restart()
            world.settle()
        world.api.before = world.api.after = lambda number, call: None
        world.clock.advance(chance.uniform(60, 600))
        seen.append({name: world.status.get("usage", {}).get(name, 0.0) for name in ("gpuHours", "heldSeconds", "goodputSeconds")})
    assert deaths > 10
    assert all(one[name] <= other[name] for one, other in pairwise(seen) for name in one), "they only grow"
    ended = [attempt for attempt in world.status["attempts"] if attempt.get("outcome") and attempt.get("runningTime")]
    held = sum(_seconds(attempt["runningTime"], attempt["completionTime"]) for attempt in ended)
    assert len(world.status["attempts"]) < 20, "else the oldest are forgotten"
    assert seen[-1]["heldSeconds"] <= held + 1, "an attempt's time is added once"
    billed(world, cluster, away=True)


def _killing(fatal: int) -> Callable[[int, str], None]:
    def die(number: int, call: str) -> None:
        if number == fatal:
            raise Died

    return die


def _seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


WITHOUT_END: Final = {"maxFailures": 10000, "maxFailedStarts": 10000, "maxAttemptsWithoutProgress": 10000}
# What a driver may take after the last GPU hour, that says no word and doesn't hear; with two workers.
TO_END_HOURS: Final = (240 + 60 + 120) * 2 * GPUS / 3600
# What KubeRay's deadline allows for while the operator is away: pods that wait for long, too. It is played every twenty minutes then.
UNSEEN_HOURS: Final = TO_END_HOURS + (1800 + 1200) * 2 * GPUS / 3600


@pytest.mark.parametrize("away", [0.0, 0.1], ids=["", "the operator away now and then"])
def test_the_budget_bounds_what_mixed_faults_cost(world: World, kubelet: Kubelet, away: float) -> None:
    """Nothing else does here. The cluster's own books say what was held, to the last pod's end."""
    chance = random.Random(f"budget {away}")
    world.submit(publish=HUB, failurePolicy=WITHOUT_END, budget={"gpuHours": 60})
    cluster = Cluster(world, kubelet, lambda: chance.choice((*BEGINS_NEVER, *CHARGED, *OTHERS_DO)), chance)
    live(world, cluster, chance, days=7, away=away)
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    held = cluster.books.hours(cluster.now)
    assert 55 <= held <= 60 + (UNSEEN_HOURS if away else TO_END_HOURS), held
    billed(world, cluster, away=bool(away))


def test_preemptions_for_ever_have_an_end_without_a_budget(world: World, kubelet: Kubelet) -> None:
    chance = random.Random("preempted")
    world.submit(publish=HUB, failurePolicy={"maxAttemptsWithoutProgress": 7})
    cluster = Cluster(world, kubelet, lambda: chance.choice(("node lost", "preempted", "submitter lost")), chance)
    live(world, cluster, chance, days=7)
    assert world.condition("Failed") == ("True", "TooManyAttemptsWithoutProgress")
    assert cluster.made == 8
