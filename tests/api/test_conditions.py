import pytest

from finetune_api import errors
from finetune_api.conditions import LONGEST_CONDITION_MESSAGE, Condition, ConditionType, find, is_true, stage, with_condition, with_health
from finetune_api.conditions import condition as observed
from finetune_api.reasons import Reason
from finetune_api.status import LONGEST_LIST, FineTuneJobStatus, UnreadableStatus, newest, parse_status


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
        (["Planned", "Stalled"], "Stalled"),
        (["Failed", "Stalled"], "Failed"),
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


def kstatus(conditions, *, generation=3, observed=3):
    """The published rules: a generation not yet observed, then the first of these conditions that is True."""
    if generation != observed:
        return "InProgress"
    for found in conditions:
        if found.status == "True" and found.type in ("Reconciling", "Stalled"):
            return {"Reconciling": "InProgress", "Stalled": "Failed"}[found.type]
    return "Current"


@pytest.mark.parametrize(
    ("true", "stalled", "health"),
    [
        ([], None, "InProgress"),
        (["Planned", "Prepared"], None, "InProgress"),
        (["Planned", "Prepared", "Trained", "Evaluated", "Published", "Succeeded"], None, "Current"),
        (["Planned", "Suspended"], None, "Current"),
        (["Planned", "Failed"], None, "Failed"),
        ([], ("InvalidSpec", "spec.training.epochs: ..."), "Failed"),
        (["Suspended"], ("NameTaken", "..."), "Failed"),
    ],
)
def test_what_kstatus_makes_of_it(true, stalled, health):
    found = with_health([condition(kind) for kind in true], stalled, at="2026-01-02T00:00:00Z", generation=3)
    assert kstatus(found) == health
    assert kstatus(reversed(found)) == health  # the order of conditions decides nothing
    assert {c.type: c.observed_generation for c in found if c.type in ("Reconciling", "Stalled")} == {"Reconciling": 3, "Stalled": 3}
    assert with_health(found, stalled, at="2026-01-03T00:00:00Z", generation=3) == found


def test_a_failed_job_is_stalled_with_its_failure():
    failed = observed(ConditionType.FAILED, "True", Reason.TOO_MANY_FAILURES, "4 failures", at="2026-01-01T00:00:00Z", generation=1)
    stalled = find(with_health([failed], None, at="2026-01-01T00:00:00Z", generation=1), ConditionType.STALLED)
    assert (stalled.status, stalled.reason, stalled.message) == ("True", "TooManyFailures", "4 failures")


def test_a_job_that_nobody_has_seen_is_in_progress():
    assert kstatus((), generation=1, observed=parse_status(None).observed_generation) == "InProgress"


def test_a_message_is_cut_to_fit():
    found = observed(ConditionType.PLANNED, "False", Reason.INVALID_SPEC, "x" * 10**5, at="2026-01-01T00:00:00Z", generation=1)
    assert len(found.message) == LONGEST_CONDITION_MESSAGE


def test_every_error_of_a_pod_is_a_reason():
    raised = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FineTuneError)}
    of_clients = {errors.InvalidCluster, errors.JobFailed, errors.WaitedTooLong, errors.ClusterFailed}
    leaves = {kind.__name__ for kind in raised - of_clients if not kind.__subclasses__()} - {"Interrupted"}
    assert leaves <= set(Reason)


def test_a_status_that_cannot_be_read_is_not_taken_for_an_empty_one():
    with pytest.raises(UnreadableStatus, match=r"status.attempt: "):
        parse_status({"attempt": "two"})


def test_lists_keep_the_newest():
    assert newest(range(LONGEST_LIST + 5)) == list(range(5, LONGEST_LIST + 5))
    assert newest([1]) == [1]
