"""MFU, beside a published measurement and by hand; and the peak that it and the time are counted from."""

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job

from finetune_api.duration import model_flops_utilisation
from finetune_api.finetunejob import ModelShape
from finetune_api.plan import plan
from finetune_api.training_run import DataShape, TrainingRun, Vocabulary, run_identity

CPU = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}


def run_of(shape: ModelShape, data: DataShape, **spec: object) -> TrainingRun:
    found = job(**spec)
    return TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="a" * 40,
        model_shape=shape,
        vocabulary=Vocabulary(size=shape.vocabulary_size),
        data=data,
        plan=plan(found, shape, data),
    )


def test_mfu_of_a_published_run() -> None:
    """MPT-13B on 8 x A100-80GB with rows of 2,048 tokens: 2,262 tokens a second and GPU are told as 59.6 % (MosaicML, 2023)."""
    shape = STARCODERBASE.model_copy(
        update={"hidden_size": 5120, "attention_heads": 40, "head_size": 128, "layers": 40, "intermediate_size": 20480}
        | {"vocabulary_size": 50368, "positions": 2048, "parameters": 12_850_000_000}
    )
    rows = data_shape(tokens=2_048_000, squared_lengths=2_048_000 * 2048)
    run = run_of(shape, rows, training={"maxSequenceLength": 2048, "microBatchSize": 1})
    assert model_flops_utilisation(run, 8 * 2262) == pytest.approx(0.596, abs=0.002)


def test_recomputation_is_no_use_of_the_model() -> None:
    data = data_shape(tokens=1000, squared_lengths=200_000)
    found = [
        model_flops_utilisation(run_of(STARCODERBASE, data, training={"activationCheckpointing": again}), 10_000) for again in (True, False)
    ]
    by_hand = 10_000 * (6 * STARCODERBASE.parameters + 12 * 40 * 6144 * 200) / (8 * 312e12)
    assert found == [pytest.approx(by_hand)] * 2


@pytest.mark.parametrize(
    ("workers", "peak"),
    [
        ({}, 8 * 312e12),
        ({"peakTeraflops": 156}, 8 * 156e12),  # half of a card's slices
        ({"accelerator": "something-new", "peakTeraflops": 2000}, 8 * 2000e12),
        ({"accelerator": "something-new"}, None),
        ({"accelerator": "nvidia-tesla-t4", "nodes": 8}, None),  # fp32 there: its bf16 peak would be another arithmetic's
        (CPU, None),
        (CPU | {"peakTeraflops": 1.5}, 2 * 1.5e12),
    ],
)
def test_which_peak_counts(workers: dict[str, object], peak: float | None) -> None:
    shape = STARCODERBASE.model_copy(update={"parameters": 150_000, "layers": 2, "hidden_size": 64, "head_size": 16, "attention_heads": 4})
    data = data_shape(tokens=1000, squared_lengths=200_000)
    run = run_of(shape, data, workers=workers)
    found = model_flops_utilisation(run, 1e6)
    each = 6 * 150_000 + 12 * 2 * 64 * 200
    assert found == (None if peak is None else pytest.approx(1e6 * each / peak))
    assert (run.plan.seconds is None) == (peak is None)
    assert (run.plan.gpu_hours is None) == (peak is None or run.plan.device == "cpu")
    assert ("seconds" in [unknown.name for unknown in run.plan.unknown]) == (peak is None)
