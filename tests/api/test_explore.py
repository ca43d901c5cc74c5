"""Layouts: each is a job that fits, keeps its rows a step, and is what it says."""

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job, mapping

from finetune_api.explore import explore
from finetune_api.jobfile import parse_job
from finetune_api.plan import Machine, plan
from finetune_api.training_run import run_identity

CPU = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}
FOUND = explore(job(), STARCODERBASE, data_shape())


def test_every_layout_pasted_into_the_job_gives_its_plan():
    for layout in FOUND.fitting:
        pasted = layout.as_spec(FOUND.rows)
        again = plan(parse_job(mapping(**pasted)), STARCODERBASE, data_shape())
        assert (again.memory, again.timing, again.total_steps) == (layout.plan.memory, layout.plan.timing, 87)


def test_the_fastest_comes_first_and_each_kind_once():
    times = [layout.seconds for layout in FOUND.fitting]
    assert times == sorted(times)
    kinds = {(layout.settings.nodes, layout.settings.method) for layout in FOUND.fitting}
    assert kinds == {(nodes, method) for nodes in (1, 2, 4, 8) for method in ("full", "lora", "qlora")}
    assert len(FOUND.fitting) == 12
    assert {one.settings.sharding for one in FOUND.fitting if one.settings.method == "qlora"} == {"zero2"}


def test_none_is_tight_where_others_leave_room():
    assert all(layout.plan.memory.total_bytes <= 0.9 * layout.plan.memory.capacity_bytes for layout in FOUND.fitting)


def test_a_full_layout_learns_the_same():
    same = {run_identity(parse_job(mapping(**one.as_spec(FOUND.rows)))) for one in FOUND.fitting if one.settings.method == "full"}
    assert len(same) == len({one.settings.sharding for one in FOUND.fitting if one.settings.method == "full"}) or same == {
        run_identity(job())
    }


def test_smaller_cards_offload_or_are_refused():
    small = explore(job(workers={"accelerator": "nvidia-l4"}), STARCODERBASE, data_shape())
    assert {one.settings.offload for one in small.fitting} > {"nothing"}
    huge = STARCODERBASE.model_copy(update={"parameters": 10**13, "hidden_size": 2**17})
    alone = explore(job(workers={"accelerator": "nvidia-t4", "gpusPerNode": 1}), huge, data_shape())
    assert not alone.fitting
    assert len(alone.refused) == 12
    assert all("a worker needs" in one.why for one in alone.refused)


def test_without_a_peak_layouts_are_still_told_apart_by_memory():
    """CPU workers: nothing to offload to, and no time."""
    shape = STARCODERBASE.model_copy(update={"parameters": 150_000, "layers": 2, "hidden_size": 64, "intermediate_size": 64})
    found = explore(job(workers=CPU), shape, None, Machine(memory_bytes=2**33))
    assert found.fitting
    assert {one.settings.nodes for one in found.fitting} == {1}
    assert {one.settings.offload for one in found.fitting} == {"nothing"}


@pytest.mark.parametrize(("rows", "expected"), [(256, 256), (None, 128)])
def test_rows_of_a_step_are_the_jobs(rows, expected):
    assert explore(job(training={"globalBatchSize": rows}), STARCODERBASE, data_shape()).rows == expected
