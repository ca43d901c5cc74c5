"""Publication in the life of a job."""

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import HUB, evicted_too_often, prepared


def test_a_failed_publication_is_retried_without_training(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB)
    kubelet.train("starchat-1")
    world.settle()
    kubelet.fail("-publish-", builders.failed("InvalidPublication", "the token may not write"))
    world.settle()
    assert world.condition("Failed") == ("True", "InvalidPublication")
    assert world.condition("Trained")[0] == "True"
    world.change(retry=1)
    world.settle()
    assert len(world.names(kinds.JOBS)) == 2  # the preparation, and another publication
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_publication_that_is_evicted_again_and_again_is_retried_without_training(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB)
    kubelet.train("starchat-1")
    world.settle()
    evicted_too_often(world, kubelet, "-publish-")
    assert world.condition("Published") == ("False", "Evicted")
    world.change(retry=1, cpuPods={"resources": {"requests": {"ephemeral-storage": "50Gi"}}})
    world.settle()
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_gate_refuses_a_bad_model_before_any_pod(world: World, kubelet: Kubelet) -> None:
    held_out = {"sources": [{"name": "org/data"}], "evaluation": {"fraction": 0.1}}
    prepared(world, kubelet, dataset=held_out, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.train("starchat-1", evaluation={"step": 10, "loss": 1.5})
    world.settle()
    assert world.condition("Evaluated") == ("True", "Evaluated")
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "1.5" in world.message("Failed")
    assert not [name for name in world.names(kinds.JOBS) if "-publish-" in name]
