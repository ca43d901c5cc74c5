"""Paired differences and their intervals, against arithmetic and against SciPy's own bootstrap."""

import random
from collections.abc import Mapping

import numpy
import pytest

from finetune_assistant.evaluation.compare import differences, interval
from finetune_assistant.evaluation.results import EvaluatedModel, Measurement


def _model(name: str, values: Mapping[str, float], *, value: float | None = None) -> EvaluatedModel:
    mean = sum(values.values()) / len(values) if value is None else value
    one = Measurement(
        task="arc",
        metric="acc",
        value=mean,
        standard_error=None,
        shots=0,
        limit=None,
        documents=len(values),
        documents_there=len(values),
        chat_template=False,
        by_document=values,
    )
    return EvaluatedModel(model=name, digest=None, revision=None, dtype="float32", device="cpu", window=8, seconds=0.0, results=[one])


def _answers(share: float, seed: int, number: int = 300) -> dict[str, float]:
    draw = random.Random(seed)
    return {str(index): float(draw.random() < share) for index in range(number)}


def test_a_large_difference_is_shown_and_a_small_one_is_not() -> None:
    base = _model("base", _answers(0.3, 1))
    better, like = _model("better", _answers(0.6, 2)), _model("like", _answers(0.31, 3))
    (shown,), (not_shown,) = differences(base, better), differences(base, like)
    assert (shown.verdict, differences(better, base)[0].verdict, not_shown.verdict) == ("better", "worse", "no difference shown")
    assert shown.low < shown.difference < shown.high
    assert shown.documents == 300


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    values = [each - other for each, other in zip(_answers(0.5, 4).values(), _answers(0.4, 5).values(), strict=True)]
    theirs = bootstrap((values,), numpy.mean, method="percentile", rng=numpy.random.default_rng(0)).confidence_interval
    assert interval(values, seed=0) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    smooth = [value + index / 1000 for index, value in enumerate(values)]  # no two alike
    theirs = bootstrap((smooth,), numpy.mean, method="percentile", rng=numpy.random.default_rng(0)).confidence_interval
    assert interval(smooth, seed=0) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, -1.0, 0.5] * 9
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)


def test_pairing_tells_more_than_two_means_do() -> None:
    """Where both models find the same questions hard, the interval of the difference is narrower than that of independent samples."""
    base = _answers(0.5, 6)
    tuned = {key: 1.0 if index % 20 == 0 else value for index, (key, value) in enumerate(base.items())}
    paired = differences(_model("base", base), _model("tuned", tuned))[0]
    shuffled = dict(zip(base, random.Random(0).sample(list(tuned.values()), len(tuned)), strict=True))
    apart = differences(_model("base", base), _model("tuned", shuffled))[0]
    assert paired.difference == pytest.approx(apart.difference)
    assert paired.standard_error < apart.standard_error / 2
    assert (paired.verdict, apart.verdict) == ("better", "no difference shown")


def test_what_is_no_mean_over_documents_is_not_paired() -> None:
    answers = _answers(0.5, 7)
    assert differences(_model("base", answers, value=0.9), _model("tuned", answers)) == []
