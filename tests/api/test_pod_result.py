import json

import pytest
from tests.api.jobs import STARCODERBASE, data_shape

from finetune_api.errors import InvalidData, StorageFailed
from finetune_api.pod_result import LARGEST_MESSAGE, PodResult, PreparationResult, PublicationResult, parse_pod_result
from finetune_api.training_run import Vocabulary

PREPARED = PreparationResult(
    model_revision="a" * 40, model_shape=STARCODERBASE, vocabulary=Vocabulary(size=49156, new_token_ids=(1, 2, 3, 4)), data=data_shape()
)
PUBLISHED = PublicationResult(repository="org/model", revision="b" * 40, step=12, evaluation_loss=1.25)


@pytest.mark.parametrize(
    "result",
    [
        PodResult(outcome="Done", preparation=PREPARED),
        PodResult(outcome="Done", publication=PUBLISHED),
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
