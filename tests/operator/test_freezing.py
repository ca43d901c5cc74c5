"""The frozen run in the life of a job: what makes another one, and what an upgraded operator leaves as it is."""

import json
from typing import Any

import pytest

from finetune_api.training_run import TrainingRun, digest_of
from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import HUB, prepared, running, suspended


def test_workers_that_change_while_suspended_make_another_run(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    first = world.status["run"]
    suspended(world, kubelet)
    world.change(workers={"nodes": 1})
    world.settle()
    world.change(suspend=False)
    world.settle()
    second = world.status["run"]
    assert second["digest"] != first["digest"]
    assert (second["identity"], second["dataFingerprint"]) == (first["identity"], first["dataFingerprint"])
    assert world.status["plan"]["worldSize"] == 8
    rayjob = world.api.of(kinds.RAYJOBS)[0]
    assert rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 1
    assert len(world.names(kinds.CONFIG_MAPS)) == 2


def test_an_upgraded_operator_runs_the_frozen_run(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    old = world.settings.ray_version
    upgraded(world, ray_version="2.61.0")
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    world.clock.advance(60)
    world.settle()
    assert image_and_ray(world) == ("registry.example/trainer:1", old)
    assert len(world.names(kinds.CONFIG_MAPS)) == 1


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        ({"nodes": 1}, ("registry.example/trainer:1", "2.60.0")),
        ({"image": "registry.example/own:1"}, ("registry.example/own:1", "2.61.0")),
    ],
)
def test_an_image_keeps_its_ray_when_the_run_is_frozen_again(
    world: World, kubelet: Kubelet, workers: dict[str, Any], wanted: tuple[str, str]
) -> None:
    prepared(world, kubelet)
    world.change(suspend=True)
    world.settle()
    first = world.status["run"]["digest"]
    upgraded(world, ray_version="2.61.0")
    world.change(suspend=False, workers=workers)
    world.settle()
    assert world.status["run"]["digest"] != first
    assert image_and_ray(world) == wanted
    assert (world.status["run"]["image"], world.status["run"]["rayVersion"]) == wanted


def test_a_tag_that_moves_changes_no_attempt(world: World, kubelet: Kubelet) -> None:
    """Preparation ran the tag's image of that day. What is asked for by another name is another image."""
    digest = f"@sha256:{'5f' * 32}"
    world.submit(workers={"image": "registry.example/own:1"})
    world.settle()
    job = kubelet.named(kinds.JOBS, "-prepare-")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/own:1"
    kubelet.complete("-prepare-", builders.prepared(), image="registry.example/own:1", image_id=f"registry.example/own{digest}")
    world.settle()
    assert world.status["run"]["imageThatRan"] == f"registry.example/own:1{digest}"
    assert image_and_ray(world)[0] == f"registry.example/own:1{digest}"
    world.change(suspend=True)
    world.settle()
    world.change(suspend=False, workers={"image": "registry.example/own:2"})
    world.settle()
    assert image_and_ray(world)[0] == "registry.example/own:2"


def test_what_an_older_operator_froze_is_published_as_it_is(world: World, kubelet: Kubelet) -> None:
    """Read and written again by a newer one it would have another digest, of a ConfigMap that there is not."""
    prepared(world, kubelet, publish=HUB)
    as_an_older_operator_left_it(world)
    kubelet.train("starchat-1")
    world.settle()
    volumes = kubelet.named(kinds.JOBS, "-publish-")["spec"]["template"]["spec"]["volumes"]
    assert {volume["configMap"]["name"] for volume in volumes if "configMap" in volume} == {world.status["run"]["configMap"]}
    assert world.status["run"]["configMap"] in world.names(kinds.CONFIG_MAPS)


def test_an_older_image_can_read_what_is_frozen_again(world: World, kubelet: Kubelet) -> None:
    """It refuses settings that it doesn't know, so those that nobody has set are left out."""
    prepared(world, kubelet)
    as_an_older_operator_left_it(world)
    world.change(suspend=True)
    world.settle()
    world.change(suspend=False, checkpoints={"keep": 7})
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]
    text = world.api.objects["configmaps", builders.NAMESPACE, world.status["run"]["configMap"]]["data"]["run.json"]
    spec = json.loads(text)["job"]["spec"]
    assert spec["checkpoints"]["keep"] == 7
    assert UNKNOWN_BEFORE not in spec["training"]
    assert TrainingRun.from_json(text).job.spec.checkpoints.keep == 7


def test_pods_read_a_run_whose_gate_asks_for_a_judge(world: World, kubelet: Kubelet) -> None:
    """Attempts read neither, and a gate on a judge that isn't there is no valid job."""
    prepared(world, kubelet, evaluation={"judge": {"model": "m"}}, publish=HUB | {"gate": {"judgeWinRate": {"min": 0.6}}})
    text = world.api.objects["configmaps", builders.NAMESPACE, world.status["run"]["configMap"]]["data"]["run.json"]
    spec = TrainingRun.from_json(text).job.spec
    assert (spec.evaluation.judge, spec.publish.gate.judge_win_rate) == (None, None)


# A setting with a default, of which an older operator and its image would know nothing.
UNKNOWN_BEFORE = "activationCheckpointing"


def as_an_older_operator_left_it(world: World) -> None:
    """The frozen run lacks a setting that came later."""
    recorded = world.status["run"]
    old = world.api.objects["configmaps", builders.NAMESPACE, recorded["configMap"]]
    value = json.loads(old["data"]["run.json"])
    del value["job"]["spec"]["training"][UNKNOWN_BEFORE]
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    digest = digest_of(text)
    name = keys.run_name(builders.NAME, digest)
    world.api.remove(kinds.CONFIG_MAPS, builders.NAMESPACE, recorded["configMap"])
    metadata = {key: value for key, value in old["metadata"].items() if key not in ("uid", "resourceVersion")}
    world.api.put(kinds.CONFIG_MAPS, {**old, "metadata": {**metadata, "name": name}, "data": {"run.json": text}})
    attempts = [attempt | {"runDigest": digest} for attempt in world.status["attempts"]]
    status = {"run": recorded | {"digest": digest, "configMap": name}, "attempts": attempts}
    world.api.change(kinds.FINETUNEJOBS, *world.key, status=status)
    world.restart()


def upgraded(world: World, *, ray_version: str) -> None:
    """An operator of another version goes on."""
    world.settings = builders.settings(trainer_image="registry.example/trainer:2", ray_version=ray_version)
    world.restart()


def image_and_ray(world: World) -> tuple[str, str]:
    """What the only RayJob's head runs, and what KubeRay is told of it."""
    (rayjob,) = world.api.of(kinds.RAYJOBS)
    cluster = rayjob["spec"]["rayClusterSpec"]
    return cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"], cluster["rayVersion"]
