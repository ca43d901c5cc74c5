"""finetune_operator/defaults.py: which defaults a job takes, and when."""

from typing import Any

from finetune_api.job_defaults import parse_defaults
from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared, running

CHART = parse_defaults("{workers: {priorityClassName: gpus, labels: {by: chart}}, cpuPods: {labels: {by: chart}}}", "chart")


def config_map(text: str, namespace: str = builders.NAMESPACE) -> dict[str, Any]:
    metadata = {"name": "finetune-job-defaults", "namespace": namespace, "uid": "u"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"defaults.yaml": text}}


def preparation_labels(world: World) -> dict[str, str]:
    (job,) = world.api.of(kinds.JOBS)
    return dict(job["spec"]["template"]["metadata"]["labels"])


def asked(world: World) -> int:
    return sum("finetune-job-defaults" in read for read in world.api.reads)


def test_the_charts_defaults_reach_the_pods_and_the_status() -> None:
    world = World(job_defaults=CHART)
    world.submit()
    world.settle()
    assert preparation_labels(world)["by"] == "chart"
    assert world.status["defaults"]["sources"] == ["the chart"]
    assert world.status["defaults"]["values"]["workers"]["priorityClassName"] == "gpus"
    assert asked(world) == 1  # once for a spec, however often it is looked at


def test_a_namespaces_config_map_wins() -> None:
    world = World(job_defaults=CHART)
    world.api.put(kinds.CONFIG_MAPS, config_map("cpuPods: {labels: {by: namespace}}"))
    world.submit()
    world.settle()
    assert preparation_labels(world)["by"] == "namespace"
    assert world.status["defaults"]["sources"] == ["ConfigMap finetune-job-defaults", "the chart"]


def test_without_any_the_status_says_nothing() -> None:
    world = World()
    world.submit()
    world.settle()
    assert "defaults" not in world.status


def test_a_change_touches_no_job_that_took_them() -> None:
    world = World(job_defaults=CHART)
    kubelet = Kubelet(world.api, now=world.clock.now)
    running(world, kubelet)
    (before,) = world.api.of(kinds.RAYJOBS)
    world.settings = builders.settings(job_defaults=parse_defaults("workers: {priorityClassName: other}", "chart"))
    world.restart()
    world.settle()
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    world.clock.advance(60)
    world.settle()
    (after,) = world.api.of(kinds.RAYJOBS)
    assert after["metadata"]["name"] == "starchat-2"
    assert after["spec"]["rayClusterSpec"] == before["spec"]["rayClusterSpec"]


def test_a_spec_that_changes_before_training_takes_them_anew() -> None:
    world = World(job_defaults=CHART)
    world.submit()
    world.settle()
    world.settings = builders.settings(job_defaults=parse_defaults("cpuPods: {labels: {by: another}}", "chart"))
    world.restart()
    world.settle()
    assert preparation_labels(world)["by"] == "chart"
    world.change(ttlSecondsAfterFinished=60)
    world.settle()
    assert preparation_labels(world)["by"] == "another"


def test_wrong_defaults_hold_a_new_job_up_until_they_are_mended() -> None:
    world = World()
    world.api.put(kinds.CONFIG_MAPS, config_map("workers: {tolerationz: []}"))
    world.submit()
    decision = world.settle()
    assert world.condition("Planned") == ("False", "InvalidDefaults")
    assert "ConfigMap finetune-job-defaults: workers.tolerationz" in world.message("Planned")
    assert world.condition("Stalled") == ("True", "InvalidDefaults")
    assert not world.api.of(kinds.JOBS)
    assert decision is not None
    assert decision.requeue_after_seconds == 60.0
    world.api.put(kinds.CONFIG_MAPS, config_map("cpuPods: {labels: {by: namespace}}"))
    world.clock.advance(60)
    world.settle()
    assert preparation_labels(world)["by"] == "namespace"


def test_a_running_job_does_not_ask_for_them() -> None:
    world = World()
    kubelet = Kubelet(world.api, now=world.clock.now)
    running(world, kubelet)
    world.api.put(kinds.CONFIG_MAPS, config_map("workers: {tolerationz: []}"))
    world.change(ttlSecondsAfterFinished=60)
    world.settle()
    assert asked(world) == 1
    assert world.condition("Planned")[0] == "True"


def test_storage_of_the_defaults_stays_once_a_job_has_trained() -> None:
    world = World(job_defaults=parse_defaults("checkpoints: {storage: 's3://one'}", "chart"))
    kubelet = Kubelet(world.api, now=world.clock.now)
    prepared(world, kubelet, checkpoints={"storage": None, "credentialsSecret": None})
    world.settings = builders.settings(
        job_defaults=parse_defaults("{checkpoints: {storage: 's3://other'}, workers: {labels: {a: b}}}", "chart")
    )
    world.restart()
    world.change(suspend=True)
    world.settle()
    world.change(suspend=False)
    world.settle()
    values = world.status["defaults"]["values"]
    assert values["checkpoints"] == {"storage": "s3://one"}
