"""What planning refuses, as a condition: before any pod exists, with every problem."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.api.jobs import STARCODERBASE, mapping
from tests.api.planning_refusals import REFUSALS, STORAGE, Refusal

from finetune_api.conditions import ConditionType, find
from finetune_api.jobfile import parse_job
from finetune_operator import kinds
from finetune_operator.observation import Observed
from finetune_operator.reconcile import reconcile

from . import builders
from .fakes import START, Kubelet, World


def observed(spec: dict[str, Any]) -> Observed:
    data = mapping(**{**spec, "checkpoints": {**STORAGE, **spec.get("checkpoints", {})}})
    raw = builders.raw_job() | {"spec": data["spec"]}
    return Observed(raw=raw, job=parse_job(data), now=START + timedelta(seconds=1))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_a_condition_and_no_action(refusal: Refusal) -> None:
    decision = reconcile(observed(refusal.spec), builders.settings())
    planned = find(decision.status.conditions, ConditionType.PLANNED)
    stalled = find(decision.status.conditions, ConditionType.STALLED)
    assert planned is not None
    assert stalled is not None
    assert (planned.status, planned.reason, stalled.status) == ("False", refusal.reason, "True")
    for words in refusal.words:
        assert words in planned.message
    assert decision.actions == ()
    assert decision.status.stage == "Stalled"


def test_a_spec_that_the_models_refuse_is_a_condition_too() -> None:
    seen = Observed(raw=builders.raw_job(), job=None, problems="spec.training.epochs: 0 is less than 1", now=START)
    decision = reconcile(seen, builders.settings())
    planned = find(decision.status.conditions, ConditionType.PLANNED)
    assert planned is not None
    assert (planned.status, planned.message) == ("False", "spec.training.epochs: 0 is less than 1")
    assert decision.actions == ()


def test_a_good_plan_is_told_in_a_line() -> None:
    decision = reconcile(observed({}), builders.settings())
    planned = find(decision.status.conditions, ConditionType.PLANNED)
    assert planned is not None
    assert planned.status == "True"
    assert planned.message.startswith("8 gpu workers on 1 node, ")


def test_what_a_plan_costs_is_told_where_the_chart_has_a_price() -> None:
    shape = STARCODERBASE.model_dump(mode="json", by_alias=True)
    known = observed({"model": {"shape": shape}, "training": {"maxSteps": 87}})
    plain = reconcile(known, builders.settings()).status.plan
    assert plain is not None
    assert plain.cost is None
    decision = reconcile(known, replace(builders.settings(), prices={"nvidia-a100-80gb": 2.0}))
    priced, planned = decision.status.plan, find(decision.status.conditions, ConditionType.PLANNED)
    assert priced is not None
    assert planned is not None
    assert priced.gpu_hours is not None
    assert priced.best_gpu_hours is not None
    assert priced.cost == pytest.approx(2.0 * priced.gpu_hours)
    hours = f"{priced.best_gpu_hours:.1f} to {priced.gpu_hours:.1f} GPU hours, at most about ${priced.cost:,.0f}"
    assert hours in planned.message


# ---- in the life of a job


@pytest.mark.parametrize("accelerator", [None, "nvidia-a999"])
def test_a_job_without_a_known_accelerator_is_said_loudly_in_planned(accelerator: str | None) -> None:
    decision = reconcile(observed({"workers": {"accelerator": accelerator}}), builders.settings())
    planned = find(decision.status.conditions, ConditionType.PLANNED)
    assert planned is not None
    assert planned.status == "True"
    assert planned.message.startswith("NOT COMPARED with the memory of any GPU: ")
    assert ("set spec.workers.accelerator" if accelerator is None else "nvidia-a999 is not a GPU model that we know") in planned.message


def test_a_plan_that_is_refused_makes_no_object_and_is_looked_at_again(world: World) -> None:
    world.submit(training={"globalBatchSize": 100, "method": "prompt"})
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert world.condition("Reconciling") == ("False", "Stalled")
    assert world.condition("Failed")[0] == "False"
    assert "spec.training.method" in world.message("Planned")
    assert "spec.training.globalBatchSize" in world.message("Planned")
    assert {call.split()[1] for call in world.api.calls} == {"finetunejobs/status", "events"}
    world.change(training={"globalBatchSize": 256, "method": "full"})
    world.settle()
    assert world.condition("Planned") == ("True", "Planned")
    assert world.condition("Stalled") == ("False", "NotStalled")
    assert world.status["observedGeneration"] == 2


def test_what_cannot_fit_is_refused_after_preparation(world: World, kubelet: Kubelet) -> None:
    world.submit(training={"maxSequenceLength": 4096})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())  # the model has 2048 positions
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert world.condition("Stalled")[0] == "True"
    assert world.names(kinds.RAYJOBS) == []
    assert world.names(kinds.CONFIG_MAPS) == []
    world.change(training={"maxSequenceLength": 1024})
    world.settle()
    assert world.condition("Prepared") == ("False", "Preparing")


def test_a_spec_that_changes_before_the_first_attempt_is_prepared_again(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    first = world.names(kinds.JOBS)
    world.change(model={"revision": "v2"})
    world.settle()
    assert len(world.names(kinds.JOBS)) == 1
    assert world.names(kinds.JOBS) != first
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
