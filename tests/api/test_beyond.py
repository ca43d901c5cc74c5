import pytest
from tests.api.jobs import lines, mapping

from finetune_api.errors import InvalidSpec
from finetune_api.jobfile import parse_job

DOES_NOT_DIVIDE = "spec.training.globalBatchSize: 100 is not a multiple of microBatchSize*worldSize=32; use 96 or 128"


def problems(**spec):
    with pytest.raises(InvalidSpec) as caught:
        parse_job(mapping(**spec))
    return lines(caught.value)


@pytest.mark.parametrize(
    "malformed",
    [
        {"training": {"globalBatchSize": 100, "epoch": 1}},
        {"training": {"globalBatchSize": 100, "seed": "x"}},
        {"training": {"globalBatchSize": 100}, "generation": {"topP": 7.0}},
        {"training": {"globalBatchSize": 100}, "workers": {"image": 5}},
        {"training": {"globalBatchSize": 100}, "publish": {"hub": {"repository": "a/b"}, "directory": {"path": "x"}}},
    ],
)
def test_arithmetic_is_checked_beside_what_is_malformed(malformed):
    found = problems(**malformed)
    assert len(found) == 2
    assert found[1] == DOES_NOT_DIVIDE


@pytest.mark.parametrize(
    "malformed",
    [
        {"training": {"globalBatchSize": 100, "microBatchSzie": 1}},
        {"training": {"globalBatchSize": 100, "microBatchSize": "1"}},
        {"training": {"globalBatchSize": 100}, "workers": {"node": 25}},
        {"training": {"globalBatchSize": 100}, "workers": {"gpusPerNode": "25"}},
        {"training": {"globalBatchSize": 100}, "model": {"name": ""}},
        {"training": {"globalBatchSize": 100}, "dataset": {"sources": [{}]}},
        {"trainning": {"globalBatchSize": 100}, "workers": {"nodes": 3}},
    ],
)
def test_what_the_correction_may_change_is_not_guessed(malformed):
    assert len(problems(**malformed)) == 1


def test_what_is_not_available_is_told_too():
    assert "not available in this version" in problems(training={"epoch": 1, "sharding": "zero1"})[0]
