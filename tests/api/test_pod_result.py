import json

import pytest
from tests.api.jobs import STARCODERBASE, data_shape

from finetune_api.errors import InvalidData, StorageFailed
from finetune_api.pod_result import LARGEST_MESSAGE, EvaluationResult, PodResult, PreparationResult, PublicationResult, parse_pod_result
from finetune_api.status import EvaluatedTask, JudgedStatus
from finetune_api.training_run import Vocabulary

PREPARED = PreparationResult(
    model_revision="a" * 40, model_shape=STARCODERBASE, vocabulary=Vocabulary(size=49156, new_token_ids=(1, 2, 3, 4)), data=data_shape()
)
TASK = EvaluatedTask(
    task="arc_challenge", metric="acc_norm", value=0.41, standard_error=0.02, base=0.38, shots=25, limit=100, documents=100
)
JUDGED = JudgedStatus(model="judge", win_rate=0.6, low=0.5, high=0.7, prompts=40)
EVALUATED = EvaluationResult(step=12, loss=1.25, digest="d" * 64, tasks=(TASK,), judge=JUDGED, results="s3://bucket/x/evaluation/d")
PUBLISHED = PublicationResult(repository="org/model", revision="b" * 40, step=12, evaluation_loss=1.25)


@pytest.mark.parametrize(
    "result",
    [
        PodResult(outcome="Done", preparation=PREPARED),
        PodResult(outcome="Done", publication=PUBLISHED),
        PodResult(outcome="Done", evaluation=EVALUATED),
        PodResult(outcome="Done", evaluation=EvaluationResult(step=12, digest="d" * 64)),
        PodResult(outcome="Stopped"),
        PodResult(outcome="Failed", reason="InvalidData", message='row 3: "é" \n', permanent=True),
    ],
)
def test_a_result_is_read_as_it_was_written(result):
    assert parse_pod_result(result.to_termination_message()) == result


@pytest.mark.parametrize("message", ["x" * 1024, "\U0001f600" * 1024, "\0" * 1024, '"\\' * 512])
def test_a_message_never_has_more_than_the_kubelet_keeps(message):
    text = PodResult(outcome="Done", message=message, preparation=PREPARED).to_termination_message()
    assert len(text.encode()) <= LARGEST_MESSAGE
    read = parse_pod_result(text)
    assert read is not None
    assert read.preparation == PREPARED
    assert read.message.removesuffix("...")
    assert message.startswith(read.message.removesuffix("..."))


def test_a_result_that_cannot_fit_is_a_failure():
    large = PREPARED.model_copy(update={"vocabulary": Vocabulary(size=10**6, new_token_ids=tuple(range(10**5, 10**5 + 2000)))})
    read = parse_pod_result(PodResult(outcome="Done", preparation=large).to_termination_message())
    assert (read.outcome, read.reason, read.permanent, read.preparation) == ("Failed", "ResultTooLarge", True, None)


LONG = "\U0001f600"  # four bytes a character


@pytest.mark.parametrize(
    ("tasks", "places", "kept"),
    [
        ([TASK] * 16, "s3://bucket/x", 16),
        ([TASK.model_copy(update={"task": LONG * 128, "metric": LONG * 64})] * 16, "s3://bucket/x", 3),
        ([TASK.model_copy(update={"task": LONG * 128, "metric": LONG * 64})] * 16, LONG * 1024, 0),
    ],
    ids=["as many as there may be", "long names", "a long place"],
)
def test_an_evaluation_always_fits(tasks, places, kept):
    """The last tasks are left out first; the judge's verdict, which a gate reads, never is."""
    judge = JUDGED.model_copy(update={"model": LONG * 256})
    whole = EVALUATED.model_copy(update={"tasks": tuple(tasks), "judge": judge, "results": places})
    text = PodResult(outcome="Done", message=LONG * 1024, evaluation=whole).to_termination_message()
    assert len(text.encode()) <= LARGEST_MESSAGE
    read = parse_pod_result(text)
    assert read is not None
    assert (read.outcome, read.evaluation.judge, read.evaluation.digest) == ("Done", judge, "d" * 64)
    assert read.evaluation.tasks == tuple(tasks[:kept])


@pytest.mark.parametrize(
    "change",
    [
        {"judge": {"winRate": 1.5}},
        {"judge": {"low": 0.65}},
        {"judge": {"prompts": -1}},
        {"tasks": [TASK.model_dump(by_alias=True)] * 17},
        {"tasks": [{"task": "x" * 129}]},
        {"digest": ""},
        {"digest": "d" * 129},
        {"step": -1},
        {"loss": "low"},
    ],
    ids=str,
)
def test_an_evaluation_that_can_not_be_is_no_result(change):
    value = json.loads(PodResult(outcome="Done", evaluation=EVALUATED).to_termination_message())
    assert parse_pod_result(json.dumps(value)) is not None
    judge = value["evaluation"]["judge"] | change.pop("judge", {})
    value["evaluation"] |= {"judge": judge, **change}
    assert parse_pod_result(json.dumps(value)) is None


@pytest.mark.parametrize(
    ("error", "reason", "permanent", "exit_code"),
    [
        (InvalidData("row 3"), "InvalidData", True, 2),
        (StorageFailed("full"), "StorageFailed", False, 1),
        (KeyError("x"), "Unexpected", False, 1),
    ],
)
def test_an_error_becomes_a_result(error, reason, permanent, exit_code):
    result = PodResult.failed(error)
    assert (result.outcome, result.reason, result.permanent, result.exit_code) == ("Failed", reason, permanent, exit_code)
    assert PodResult.failed(InvalidData("x" * 5000 + "\ud800")).to_termination_message()


def test_exit_codes_of_what_did_not_fail():
    assert [PodResult(outcome=outcome).exit_code for outcome in ("Done", "Stopped")] == [0, 3]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Traceback (most recent call last): ...",
        "[]",
        '{"outcome":"Done"',
        '{"outcome":"Won"}',
        '{"contractVersion":2,"outcome":"Done"}',
        '{"outcome":"Done","reason":"no word"}',
        '{"outcome":"Failed","message":"' + "x" * 1025 + '"}',
        '{"outcome":"Done","message":"' + "x" * 5000 + '"}',
        '{"outcome":"Done","publication":{"repository":"a","revision":"b","step":-1}}',
        '{"outcome":"Done","publication":{"repository":"a","revision":"b","step":' + "9" * 400 + "}}",
        "[" * 4000,
    ],
)
def test_what_is_no_result(text):
    assert parse_pod_result(text) is None


def test_a_newer_writer_may_say_more():
    assert parse_pod_result(json.dumps({"contractVersion": 1, "outcome": "Done", "somethingNew": 1})) == PodResult(outcome="Done")
