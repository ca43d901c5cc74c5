"""The report and the head's right to it: there before an attempt needs them, made again where they may be missing or wrong."""

import pytest

from finetune_operator import kinds
from finetune_operator.runtime.api import Forbidden

from . import builders
from .fakes import Kubelet, World, failing


def prepares(world: World, kubelet: Kubelet) -> None:
    """Its preparation runs."""
    world.submit()
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), phase="Running")
    world.settle()


def test_they_are_made_while_the_job_is_prepared_and_the_report_last(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    assert not world.names(kinds.FINETUNEREPORTS), "the preparation's pod comes first"
    before = len(world.api.calls)
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), phase="Running")
    world.settle()
    made = [call for call in world.api.calls[before:] if call.startswith("POST") and "events" not in call]
    assert [call.split()[1] for call in made] == ["serviceaccounts", "roles", "rolebindings", "finetunereports"]


def test_then_an_attempt_needs_its_rayjob_alone(world: World, kubelet: Kubelet) -> None:
    prepares(world, kubelet)
    before = len(world.api.calls)
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    made = [call.split()[1] for call in world.api.calls[before:] if call.startswith("POST") and "events" not in call]
    assert made == ["configmaps", "rayjobs"]


def test_a_right_that_cannot_be_granted_is_told_before_the_job_is_prepared(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    refused = Forbidden('User "x" cannot create resource "roles"', status=403, reason="Forbidden")
    world.api.before = failing(refused, call="POST roles")
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), phase="Running")
    world.look()
    assert world.condition("Prepared") == ("False", "Forbidden")
    assert world.condition("Stalled")[0] == "True"
    world.api.before = lambda number, call: None
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_another_service_account_of_the_head_gets_the_right(world: World, kubelet: Kubelet) -> None:
    prepares(world, kubelet)
    world.change(cpuPods={"serviceAccountName": "irsa"})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    first, second = world.api.of(kinds.ROLE_BINDINGS)
    (report,) = world.api.of(kinds.FINETUNEREPORTS)
    assert [binding["subjects"][0]["name"] for binding in (first, second)] == ["starchat-finetune", "irsa"]
    assert first["roleRef"] == second["roleRef"]
    assert not [call for call in world.api.calls if call.startswith("PATCH rolebindings")], "a right that the operator hasn't got"
    assert report["spec"]["serviceAccount"] == "irsa"


def test_a_second_attempt_makes_again_what_somebody_deleted(world: World, kubelet: Kubelet) -> None:
    prepares(world, kubelet)
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    world.api.remove(kinds.ROLES, builders.NAMESPACE, world.names(kinds.ROLES)[0])
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="a worker died")
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()
    assert "starchat-2" in world.names(kinds.RAYJOBS)
    assert world.names(kinds.ROLES)


def test_mfu_is_told_where_the_peak_is_known(world: World, kubelet: Kubelet) -> None:
    """Of the frozen run: 16 workers of 312 TFLOP/s; the shapes are the builders'."""
    world.submit(workers={"accelerator": "nvidia-a100-80gb"})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10, loss=1.5, tokensPerSecond=1e9)
    world.settle()
    each = 6 * 200_000 + 12 * 2 * 64 * 1000  # rows of one dialogue of 1,000 tokens
    assert world.status["progress"]["mfu"] == pytest.approx(1e9 * each / (16 * 312e12), abs=1e-4)
    kubelet.report("starchat-1-abcde", outcome="Running", step=6, totalSteps=10, loss=1.5, tokensPerSecond=None)
    world.settle()
    assert "mfu" not in world.status["progress"]
