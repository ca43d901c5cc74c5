"""A status that a newer operator wrote, before it was rolled back: read as far as it is known, and written again as it is."""

from typing import Any

import pytest

from finetune_api.conditions import ConditionType, condition, find, with_condition
from finetune_api.report import ReportOutcome, parse_report
from finetune_api.status import AttemptOutcome, FineTuneJobStatus, UnreadableStatus, parse_status

AT = "2026-11-23T10:00:00Z"
NEWER: dict[str, Any] = {
    "conditions": [
        {"type": "Trained", "status": "False", "reason": "Training", "lastTransitionTime": AT},
        {"type": "Audited", "status": "True", "reason": "Audited", "lastTransitionTime": AT, "by": "somebody"},
    ],
    "attempt": 2,
    "attempts": [
        {"number": 1, "outcome": "Migrated", "node": {"zone": "a"}, "rayJob": {"name": "a-1", "uid": "u", "shard": 3}},
        {"number": 2, "pods": [{"name": "a", "rack": "r1"}]},
    ],
    "plan": {"worldSize": 8, "device": "tpu", "precision": "fp8"},
}


def test_words_and_keys_of_a_newer_operator_are_kept() -> None:
    status = parse_status(NEWER)
    written = status.to_json()
    for name, value in NEWER["plan"].items():
        assert written["plan"][name] == value
    for kept, given in zip(written["attempts"], NEWER["attempts"], strict=True):
        assert kept | given == kept
    assert written["conditions"][1] == {**NEWER["conditions"][1], "observedGeneration": 0, "message": ""}
    assert parse_status(written) == status


def test_a_word_of_a_newer_operator_is_none_of_ours() -> None:
    status = parse_status(NEWER)
    assert status.attempts[0].outcome is not None
    assert status.attempts[0].outcome not in list(AttemptOutcome)
    assert parse_status({"attempts": [{"number": 1, "outcome": "Failed"}]}).attempts[0].outcome is AttemptOutcome.FAILED


def test_conditions_of_a_newer_operator_stay_when_one_of_ours_is_set() -> None:
    new = condition(ConditionType.PLANNED, "True", "Planned", at=AT, generation=1)
    found = with_condition(parse_status(NEWER).conditions, new)
    assert [str(c.type) for c in found] == ["Planned", "Trained", "Audited"]
    assert find(found, ConditionType.TRAINED) is not None


@pytest.mark.parametrize(
    "wrong", [{"attempts": [{"number": 0}]}, {"attempts": [{"number": 1, "outcome": 7}]}, {"usage": {"gpuHours": "a"}}]
)
def test_what_is_no_status_is_still_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnreadableStatus):
        parse_status(wrong)


def test_an_outcome_of_a_newer_image_says_nothing_and_the_rest_of_its_report_does() -> None:
    report = parse_report({"status": {"outcome": "Migrating", "step": 7}})
    assert report is not None
    assert (report.status.outcome, report.status.step) == (None, 7)
    known = parse_report({"status": {"outcome": "Failed"}})
    assert known is not None
    assert known.status.outcome is ReportOutcome.FAILED


def test_the_schema_knows_our_words_alone() -> None:
    assert "Finished" in str(FineTuneJobStatus.model_json_schema())
