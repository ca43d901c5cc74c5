import pytest

from finetune_api.conditions import Condition, ConditionType, find, is_true, stage, with_condition
from finetune_api.status import FineTuneJobStatus


def condition(kind, status="True", at="2026-01-01T00:00:00Z", reason="Because"):
    return Condition(type=kind, status=status, last_transition_time=at, reason=reason)


def test_a_transition_time_changes_with_the_status_only():
    first = with_condition((), condition("Planned", "False", "2026-01-01T00:00:00Z"))
    same = with_condition(first, condition("Planned", "False", "2026-01-02T00:00:00Z", reason="Other"))
    assert (same[0].last_transition_time, same[0].reason) == ("2026-01-01T00:00:00Z", "Other")
    changed = with_condition(same, condition("Planned", "True", "2026-01-03T00:00:00Z"))
    assert changed[0].last_transition_time == "2026-01-03T00:00:00Z"


def test_conditions_keep_one_order_and_the_old_list_stays():
    before = (condition("Failed"),)
    after = with_condition(before, condition("Planned"))
    assert [found.type for found in after] == ["Planned", "Failed"]
    assert len(before) == 1
    assert with_condition(after, condition("Planned")) == after


@pytest.mark.parametrize(
    ("true", "word"),
    [
        ([], "Planning"),
        (["Planned"], "Preparing"),
        (["Planned", "Prepared"], "Training"),
        (["Planned", "Prepared", "Trained"], "Evaluating"),
        (["Planned", "Prepared", "Trained", "Evaluated"], "Publishing"),
        (["Planned", "Prepared", "Trained", "Evaluated", "Published"], "Finishing"),
        (["Planned", "Prepared", "Trained", "Evaluated", "Published", "Succeeded"], "Succeeded"),
        (["Planned", "Failed"], "Failed"),
        (["Planned", "Suspended"], "Suspended"),
    ],
)
def test_the_stage_is_derived(true, word):
    assert stage([condition(kind) for kind in true]) == word


def test_finding():
    conditions = (condition("Planned", "Unknown"),)
    assert find(conditions, ConditionType.PLANNED) is conditions[0]
    assert find(conditions, ConditionType.FAILED) is None
    assert not is_true(conditions, ConditionType.PLANNED)


def test_a_status_of_a_newer_operator_is_read():
    read = FineTuneJobStatus.model_validate(
        {"attempt": 2, "somethingNew": 1, "conditions": [condition("Planned").model_dump(by_alias=True)]}
    )
    assert read.attempt == 2
    assert read.conditions[0].type is ConditionType.PLANNED
