"""The evaluation under edits at any moment, and under pods that say what they like."""

import json
from typing import Any

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import HUB
from .test_evaluation import ARC, ASKED, GATE, jobs, measured, trained

Json = dict[str, Any]
HELD_OUT = {"sources": [{"path": "org/data"}], "evaluation": {"fraction": 0.1}}


def test_a_gate_that_comes_after_a_failed_evaluation_is_not_passed_and_asks_for_it(world: World, kubelet: Kubelet) -> None:
    trained(world, kubelet)
    kubelet.fail("-evaluate-", builders.failed("InvalidEndpoint", "the judge refuses the key"))
    world.settle()
    assert len(jobs(world, "-publish-")) == 1
    world.change(publish=GATE)
    world.settle()
    assert world.condition("Failed") == ("True", "InvalidEndpoint")
    assert "spec.publish.gate.judgeWinRate needs it" in world.message("Failed")
    assert jobs(world, "-publish-") == []
    world.change(retry=1)
    world.settle()
    assert len(jobs(world, "-evaluate-")) == 1
    kubelet.complete("-evaluate-", measured(world))
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")


def test_the_loss_of_a_checkpoint_that_is_no_longer_published_closes_no_gate(world: World, kubelet: Kubelet) -> None:
    """What the evaluation measured of the last checkpoint says nothing of the best, and nobody asks for another evaluation."""
    publish = HUB | {"gate": {"evaluationLoss": {"max": 1.4}}}
    trained(world, kubelet, dataset=HELD_OUT, publish=publish, evaluation={"samples": {}})
    kubelet.complete("-evaluate-", measured(world, judge=False, loss=1.5))
    world.settle()
    assert world.condition("Failed") == ("True", "GateClosed")
    world.change(retry=1, evaluation={"samples": None}, publish={"checkpoint": "best"})
    world.settle()
    assert world.condition("Published") == ("False", "Publishing")


@pytest.mark.parametrize("extra", ['"more":NaN', '"more":1e999', f'"more":{"9" * 400}', '"more":{"a":"b"}'])
def test_nothing_gets_into_the_status_that_it_has_no_field_for(world: World, kubelet: Kubelet, extra: str) -> None:
    """The API server would refuse some of it, and with it each write of the status."""
    trained(world, kubelet, evaluation={"tasks": ["arc_challenge"]})
    text = measured(world, judge=False).to_termination_message()
    assert json.dumps(ARC)[1:-1].replace(" ", "") in text
    kubelet.complete("-evaluate-", text.replace('"documents":', f'{extra},"documents":'))
    world.settle()
    for task in world.status["evaluation"].get("tasks", []):
        assert task.keys() <= ARC.keys()


def test_other_devices_of_its_pod_are_no_gpus(world: World, kubelet: Kubelet) -> None:
    device = {"resources": {"limits": {"rdma/hca": "1"}}}
    trained(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 2} | device})
    before = world.status["usage"]["gpuHours"]
    resources = kubelet.named(kinds.JOBS, "-evaluate-")["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "2", "rdma/hca": "1"}
    kubelet.complete("-evaluate-", measured(world), bound="2026-11-23T10:00:00Z")
    pod = kubelet.named(kinds.PODS, "-evaluate-")
    pod["spec"]["containers"][0]["resources"] = resources
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = "2026-11-23T10:30:00Z"
    world.api.put(kinds.PODS, pod)
    world.clock.advance(3600)
    world.settle()
    assert world.status["usage"]["gpuHours"] == pytest.approx(before + 1.0)


@pytest.mark.parametrize("refused", [{"publish": {"checkpoint": "best"}}, {"evaluation": {"batchSize": 0}}], ids=["plan", "models"])
def test_a_suspension_that_comes_with_a_refused_change_gives_its_gpus_back(world: World, kubelet: Kubelet, refused: Json) -> None:
    trained(world, kubelet, evaluation=ASKED | {"pod": {"gpus": 1}})
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-evaluate-"), phase="Running")
    world.change(suspend=True, **refused)
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert jobs(world, "-evaluate-") == []
