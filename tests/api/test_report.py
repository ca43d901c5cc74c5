import pytest

from finetune_api.report import FineTuneReportSpec, FineTuneReportStatus, ReportedCheckpoint, StopRequest, parse_report


def test_a_report_is_read_as_it_was_written():
    status = FineTuneReportStatus(
        cluster="job-1-abc", outcome="Running", step=3, loss=1.5, checkpoint=ReportedCheckpoint(step=2, attempt=1)
    )
    read = parse_report(
        {"metadata": {"name": "job"}, "spec": {"stop": {"cluster": "job-1-abc", "reason": "Suspended"}}, **status.to_patch()}
    )
    assert read.status == status
    assert read.spec.stop == StopRequest(cluster="job-1-abc", reason="Suspended")


def test_a_patch_leaves_nothing_of_a_former_attempt():
    patch = FineTuneReportStatus(cluster="job-2-def").to_patch()["status"]
    assert patch["loss"] is None
    assert patch["checkpoint"] is None
    assert patch.keys() >= {"step", "outcome", "message", "evaluation", "reportedAt"}


@pytest.mark.parametrize(
    ("stop", "asked"),
    [(None, False), ({"reason": "r"}, True), ({"cluster": "a", "reason": "r"}, True), ({"cluster": "b", "reason": "r"}, False)],
)
def test_who_is_asked_to_stop(stop, asked):
    assert FineTuneReportSpec.model_validate({"stop": stop}).asks_to_stop("a") is asked


def test_an_empty_report_and_one_of_a_newer_version():
    assert parse_report({}).status == FineTuneReportStatus()
    assert parse_report({"status": {"step": 1, "somethingNew": 2}}).status.step == 1


@pytest.mark.parametrize("status", [{"step": -1}, {"step": "1"}, {"outcome": 1}, {"message": "x" * 1025}, {"reason": "two words"}, [], "x"])
def test_what_is_no_report(status):
    assert parse_report({"status": status}) is None
