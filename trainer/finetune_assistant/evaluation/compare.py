"""Base against tuned: is the difference more than chance?

In: what each document contributed to a mean, for two models. Out: the difference with its standard error and a 95 % interval of the
paired bootstrap: the same documents were asked of both, so a document that is easy for both says nothing about the difference. Models are
unknown here.
"""

from collections.abc import Sequence

from finetune_assistant.evaluation.results import ByDocument, Difference, EvaluatedModel, Measurement

RESAMPLES = 10_000
_CHUNK_NUMBERS = 4_000_000  # drawn at a time: 32 MB


def differences(base: EvaluatedModel, tuned: EvaluatedModel, *, seed: int = 0) -> list[Difference]:
    """Each number that both models have and that is a mean over documents, in the order of `base`."""
    others = {(one.task, one.metric): one for one in tuned.results}
    pairs = [(one, others[one.task, one.metric]) for one in base.results if (one.task, one.metric) in others]
    found = [_difference(base.model, tuned.model, one, other, seed) for one, other in pairs if one.is_mean and other.is_mean]
    return [difference for difference in found if difference is not None]


def _difference(base: str, tuned: str, one: Measurement, other: Measurement, seed: int) -> Difference | None:
    values = paired(one.by_document, other.by_document)
    if len(values) < 2:
        return None
    low, high = interval(values, seed=seed)
    return Difference(
        base=base,
        tuned=tuned,
        task=one.task,
        metric=one.metric,
        difference=sum(values) / len(values),
        standard_error=_standard_error(values),
        low=low,
        high=high,
        documents=len(values),
        higher_is_better=one.higher_is_better,
    )


def paired(base: ByDocument, tuned: ByDocument) -> list[float]:
    """Tuned minus base, of the documents that both were asked.

    >>> paired({"a": 0.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0})
    [1.0, 0.0]
    """
    return [tuned[document] - value for document, value in base.items() if document in tuned]


def interval(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The middle 95 % of the means of `resamples` draws of as many values, with replacement. The same for the same seed.

    Which values a draw holds is a multinomial count of the distinct ones: of right and wrong answers there are three, -1, 0 and 1.

    >>> interval([1.0] * 8, seed=0)
    (1.0, 1.0)
    """
    import numpy

    distinct, counts = numpy.unique(numpy.asarray(values, dtype=numpy.float64), return_counts=True)
    generator = numpy.random.default_rng(seed)
    chunk = max(1, _CHUNK_NUMBERS // len(distinct))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    shares = counts / len(values)
    means = numpy.concatenate([generator.multinomial(len(values), shares, size=size) @ distinct / len(values) for size in sizes])
    low, high = numpy.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _standard_error(values: Sequence[float]) -> float:
    from statistics import stdev

    return float(stdev(values) / len(values) ** 0.5)
