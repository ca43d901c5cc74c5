"""A job from before a field was renamed: it is understood, and an image that began it is answered in its own words."""

import json
from typing import Any

import pytest
from tests.operator import builders
from tests.operator.resources.manifests import plain_job, templates

from finetune_api.status import parse_status
from finetune_api.training_run import digest_of
from finetune_operator import keys, kinds
from finetune_operator.resources.rayjob import rayjob
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.settings import RunSettings
from finetune_operator.stages.freezing import pinned

from .fakes import Kubelet, World
from .lives import HUB, prepared, running, suspended

FORMER = {"sources": [{"name": "org/data"}]}


def submitted(world: World) -> None:
    """As the API server gives a stored job: it has the former word alone."""
    world.submit()
    world.api.change(kinds.FINETUNEJOBS, builders.NAMESPACE, builders.NAME, spec={"dataset": FORMER})


def sources(manifest: dict[str, object]) -> object:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return json.loads(metadata["annotations"][keys.JOB_SPEC_ANNOTATION])["spec"]["dataset"]["sources"]


def test_a_stored_job_with_the_former_word_is_prepared(world: World) -> None:
    submitted(world)
    world.settle()
    [job] = world.api.of(kinds.JOBS)
    assert sources(job["spec"]["template"]) == [{"path": "org/data"}]
    assert world.condition("Planned")[0] == "True"


def begun_by_the_former_operator(world: World) -> str:
    """The run, the status and the job as they are when an operator of contract 1 froze it; its digest."""
    digest = world.status["run"]["digest"]
    text = world.api.of(kinds.CONFIG_MAPS)[0]["data"][keys.RUN_FILE]
    text = text.replace('"contractVersion": 2', '"contractVersion": 1').replace('"path": "org/data"', '"name": "org/data"')
    former = digest_of(text)
    world.api.remove(kinds.CONFIG_MAPS, builders.NAMESPACE, world.status["run"]["configMap"])
    world.api.put(kinds.CONFIG_MAPS, run_config_map(text, builders.owner(uid=world.job["metadata"]["uid"])))
    run = world.status["run"] | {
        "digest": former,
        "contractVersion": 1,
        "configMap": keys.run_name(builders.NAME, former),
        "identity": "f" * 64,
    }
    attempts = [attempt | {"runDigest": former} for attempt in world.status["attempts"]]
    status = {"run": run, "attempts": attempts}
    world.api.change(kinds.FINETUNEJOBS, builders.NAMESPACE, builders.NAME, spec={"dataset": FORMER}, status=status)
    assert former != digest
    world.restart()
    world.settle()
    return former


def failed(world: World, kubelet: Kubelet) -> None:
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()


def test_a_run_of_the_former_contract_goes_on(world: World, kubelet: Kubelet) -> None:
    """After a failure the next attempt executes it as it is; when that is done, its model is published."""
    running(world, kubelet, publish=HUB)
    digest = begun_by_the_former_operator(world)
    failed(world, kubelet)
    rayjob = kubelet.named(kinds.RAYJOBS, "-2")
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert sources(head) == [{"name": "org/data"}]
    kubelet.train("starchat-2")
    world.settle()
    published = kubelet.named(kinds.JOBS, "-publish-")
    assert sources(published["spec"]["template"]) == [{"name": "org/data"}]
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert {attempt["runDigest"] for attempt in world.status["attempts"]} == {digest}
    assert [attempt["outcome"] for attempt in world.status["attempts"]] == ["Failed", "Finished"]


def test_an_attempt_is_followed_whose_spec_the_former_operator_took_and_this_one_refuses(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(publish={"hub": {"repository": "org/starchat-", "tokenSecret": {"name": "hub"}}})
    begun_by_the_former_operator(world)
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    kubelet.report("starchat-1-abcde", step=5, totalSteps=20, loss=1.0)
    world.settle()
    assert world.status["progress"]["step"] == 5
    kubelet.finish("starchat-1", "SUCCEEDED")
    kubelet.report("starchat-1-abcde", outcome="Finished", step=20, totalSteps=20)
    world.settle()
    assert [attempt["outcome"] for attempt in world.status["attempts"]] == ["Finished"]


def test_a_run_of_the_former_contract_keeps_its_ranks(world: World, kubelet: Kubelet) -> None:
    """This operator can't plan it anew: it says so, and goes on with workers that are as many."""
    running(world, kubelet)
    begun_by_the_former_operator(world)
    suspended(world, kubelet)
    world.change(suspend=False, workers={"nodes": 1})
    world.settle()
    assert world.condition("Stalled") == ("True", "RunConflict")
    assert "spec.workers makes 8 ranks" in world.message("Stalled")
    assert "set workers that make 16" in world.message("Stalled")
    world.change(workers={"nodes": 2})
    world.settle()
    assert kubelet.named(kinds.RAYJOBS, "-2")


def test_an_image_of_the_former_contract_reads_the_former_word(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    read = parse_status(world.status)
    assert read.run is not None
    today = pinned(read, builders.settings())
    former = pinned(read.model_copy(update={"run": read.run.model_copy(update={"contract_version": 1})}), builders.settings())
    assert isinstance(today, RunSettings)
    assert (today.contract, former.contract) == (2, 1)
    for settings, word in ((today, "path"), (former, "name")):
        made = rayjob(plain_job(), read.run.digest, 1, builders.owner(), settings)
        head = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        assert sources(head) == [{word: "org/data"}]
    assert sources(templates(plain_job())["preparation"]) == [{"path": "org/data"}]


# ---- fields that are gone

WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"training": {"lora": {"rank": 16, "alpha": 32.0, "dropout": 0.0, "targetModules": []}}},
    {"training": {"deepspeed": {"offload_optimizer": {"device": "none", "pin_memory": False}, "offload_param": {}}}},
    {"evaluation": {"benchmarks": []}},
    {"evaluation": {"judge": None}},
    {"publish": {"hub": {**HUB["hub"], "when": "end"}}},
]
WITH_EFFECT: dict[str, dict[str, Any]] = {
    "spec.evaluation.benchmarks": {"evaluation": {"benchmarks": ["humaneval"]}},
    "spec.publish.hub.when": {"publish": {"hub": {**HUB["hub"], "when": "everyCheckpoint"}}},
}


def shown(world: World, spec: dict[str, Any]) -> None:
    """The API server shows a stored job with what it was applied with: by the former definition, or by one that has dropped fields."""
    found = world.job
    found["spec"] = builders.spec_mapping(**spec)
    world.api.put(kinds.FINETUNEJOBS, found)


@pytest.mark.parametrize("spec", WITHOUT_EFFECT, ids=str)
def test_a_gone_field_that_did_nothing_changes_nothing(spec: dict[str, Any]) -> None:
    """The definition may be the former one still, as where a team applies definitions by hand."""
    made = []
    for written in (spec, {"publish": HUB} if "publish" in spec else {}):
        world = World()
        world.submit(**written)
        world.settle()
        assert world.condition("Planned")[0] == "True"
        made.append(world.names(kinds.JOBS))
    assert made[0] == made[1]


@pytest.mark.parametrize("spec", [*WITHOUT_EFFECT, *WITH_EFFECT.values()], ids=str)
def test_a_training_goes_on_when_a_definition_drops_fields(world: World, kubelet: Kubelet, spec: dict[str, Any]) -> None:
    """As the former definition shows the job, then as this one does. What asked for something never got so far, and stops nothing."""
    publish = {"publish": HUB} if "publish" in spec else {}
    running(world, kubelet, **publish)
    rayjobs, runs, jobs = (world.api.of(resource) for resource in (kinds.RAYJOBS, kinds.CONFIG_MAPS, kinds.JOBS))
    before = world.status
    for seen in (spec, publish):
        shown(world, seen)
        world.restart()
        world.settle()
        assert world.api.of(kinds.RAYJOBS) == rayjobs
        assert world.api.of(kinds.CONFIG_MAPS) == runs
        assert world.api.of(kinds.JOBS) == jobs
        assert world.status["attempts"] == before["attempts"]
        assert world.status["run"] == before["run"]
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Trained")[0] == "True"


@pytest.mark.parametrize("field", WITH_EFFECT)
def test_what_a_job_was_refused_for_is_not_forgotten_with_the_field(world: World, field: str) -> None:
    """The API server drops the field, the spec is as good as new, and nobody asked for that training."""
    spec = WITH_EFFECT[field]
    world.submit(**spec)
    world.settle()
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert field in world.message("Planned")
    former = {**world.status, "conditions": [*world.status["conditions"]]}
    for condition in former["conditions"]:
        if condition["type"] == "Planned":  # as the operator of before said it
            condition["message"] = f"{field}: not built yet; remove it"
    shown(world, {"publish": HUB} if "publish" in spec else {})
    world.api.change(kinds.FINETUNEJOBS, *world.key, status=former)
    world.restart()
    for _ in range(3):
        world.settle()
        assert world.condition("Stalled") == ("True", "InvalidSpec")
        assert f"{field}: this version has no such field" in world.message("Stalled")
        assert world.names(kinds.JOBS) == []
    world.change(retry=1)
    world.settle()
    assert world.condition("Planned")[0] == "True"
    assert len(world.names(kinds.JOBS)) == 1
