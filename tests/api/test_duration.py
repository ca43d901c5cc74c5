"""MFU, beside a published measurement and by hand; and the peak that it and the time are counted from."""

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job

from finetune_api.duration import evaluation_share, model_flops_utilisation, num_evaluations, run_steps
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


HELD_OUT = {"evaluation": {"fraction": 0.1}}


@pytest.mark.parametrize(
    ("evaluation", "count"),
    [
        ({}, 4),  # 3 epochs of 29 steps, and step 0
        ({"everyEpochs": 2}, 3),  # after epochs 2 and 3
        ({"everySteps": 20}, 6),  # 20, 40, 60, 80 and 87
        ({"everySteps": 29}, 4),
        ({"everySteps": 5000}, 2),  # the last step all the same
    ],
)
def test_how_often_held_out_data_is_evaluated(evaluation: dict[str, object], count: int) -> None:
    spec = job(dataset=HELD_OUT, evaluation=evaluation).spec
    steps = run_steps(spec, data_shape(), 256)
    assert (steps.steps_per_epoch, steps.total) == (29, 87)
    assert num_evaluations(spec, steps) == count


def test_without_held_out_data_nothing_is_evaluated_and_before_preparation_epochs_are_unknown() -> None:
    assert num_evaluations(job().spec, run_steps(job().spec, data_shape(), 256)) == 0
    unknown = job(dataset=HELD_OUT).spec
    assert num_evaluations(unknown, run_steps(unknown, None, 256)) is None
    in_steps = job(dataset=HELD_OUT, evaluation={"everySteps": 10}, training={"maxSteps": 100}).spec
    assert num_evaluations(in_steps, run_steps(in_steps, None, 256)) == 11


@pytest.mark.parametrize(("recomputed", "passes"), [(True, 4), (False, 3)])
def test_what_evaluations_cost_beside_training(recomputed: bool, passes: int) -> None:
    """Held out is a tenth of the data: 6 evaluations of it are 0.6 forward passes beside 3 epochs of several."""
    spec = job(dataset=HELD_OUT, evaluation={"everySteps": 20}, training={"activationCheckpointing": recomputed}).spec
    data = data_shape()
    data = data.model_copy(update={"evaluation": data.train.model_copy(update={"tokens": data.train.tokens // 10})})
    assert evaluation_share(spec, data, run_steps(spec, data, 256)) == pytest.approx(0.6 / (3 * passes + 0.6))
    assert evaluation_share(spec, None, run_steps(spec, None, 256)) is None
