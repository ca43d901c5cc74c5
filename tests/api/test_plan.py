import contextlib
import math
import re

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job, lines

from finetune_api.calibration import Calibration
from finetune_api.errors import InvalidSpec
from finetune_api.load import adapter_parameters
from finetune_api.plan import Machine, assumed_data, plan
from finetune_api.status import PlanStatus, plan_status
from finetune_api.step_time import AT_BEST, RECIPE_SLOWDOWN

CPU = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}
TINY = STARCODERBASE.model_copy(
    update={"layers": 2, "hidden_size": 64, "intermediate_size": 256, "attention_heads": 4, "head_size": 16, "vocabulary_size": 512}
    | {"positions": 256, "parameters": 150_000}
)


def problems(*, shape=STARCODERBASE, data=None, machine=None, **spec):
    with pytest.raises(InvalidSpec) as caught:
        plan(job(**spec), shape, data, machine)
    return lines(caught.value)


def test_the_recipe():
    found = plan(job(), STARCODERBASE, data_shape())
    assert (found.world_size, found.micro_steps, found.tokens_per_step) == (8, 8, 262_144)
    assert (found.rows_per_epoch, found.steps_per_epoch, found.epochs, found.total_steps, found.warmup_steps) == (7266, 29, 3, 87, 3)
    assert (found.device, found.precision, found.accelerator) == ("gpu", "bf16", "nvidia-a100-80gb")
    assert (found.checkpoint_bytes, found.export_bytes) == (12 * STARCODERBASE.parameters, 2 * STARCODERBASE.parameters)
    assert found.unknown == ()


def test_the_recipes_time_is_that_of_the_published_run():
    """The blog's run took about 45 minutes; a tuned stack would reach 45 % of the peak."""
    found = plan(job(), STARCODERBASE, data_shape())
    assert found.timing is not None
    assert 43 < found.seconds / 60 < 47
    assert 0.30 < found.timing.mfu < 0.33
    assert 0.45 < found.timing.best_mfu < 0.48
    assert found.timing.best_seconds == pytest.approx(found.seconds / 1.47, rel=0.01)


def test_gpus_are_held_for_more_than_steps():
    """Workers start and fetch weights, and wait for the last checkpoint; for others they wait until these are copied."""
    found = plan(job(checkpoints={"every": {"steps": 10}}), STARCODERBASE, data_shape())
    timing = found.timing
    assert timing.checkpoints == 9  # 10, 20, ... 80 and 87
    copies = 8 * found.checkpoint_bytes / 8 / 10e9
    assert timing.held_seconds == pytest.approx(found.seconds + timing.start_seconds + timing.checkpoint_seconds + copies)
    assert found.gpu_hours == pytest.approx(timing.held_seconds * 8 / 3600)
    assert found.best_gpu_hours == pytest.approx(timing.best_held_seconds * 8 / 3600)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({}, 5),  # automatic: after five minutes, then about each ten, and at the end
        ({"checkpoints": {"every": {"seconds": 600}}}, 5),
        ({"checkpoints": {"every": {"steps": 500}}}, 1),
        ({"publish": {"checkpoint": "best"}, "dataset": {"evaluation": {"fraction": 0.1}}, "evaluation": {"everySteps": 10}}, 10),
    ],
)
def test_how_many_checkpoints_a_run_takes(spec, count):
    assert plan(job(**spec), STARCODERBASE, data_shape()).timing.checkpoints == count


def test_adapters_are_less_to_save_and_to_compute():
    full, lora = (plan(job(training={"method": method}), STARCODERBASE, data_shape()) for method in ("full", "lora"))
    assert lora.checkpoint_bytes == 12 * adapter_parameters(STARCODERBASE, 8) < full.checkpoint_bytes / 100
    assert lora.export_bytes == full.export_bytes  # merged
    alone = plan(job(training={"method": "lora"}, publish={"merge": False}), STARCODERBASE, data_shape())
    assert alone.export_bytes == 2 * adapter_parameters(STARCODERBASE, 8)
    assert 0.5 < lora.seconds / full.seconds < 0.8
    assert lora.memory.total_bytes < full.memory.total_bytes


def test_the_network_is_a_range_unless_it_is_given():
    """A100s are offered with 100 Gb/s a node and with 1,600."""
    spec = job(workers={"nodes": 4})
    unknown = plan(spec, STARCODERBASE, data_shape())
    slow, fast = (plan(spec, STARCODERBASE, data_shape(), Machine(network_bandwidth=gbits * 1e9 / 8)) for gbits in (100, 1600))
    assert (unknown.seconds, unknown.timing.best_seconds) == (slow.seconds, fast.timing.best_seconds)
    assert slow.seconds > 1.5 * fast.seconds
    assert any("offered with 100 to 1,600 Gb/s" in note for note in unknown.notes)
    assert not any("offered with" in note for note in slow.notes)


def test_what_is_offloaded_is_told_of_the_hosts():
    found = plan(job(training={"deepspeed": {"offload_optimizer": {"device": "cpu"}}}), STARCODERBASE, data_shape())
    assert any(note.startswith("What is offloaded takes 231.2 GiB of each node's memory") for note in found.notes)


def test_earlier_runs_leave_no_range():
    found = plan(
        job(), STARCODERBASE, data_shape(), None, Calibration(runs=2, step=1.2, beside_bytes=2**30, checkpoint_bytes_per_second=1e9)
    )
    plain = plan(job(), STARCODERBASE, data_shape())
    assert found.seconds == found.timing.best_seconds == pytest.approx(1.2 * plain.timing.best_seconds)
    assert found.timing.checkpoint_seconds == pytest.approx(12 * STARCODERBASE.parameters / 8e9)
    assert found.notes[0] == "Time and memory are calibrated by 2 earlier runs."
    states = [(term.name, term.bytes) for term in plain.memory.terms if term.phase == "always" and term.basis == "counted"]
    assert states == [(term.name, term.bytes) for term in found.memory.terms if term.phase == "always" and term.basis == "counted"]


def test_earlier_runs_tell_the_time_of_cpus():
    spec = {"workers": CPU, "training": {"maxSequenceLength": 256}}
    assert plan(job(**spec), TINY, data_shape()).seconds is None
    found = plan(job(**spec), TINY, data_shape(), None, Calibration(runs=1, step=3.0, footprint_bytes=2**29))
    assert found.seconds > 0
    assert found.timing.mfu is found.gpu_hours is None
    assert [term.bytes for term in found.memory.terms if term.name == "runtime"] == [2**29]


def test_operations_by_hand():
    found = plan(job(), STARCODERBASE, data_shape(tokens=1000, squared_lengths=200_000))
    assert found.flops_per_token == pytest.approx(8 * STARCODERBASE.parameters + 16 * 40 * 6144 * 200)
    without = plan(job(training={"activationCheckpointing": False}), STARCODERBASE, data_shape(tokens=1000, squared_lengths=200_000))
    assert without.flops_per_token == pytest.approx(found.flops_per_token * 3 / 4)


@pytest.mark.parametrize(
    ("training", "rows", "steps"),  # (per epoch, epochs, total, warm-up)
    [
        ({}, 256, (1, 3, 3, 1)),
        ({}, 257, (2, 3, 6, 1)),
        ({}, 1, (1, 3, 3, 1)),
        ({"epochs": 1}, 2560, (10, 1, 10, 1)),
        ({"maxSteps": 15}, 2560, (10, 2, 15, 1)),
        ({"maxSteps": 3}, 2560, (10, 1, 3, 1)),
        ({"optimizer": {"warmupSteps": 0}}, 2560, (10, 3, 30, 0)),
        ({"optimizer": {"warmupRatio": 0.5}}, 2560, (10, 3, 30, 15)),
        ({"optimizer": {"warmupRatio": 0}}, 2560, (10, 3, 30, 0)),
    ],
)
def test_steps(training, rows, steps):
    found = plan(job(training=training), STARCODERBASE, data_shape(rows=rows))
    assert (found.steps_per_epoch, found.epochs, found.total_steps, found.warmup_steps) == steps


def test_what_is_unknown_is_none_and_named():
    found = plan(job(workers={"accelerator": None}), None, None)
    assert found.memory is found.total_steps is found.seconds is found.gpu_hours is found.flops_per_token is None
    assert [unknown.name for unknown in found.unknown] == ["memory", "whether it fits", "steps and time", "precision"]


def test_without_data_steps_are_unknown_but_maxSteps_are_not():
    assert plan(job(), STARCODERBASE, None).total_steps is None
    found = plan(job(training={"maxSteps": 100}), STARCODERBASE, None)
    assert (found.total_steps, found.warmup_steps, found.steps_per_epoch) == (100, 3, None)
    assert found.seconds == pytest.approx(100 * found.seconds_per_step)


def test_an_unknown_gpu_is_named_with_the_nearest_known():
    found = plan(job(workers={"accelerator": "nvidia-a100-80g"}), STARCODERBASE, None)
    assert found.unknown[0].why == "nvidia-a100-80g is not a GPU model that we know; did you mean nvidia-a100-80gb?"
    assert found.memory.capacity_bytes is None


def test_the_spec_gives_the_shape_when_nothing_else_does():
    found = plan(job(model={"shape": STARCODERBASE.model_dump(by_alias=True)}), None, None)
    assert found.memory == plan(job(), STARCODERBASE, None).memory


def test_an_assumed_number_of_tokens_is_said_to_be_one():
    found = plan(job(), STARCODERBASE, assumed_data(7_440_000, 1024))
    assert found.total_steps == 3 * math.ceil(7_440_000 / 1024 / 256)
    assert any("7,440,000 tokens an epoch, which is an assumption" in note for note in found.notes)


@pytest.mark.parametrize(
    ("spec", "machine", "precision"),
    [
        ({}, None, "bf16"),
        ({"workers": {"accelerator": "nvidia-tesla-t4"}}, None, "fp32"),
        ({"workers": CPU}, None, "fp32"),
        ({"workers": CPU}, Machine(fast_bf16=True), "bf16"),
        ({"workers": CPU}, Machine(fast_bf16=False), "fp32"),
        ({"workers": CPU, "training": {"precision": "bf16"}}, Machine(fast_bf16=False), "bf16"),
    ],
)
def test_auto_precision(spec, machine, precision):
    spec = {**spec, "training": {**spec.get("training", {}), "maxSequenceLength": 256}}
    assert plan(job(**spec), TINY, None, machine).precision == precision


def test_cpu_workers_share_the_machine():
    spec = {"workers": CPU, "training": {"maxSequenceLength": 256, "microBatchSize": 1, "globalBatchSize": 2}}
    found = plan(job(**spec), TINY, None, Machine(memory_bytes=8 * 2**30))
    assert found.memory.capacity_bytes == 4 * 2**30
    assert found.world_size == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"training": {"globalBatchSize": 100}},
            "spec.training.globalBatchSize: 100 is not a multiple of microBatchSize*worldSize=32; use 96 or 128",
        ),
        (
            {"training": {"globalBatchSize": 8}},
            "spec.training.globalBatchSize: 8 is not a multiple of microBatchSize*worldSize=32; use 32, or microBatchSize 1",
        ),
        (
            {"training": {"globalBatchSize": 48}},
            "spec.training.globalBatchSize: 48 is not a multiple of microBatchSize*worldSize=32; use 32 or 64, or microBatchSize 3",
        ),
        (
            {"training": {"maxSequenceLength": 16384}},
            "spec.training.maxSequenceLength: 16384 is more than the 8192 positions of the model; use at most 8192",
        ),
        (
            {"training": {"optimizer": {"warmupSteps": 100}}},
            "spec.training.optimizer.warmupSteps: 100 is more than the run's 87 steps; use at most 87",
        ),
        (
            {"training": {"maxSteps": 10, "optimizer": {"warmupSteps": 11}}},
            "spec.training.optimizer.warmupSteps: 11 is more than the run's 10 steps; use at most 10",
        ),
        (
            {"model": {"shape": {**STARCODERBASE.model_dump(by_alias=True), "layers": 24}}},
            "spec.model.shape.layers: 24 is not what config.json says (40); use 40, or remove shape",
        ),
        (
            {"training": {"precision": "bf16"}, "workers": {"accelerator": "nvidia-tesla-v100", "nodes": 8}},
            "spec.training.precision: bf16 is not in nvidia-tesla-v100; use auto, fp32 or fp16",
        ),
    ],
)
def test_impossible_arithmetic(spec, message):
    assert problems(data=data_shape(), **spec) == [message]


def test_all_problems_at_once_in_the_order_of_the_spec():
    found = problems(
        data=data_shape(),
        publish={"checkpoint": "best"},
        workers={"workersPerNode": 2},
        training={"globalBatchSize": 100, "maxSequenceLength": 16384, "optimizer": {"warmupSteps": 999}},
    )
    assert [line.split(":")[0].rsplit(".", 1)[-1] for line in found] == [
        "maxSequenceLength",
        "globalBatchSize",
        "warmupSteps",
        "workersPerNode",
        "checkpoint",
    ]


def test_more_gpus_than_the_machine_has():
    assert problems(machine=Machine(gpus=0)) == [
        "spec.workers.gpusPerNode: 8 is more than the 0 GPUs of this machine; use device: cpu and workersPerNode: 2, or a machine with GPUs"
    ]
    assert problems(machine=Machine(gpus=4))[0].endswith("use 4")


def test_no_worker_at_all():
    (found,) = problems(workers={"gpusPerNode": 0})
    assert found.startswith(
        "spec.workers.workersPerNode: is missing, and gpusPerNode is 0, so that there is no worker; set it to the number of CPU"
    )


def network_note(method="full", sharding="zero3", **training):
    """What a plan on two nodes says of the network, with the numbers in it: GB a step, and Gb/s where a time is known."""
    machine = Machine(network_bandwidth=200e9 / 8)
    spec = job(training={"method": method, "sharding": sharding, "globalBatchSize": 256, **training}, workers={"nodes": 2})
    found = plan(spec, STARCODERBASE, data_shape(), machine)
    (note,) = (one for one in found.notes if "into each node" in one)
    sent, bound = (float(re.search(pattern, note)[1].replace(",", "")) for pattern in (r"sends (\S+) GB", r"below (\S+) Gb/s"))
    return note, sent * 1e9, bound * 1e9 / 8, found


def test_several_nodes_say_what_the_network_has_to_carry():
    """By hand: half of all weights is on the other node. ZeRO-2 and LoRA send what their step takes, not ZeRO-3's whole."""
    note, sent, bound, found = network_note()
    k, half = found.micro_steps, STARCODERBASE.parameters / 2
    assert k > 1
    assert f"its share of {k} x 2 bytes x (2 gatherings of" in note
    assert sent == pytest.approx(k * 3 * 2 * half, rel=0.01)
    assert network_note(sharding="zero2")[1] == pytest.approx((k + 1) * 2 * half, rel=0.01)
    adapters = adapter_parameters(STARCODERBASE, 8)
    assert network_note("lora")[1] == pytest.approx(k * 2 * (2 * half + adapters / 2), rel=0.01)
    assert network_note("lora", "zero2")[1] == pytest.approx((k + 1) * 2 * adapters / 2, rel=0.05)
    # At that bandwidth sending takes as long as computing does.
    hidden = sum(term.seconds for term in found.timing.terms[:5]) / RECIPE_SLOWDOWN
    assert sent / (bound * AT_BEST.network) == pytest.approx(hidden, rel=0.02)


def test_a_short_epoch_is_noted():
    found = plan(job(), STARCODERBASE, data_shape(rows=40))
    assert any("An epoch has 40 rows, fewer than globalBatchSize 256" in note for note in found.notes)


def held_out(tokens=744_000, **evaluation):
    """Notes on the evaluations of 87 steps in 3 epochs."""
    data = data_shape()
    data = data.model_copy(update={"evaluation": data.train.model_copy(update={"tokens": tokens})})
    publish = evaluation.pop("publish", {})
    found = plan(job(dataset={"evaluation": {"fraction": 0.1}}, evaluation=evaluation, publish=publish), STARCODERBASE, data)
    return [note for note in found.notes if "evaluat" in note]


def test_what_evaluations_cost_is_told():
    assert held_out() == [
        "Held-out data is evaluated 4 times, before the first step, every 29 steps and after the last: 3.2% of the computing."
    ]
    assert held_out(everySteps=1, publish={"checkpoint": "best"}) == [
        "Held-out data is evaluated 88 times, before the first step, every 1 step and after the last, each but the first with a checkpoint "
        "(publish.checkpoint: best): 42.3% of the computing."
    ]
    assert held_out(everySteps=500) == [
        "Held-out data is evaluated 2 times, before the first step and after the last: 1.6% of the computing."
    ]


def test_how_soon_early_stopping_may_end_the_run_is_told():
    stops = {"everySteps": 10, "earlyStopping": {"patience": 3}}
    _, soonest, last = held_out(**stops)
    assert soonest == "evaluation.earlyStopping ends it after step 30 at the soonest: steps and time are the most that it takes."
    assert last.startswith(
        "publish.checkpoint: last is the state that evaluation.earlyStopping ends with, 3 evaluations after the best one"
    )
    assert len(held_out(**stops, publish={"checkpoint": "best"})) == 2


def test_early_stopping_that_comes_too_late_is_told():
    _, late, _ = held_out(earlyStopping={"patience": 3})
    assert late == (
        "evaluation.earlyStopping can't end this run: evaluation 3 after the first one comes at step 87, and there are 87; lower patience, "
        "or evaluate more often (evaluation.everySteps)."
    )


def test_early_stopping_needs_held_out_data():
    with pytest.raises(InvalidSpec) as caught:
        job(evaluation={"earlyStopping": {"patience": 3}})
    assert lines(caught.value) == [
        "spec.evaluation.earlyStopping: acts on held-out data, and nothing is held out; set dataset.evaluation.fraction: 0.1, or remove it"
    ]


@pytest.mark.parametrize(
    ("rows", "training", "expected"),  # (rows a step, of a micro-step, micro-steps, steps)
    [
        (10_000, {}, (256, 4, 8, 120)),
        (7266, {}, (128, 4, 4, 171)),
        (700, {}, (16, 2, 1, 132)),
        (267, {}, (8, 1, 1, 102)),
        (19, {}, (8, 1, 1, 9)),
        (19, {"epochs": 100}, (16, 2, 1, 200)),
        (700, {"maxSteps": 30}, (16, 2, 1, 30)),
        (10_000, {"microBatchSize": 3}, (256, 2, 16, 120)),
    ],
)
def test_an_absent_batch_size_leaves_a_hundred_steps(rows, training, expected):
    """Of 8 workers; the micro-batch is cut to a worker's share."""
    found = plan(job(training={"globalBatchSize": None, **training}), STARCODERBASE, data_shape(rows=rows))
    assert (found.global_batch_size, found.micro_batch_size, found.micro_steps, found.total_steps) == expected
    assert found.notes[0].startswith(f"globalBatchSize is absent: {found.global_batch_size} rows a step, the ")


def test_an_absent_batch_size_is_the_same_whatever_the_workers():
    """Other workers go on with the same steps."""
    sizes = {
        plan(job(training={"globalBatchSize": None}, workers={"nodes": nodes}), STARCODERBASE, data_shape(rows=3000)).global_batch_size
        for nodes in (1, 2, 4)
    }
    assert sizes == {64}


def test_an_absent_batch_size_that_workers_cannot_share_is_told_to_be_set():
    (found,) = problems(training={"globalBatchSize": None}, workers={"nodes": 2}, data=data_shape(rows=19))
    assert found == (
        "spec.training.globalBatchSize: is absent, and the 8 that leave 100 steps are not a multiple of the 16 workers; "
        "set it to a multiple of microBatchSize*worldSize=64"
    )


def test_an_absent_batch_size_is_assumed_until_the_data_is_known():
    found = plan(job(training={"globalBatchSize": None}), STARCODERBASE, None)
    assert found.global_batch_size == 256
    assert [unknown.name for unknown in found.unknown] == ["steps and time", "batch"]


LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    "spec",
    [
        {"training": {"microBatchSize": LARGEST, "globalBatchSize": LARGEST}},
        {"training": {"microBatchSize": LARGEST, "globalBatchSize": LARGEST}, "workers": {"gpusPerNode": 1}},
        {"workers": {"nodes": LARGEST, "gpusPerNode": LARGEST}},
        {"training": {"epochs": LARGEST, "maxSequenceLength": LARGEST}, "workers": {"gpusPerNode": 1, "accelerator": "unheard-of"}},
        {"training": {"maxSteps": LARGEST}, "workers": {"nodes": 64}},
        {"training": {"recomputedLayers": "fewest"}, "workers": {"accelerator": "nvidia-h200"}},
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        None,
        STARCODERBASE.model_copy(update={"positions": LARGEST, "parameters": LARGEST, "hidden_size": LARGEST}),
        STARCODERBASE.model_copy(update={"layers": LARGEST}),
    ],
)
def test_the_largest_numbers_are_planned_or_refused(spec, shape):
    """Anyone may apply them: an operator that searches through 64 bits, or meets a number it can't write, is an operator lost."""
    found = None
    with contextlib.suppress(InvalidSpec):
        found = plan(job(**spec), shape, data_shape())
    if found is not None:
        told = plan_status(found, job(**spec).spec, shape, data_shape(), final=True)
        assert PlanStatus.model_validate(told.model_dump()) == told


@pytest.mark.parametrize(("card", "every"), [("nvidia-rtx-a6000", 1), ("nvidia-a100-80gb", 7), ("nvidia-h200", 0), (None, 1)])
def test_the_fewest_layers_recompute_with_which_it_fits(card, every):
    """A larger card leaves room for more activations; where nothing is known to compare with, all layers recompute."""
    found = plan(job(workers={"accelerator": card}, training={"recomputedLayers": "fewest"}), STARCODERBASE, data_shape())
    assert found.recompute_every == every
    if every == 7:
        assert 0.8 < found.memory.total_bytes / found.memory.capacity_bytes <= 0.9
        assert found.seconds_per_step < plan(job(), STARCODERBASE, data_shape()).seconds_per_step
