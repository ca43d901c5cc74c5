"""What runs say of a machine: factors that give back what was seen."""

from dataclasses import replace

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job

from finetune_api.calibration import Calibration, Seen, calibration
from finetune_api.memory import sizes
from finetune_api.plan import plan, replanned
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity

CPU = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}
SMALL = STARCODERBASE.model_copy(update={"layers": 2, "parameters": 10**9})


def run_of(shape=STARCODERBASE, **spec):
    found, data = job(**spec), data_shape()
    return TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="a" * 40,
        model_shape=shape,
        vocabulary=Vocabulary(size=shape.vocabulary_size),
        data=data,
        plan=plan(found, shape, data),
    )


def seen(run, *, times=1.3, beside=2**30, footprint=None):
    """As if a step had taken so many times what is planned at best, and so much more memory."""
    planned = replanned(run)
    explained = sum(sizes(term for term in planned.memory.terms if term.basis != "assumed"))
    return Seen(
        plan=planned,
        step_seconds=times * planned.timing.best_seconds_per_step,
        memory_bytes=(footprint or 0) + explained + beside,
        footprint_bytes=footprint,
        checkpoint_bytes_per_second=5e8,
    )


def test_a_run_is_planned_as_it_was_seen():
    run = run_of()
    one = seen(run)
    found = calibration([one])
    assert (found.step, found.beside_bytes) == (pytest.approx(1.3), 2**30)
    again = plan(run.job, run.model_shape, run.data, None, found)
    assert again.seconds_per_step == pytest.approx(one.step_seconds)
    assert sum(sizes(term for term in again.memory.terms if term.basis != "assumed")) == one.memory_bytes


def test_the_median_counts():
    run = run_of()
    found = calibration([seen(run, times=times) for times in (1.0, 1.2, 9.0)])
    assert (found.runs, found.step) == (3, pytest.approx(1.2))


def test_the_process_of_a_cpu_worker_is_no_model():
    """Without its footprint, how much is the model isn't known."""
    run = run_of(SMALL, workers=CPU)
    found = calibration([seen(run, footprint=2**29)])
    assert (found.beside_bytes, found.footprint_bytes) == (2**30, 2**29)
    assert calibration([seen(run)]).beside_bytes is None


def test_memory_that_is_less_than_planned_is_planned_all_the_same():
    assert calibration([seen(run_of(), beside=-(2**30))]).beside_bytes == 0


def test_a_run_that_ran_is_never_refused():
    """Even where its plan says today that it doesn't fit."""
    run = run_of()
    assert replanned(replace_accelerator(run, "nvidia-l4")).timing is not None


def replace_accelerator(run, name):
    return run.model_copy(update={"plan": run.plan.model_copy(update={"accelerator": name})})


def test_what_was_not_measured_is_left_out():
    one = replace(seen(run_of()), step_seconds=None, memory_bytes=None, checkpoint_bytes_per_second=None)
    assert calibration([one]) == Calibration(runs=1)
    assert calibration([]) is None
