"""Publication in the life of a job."""

from typing import Any

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
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    prepared(world, kubelet, dataset=held_out, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.train("starchat-1", evaluation={"step": 10, "loss": 1.5})
    world.settle()
    assert world.condition("Evaluated") == ("True", "Evaluated")
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "1.5" in world.message("Failed")
    assert not [name for name in world.names(kinds.JOBS) if "-publish-" in name]


EARLY = {
    "reason": "StoppedEarly",
    "message": "stopped early at step 6 of 10: none of the last 2 evaluations was better than that of step 2",
}


def test_a_training_that_stopped_early_is_trained_and_judged_by_its_last_evaluation(world: World, kubelet: Kubelet) -> None:
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    stops = {"everySteps": 2, "earlyStopping": {"patience": 2}}
    prepared(world, kubelet, dataset=held_out, evaluation=stops, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.train("starchat-1", step=6, evaluation={"step": 6, "loss": 1.5}, **EARLY)
    world.settle()
    assert world.condition("Trained") == ("True", "Trained")
    assert world.message("Trained") == EARLY["message"]
    assert (world.status["attempts"][-1]["outcome"], world.status["attempts"][-1]["reason"]) == ("Finished", "StoppedEarly")
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "the evaluation loss of step 6 is 1.5000" in world.message("Failed")


def test_an_early_end_whose_last_evaluation_was_not_reported_closes_no_gate(world: World, kubelet: Kubelet) -> None:
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    stops = {"everySteps": 2, "earlyStopping": {"patience": 2}}
    prepared(world, kubelet, dataset=held_out, evaluation=stops, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.train("starchat-1", step=6, evaluation={"step": 4, "loss": 1.5}, **EARLY)
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")


def test_the_evaluation_of_an_earlier_checkpoint_closes_no_gate(world: World, kubelet: Kubelet) -> None:
    """The attempt that reported it was preempted, and the one that finished couldn't report: the pod finds the loss in the storage."""
    held_out = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}
    prepared(world, kubelet, dataset=held_out, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.report("starchat-1-abcde", outcome="Running", step=4, evaluation={"step": 4, "loss": 1.5})
    world.settle()
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    world.clock.advance(60)
    world.settle()
    kubelet.rayjob("starchat-2", "Complete", job="SUCCEEDED")
    world.clock.advance(11)  # its last words don't come
    world.settle()
    assert world.condition("Trained") == ("True", "Trained")
    assert world.condition("Published") == ("False", "Publishing")


def test_a_job_without_publish_on_a_cluster_says_how_to_get_its_model(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, checkpoints={"storage": "s3://bucket/starchat"})
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Published") == ("True", "NotRequested")
    assert "`finetune export s3://bucket/starchat` makes a model of the newest checkpoint" in world.message("Published")
    assert world.condition("Succeeded")[0] == "True"


def test_a_job_publishes_to_object_storage(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish={"storage": {"path": "s3://models/starchat", "credentialsSecret": {"name": "models"}}})
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def publishing(world: World, kubelet: Kubelet, **spec: Any) -> str:
    """A trained job whose publication's pod runs; the Job's name."""
    prepared(world, kubelet, **({"publish": HUB} | spec))
    kubelet.train("starchat-1", evaluation={"step": 10, "loss": 2.0})
    world.settle()
    job = kubelet.named(kinds.JOBS, "-publish-")
    kubelet.pod_of(job, phase="Running")
    world.settle()
    return str(job["metadata"]["name"])


def publications(world: World) -> list[str]:
    return [name for name in world.names(kinds.JOBS) if "-publish-" in name]


def test_a_run_that_is_frozen_again_is_published_once(world: World, kubelet: Kubelet) -> None:
    former = publishing(world, kubelet)
    before = len(world.api.calls)
    world.change(publish={"hub": {"repository": "org/other"}})
    world.settle()
    calls = [call for call in world.api.calls[before:] if "-publish-" in call]
    assert calls == [f"DELETE jobs {former}", f"POST jobs {publications(world)[0]}"]
    kubelet.complete("-publish-", builders.published("org/other"))
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_a_frozen_run_that_is_made_again_as_it_was_stops_no_publication(world: World, kubelet: Kubelet) -> None:
    former = publishing(world, kubelet)
    world.api.remove(kinds.CONFIG_MAPS, builders.NAMESPACE, world.status["run"]["configMap"])
    world.restart()
    world.settle()
    assert publications(world) == [former]


def test_a_publication_that_is_wanted_no_longer_goes(world: World, kubelet: Kubelet) -> None:
    publishing(world, kubelet)
    world.change(publish={"hub": None})
    world.settle()
    assert world.condition("Published") == ("True", "NotRequested")
    assert publications(world) == []


def test_a_gate_that_closes_meanwhile_stops_the_publication(world: World, kubelet: Kubelet) -> None:
    publishing(world, kubelet, dataset={"evaluation": {"fraction": 0.1}})
    world.change(publish={"gate": {"evaluationLoss": {"max": 1.0}}})
    world.settle()
    assert world.condition("Failed") == ("True", "GateClosed")
    assert publications(world) == []


def test_a_job_that_failed_publishes_nothing_any_more(world: World, kubelet: Kubelet) -> None:
    publishing(world, kubelet, budget={"activeDeadlineSeconds": 3600})
    world.clock.advance(4000)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert publications(world) == []
    assert len(world.names(kinds.JOBS)) == 1, "the preparation has ended, and keeps its log"


def test_a_publication_whose_pod_failed_for_good_keeps_its_log(world: World, kubelet: Kubelet) -> None:
    name = publishing(world, kubelet)
    said = builders.failed("InvalidPublication", "the token may not write")
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-publish-"), phase="Failed", exit_code=said.exit_code, result=said)
    world.settle()  # the Job's controller hasn't seen it yet
    assert world.condition("Failed") == ("True", "InvalidPublication")
    assert publications(world) == [name]
