"""What planning refuses, as a condition: before any pod exists, with every problem."""

from datetime import timedelta
from typing import Any

import pytest
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE, Refusal

from finetune_api.conditions import ConditionType, find
from finetune_api.jobfile import parse_job
from finetune_operator.observation import Observed
from finetune_operator.reconcile import reconcile

from . import builders
from .fakes import START


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
