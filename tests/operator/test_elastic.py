"""`workers.minNodes`: a job goes on with fewer nodes where not all are to be had, and with all of them again after a checkpoint."""

from typing import Any

import pytest

from finetune_api.times import timestamp
from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared
from .test_out_of_memory import GPU_FULL, frozen

NO_NODE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
HOUR = 3600.0


def elastic(world: World, kubelet: Kubelet, nodes: int = 2, **workers: Any) -> None:
    """A job whose first RayJob was made, which may go on with one node."""
    prepared(
        world, kubelet, workers={"nodes": nodes, "minNodes": 1, "startDeadlineSeconds": 600, **workers}, training={"microBatchSize": 4}
    )


def starts(world: World, kubelet: Kubelet, number: int, *, workers: int, missing: int = 0) -> None:
    """The attempt's pods: of its workers that many find no node."""
    name, cluster = f"starchat-{number}", f"starchat-{number}-abcde"
    kubelet.rayjob(name, "Initializing" if missing else "Running", job="" if missing else "RUNNING")
    kubelet.ray_pods(cluster, workers=workers - missing)
    for left in range(workers - missing + 1, workers + 1):
        kubelet.ray_pod(cluster, left, keys.WORKER_CONTAINER, unschedulable=NO_NODE)
    world.settle()


def gives_up(world: World, kubelet: Kubelet, number: int, seconds: float = 601) -> None:
    """Time passes until the attempt isn't waited for any more; its pods go, and the next attempt begins."""
    world.clock.advance(seconds)
    world.settle()
    assert world.status["attempts"][-1].get("outcome") == "NotStarted"
    kubelet.remove_ray_pods(f"starchat-{number}-abcde")
    world.clock.advance(60)
    world.settle()


def commits(world: World, kubelet: Kubelet, number: int, step: int) -> None:
    checkpoint = {"step": step, "attempt": number, "committedAt": timestamp(world.clock.now())}
    kubelet.report(f"starchat-{number}-abcde", outcome="Running", step=step, totalSteps=10, checkpoint=checkpoint)
    world.settle()


def stops(world: World, kubelet: Kubelet, number: int, step: int) -> None:
    """The driver does as it was asked: a checkpoint, and an end."""
    assert kubelet.named(kinds.FINETUNEREPORTS, "starchat")["spec"]["stop"]["reason"] == "Growing"
    checkpoint = {"step": step, "attempt": number, "committedAt": timestamp(world.clock.now())}
    kubelet.report(f"starchat-{number}-abcde", outcome="Stopped", step=step, checkpoint=checkpoint)
    world.settle()
    kubelet.remove_ray_pods(f"starchat-{number}-abcde")
    world.settle()


def smaller(world: World, kubelet: Kubelet) -> None:
    """A job whose second attempt trains with one of two nodes."""
    elastic(world, kubelet)
    starts(world, kubelet, 1, workers=2, missing=1)
    gives_up(world, kubelet, 1)
    starts(world, kubelet, 2, workers=1)


def replicas(world: World, number: int) -> int:
    rayjob = world.api.objects["rayjobs", builders.NAMESPACE, f"starchat-{number}"]
    return int(rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"])


def test_it_starts_smaller_with_the_same_steps(world: World, kubelet: Kubelet) -> None:
    elastic(world, kubelet)
    whole = frozen(world, 1)
    starts(world, kubelet, 1, workers=2, missing=1)
    gives_up(world, kubelet, 1)
    starts(world, kubelet, 2, workers=1)
    fewer = frozen(world, 2)
    assert (replicas(world, 2), fewer.plan.nodes, fewer.plan.world_size) == (1, 1, 8)
    assert (fewer.plan.micro_batch_size, fewer.plan.micro_steps) == (4, 2 * whole.plan.micro_steps)
    assert (fewer.plan.global_batch_size, fewer.plan.total_steps) == (whole.plan.global_batch_size, whole.plan.total_steps)
    assert (fewer.identity, fewer.job.spec.workers.min_nodes) == (whole.identity, None)
    first, second = world.status["attempts"]
    assert "attempts run with 1 of 2 nodes until all are to be had, and with the same steps" in first["message"]
    assert (first["workerPods"], second["workerPods"], second["gpus"]) == (2, 1, 8)
    assert world.condition("Trained") == ("False", "Training")
    assert world.status["adjusted"]["nodes"] == 1
    assert world.status["plan"]["worldSize"] == 8
    kubelet.train("starchat-2", workers=1)
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_it_takes_as_many_nodes_as_its_workers_found_and_the_plan_accepts(world: World, kubelet: Kubelet) -> None:
    """256 rows are whole micro-batches on one, two and four nodes of eight GPUs, and not on three."""
    elastic(world, kubelet, nodes=4)
    starts(world, kubelet, 1, workers=4, missing=1)
    gives_up(world, kubelet, 1)
    assert replicas(world, 2) == 2


def test_what_keeps_all_workers_is_no_reason_for_fewer(world: World, kubelet: Kubelet) -> None:
    """As an image that isn't there: each has its node."""
    elastic(world, kubelet)
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", phase="Pending")
    world.settle()
    gives_up(world, kubelet, 1)
    assert replicas(world, 2) == 2
    assert "adjusted" not in world.status


@pytest.mark.parametrize("workers", [{"minNodes": None}, {"minNodes": 2}])
def test_nodes_are_exact_unless_the_job_says_otherwise(world: World, kubelet: Kubelet, workers: dict[str, Any]) -> None:
    elastic(world, kubelet, **workers)
    starts(world, kubelet, 1, workers=2, missing=1)
    gives_up(world, kubelet, 1)
    assert replicas(world, 2) == 2


def test_all_nodes_are_tried_again_after_a_checkpoint_and_no_step_is_lost(world: World, kubelet: Kubelet) -> None:
    smaller(world, kubelet)
    commits(world, kubelet, 2, 3)
    world.clock.advance(HOUR)
    world.settle()
    assert world.condition("Trained") == ("False", "Training"), "the checkpoint of before is old by now"
    commits(world, kubelet, 2, 5)
    assert world.condition("Trained") == ("False", "Stopping")
    assert world.message("Trained").endswith("all of workers.nodes are tried again")
    stops(world, kubelet, 2, 6)
    assert (replicas(world, 3), world.status["attempts"][-1]["firstStep"]) == (2, 6)
    assert world.status["attempts"][1]["outcome"] == "Stopped"
    assert "the next attempt tries all 2 nodes again" in world.status["attempts"][1]["message"]
    starts(world, kubelet, 3, workers=2)
    assert "adjusted" not in world.status
    assert "stop" not in kubelet.named(kinds.FINETUNEREPORTS, "starchat")["spec"]
    world.clock.advance(24 * HOUR)
    commits(world, kubelet, 3, 7)
    assert world.condition("Trained") == ("False", "Training")


@pytest.mark.parametrize("queued", [False, True], ids=["no node", "others hold it back"])
def test_a_try_in_vain_is_given_up_soon_and_repeated_ever_later(world: World, kubelet: Kubelet, queued: bool) -> None:
    smaller(world, kubelet)
    number, step = 2, 1
    for hours in (1, 2, 4):
        world.clock.advance(hours * HOUR - 120)
        step += 1
        commits(world, kubelet, number, step)
        assert world.condition("Trained") == ("False", "Training")
        world.clock.advance(120)
        step += 1
        commits(world, kubelet, number, step)
        stops(world, kubelet, number, step)
        number += 1
        if queued:
            kubelet.rayjob(f"starchat-{number}", "Suspended", cluster="")
            world.api.change(kinds.RAYJOBS, builders.NAMESPACE, f"starchat-{number}", spec={"suspend": True})
            world.settle()
        else:
            starts(world, kubelet, number, workers=2, missing=1)
        gives_up(world, kubelet, number, seconds=301)
        number += 1
        assert replicas(world, number) == 1
        starts(world, kubelet, number, workers=1)
    assert world.status["failedStarts"] == 0
    assert world.status["adjusted"]["failedGrowths"] == 3


def test_an_attempt_that_ends_when_it_is_time_makes_room_by_itself(world: World, kubelet: Kubelet) -> None:
    smaller(world, kubelet)
    world.clock.advance(HOUR)
    kubelet.report("starchat-2-abcde", outcome="Failed", reason="WorkerPreempted", message="its node was drained")
    kubelet.finish("starchat-2", "FAILED")
    world.settle()
    world.clock.advance(60)
    world.settle()
    assert replicas(world, 3) == 2


def test_it_is_remembered_by_the_next_operator_and_beside_fewer_rows(world: World, kubelet: Kubelet) -> None:
    smaller(world, kubelet)
    world.restart()
    kubelet.report("starchat-2-abcde", **GPU_FULL)
    kubelet.finish("starchat-2", "FAILED")
    world.settle()
    world.clock.advance(60)
    world.settle()
    third = frozen(world, 3).plan
    assert (third.nodes, third.micro_batch_size, third.global_batch_size) == (1, 2, 256)
    starts(world, kubelet, 3, workers=1)
    world.clock.advance(HOUR)
    commits(world, kubelet, 3, 5)
    stops(world, kubelet, 3, 5)
    starts(world, kubelet, 4, workers=2)
    assert (frozen(world, 4).plan.nodes, frozen(world, 4).plan.micro_batch_size) == (2, 2)
    assert world.status["adjusted"]["microBatchSize"] == 2
    assert "nodes" not in world.status["adjusted"]


def test_a_person_who_changes_the_nodes_has_those(world: World, kubelet: Kubelet) -> None:
    smaller(world, kubelet)
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-2-abcde", outcome="Stopped", step=7)
    world.settle()
    kubelet.remove_ray_pods("starchat-2-abcde")
    world.settle()
    world.change(suspend=False, workers={"minNodes": 2})
    world.settle()
    assert replicas(world, 3) == 2


def test_a_plan_that_fewer_nodes_cannot_hold_is_refused_before_anything_starts(world: World) -> None:
    world.submit(workers={"nodes": 3, "minNodes": 2}, training={"microBatchSize": 4, "globalBatchSize": 96})
    world.settle()
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert "spec.workers.minNodes: with 2 nodes, spec.training.globalBatchSize: 96 is not a multiple" in world.message("Stalled")
    assert world.names(kinds.JOBS) == []
