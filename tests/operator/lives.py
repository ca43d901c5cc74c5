"""How lives of jobs begin or end that tests of several stages need."""

from typing import Any

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World

HUB = {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}}
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}


def prepared(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """A job whose first RayJob was made."""
    world.submit(**spec)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()


def running(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """A job whose first attempt has all of its pods."""
    prepared(world, kubelet, **spec)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()


def suspended(world: World, kubelet: Kubelet) -> None:
    """One whose first attempt stopped for a suspension: with a checkpoint of step 7, and without pods."""
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7)
    world.settle()
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()


def evicted_too_often(world: World, kubelet: Kubelet, part: str) -> None:
    """The Job's pod is evicted, and as often its controller makes another."""
    job = kubelet.named(kinds.JOBS, part)
    for number in range(1, 5):
        assert world.condition("Failed")[0] == "False"
        kubelet.pod_of(job, number=number, **EVICTED)
        world.settle()
    assert world.condition("Failed") == ("True", "Evicted")
    assert "low on resource: ephemeral-storage; give spec.cpuPods.resources" in world.message("Failed")
    assert job["metadata"]["name"] not in world.names(kinds.JOBS), "its controller would make pods for ever"
