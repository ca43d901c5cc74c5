"""finetune_trainer/training/zero_config.py"""

import pytest

from finetune_api.finetunejob import Optimizer, Training, ZeroOptimization
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.zero_config import deepspeed_config


def config(training: Training | None = None, precision: Precision = "bf16") -> dict[str, object]:
    training = training or Training(micro_batch_size=4, global_batch_size=64)
    return deepspeed_config(training, hidden_size=100, world_size=8, precision=precision)


def test_absent_sizes_come_from_the_hidden_size() -> None:
    zero = config()["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero["stage"] == 3
    assert zero["reduce_bucket_size"] == 10_000
    assert zero["stage3_prefetch_bucket_size"] == 9_000
    assert zero["stage3_param_persistence_threshold"] == 1_000
    assert zero["sub_group_size"] == zero["stage3_max_live_parameters"] == zero["stage3_max_reuse_distance"] == 1_000_000_000


def test_stage_2_gets_its_own_keys_alone() -> None:
    zero = config(Training(sharding="zero2"))["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero == {"stage": 2, "overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": 10_000}


@pytest.mark.parametrize(("sharding", "keys"), [("zero3", {"offload_optimizer", "offload_param"}), ("zero2", {"offload_optimizer"})])
def test_what_is_offloaded_goes_to_the_host_and_is_updated_there_by_torch(sharding: str, keys: set[str]) -> None:
    given = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu", "pin_memory": False}}
    made = config(Training.model_validate({"sharding": sharding, "deepspeed": given}))
    zero = made["zero_optimization"]
    assert isinstance(zero, dict)
    assert {key for key in zero if key.startswith("offload")} == keys
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert zero.get("offload_param", {"device": "cpu", "pin_memory": False}) == {"device": "cpu", "pin_memory": False}
    assert made["zero_force_ds_cpu_optimizer"] is False


def test_given_keys_are_kept_zero_too() -> None:
    given = ZeroOptimization(stage3_prefetch_bucket_size=0, reduce_bucket_size=7, overlap_comm=False)
    zero = config(Training(deepspeed=given))["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero["stage3_prefetch_bucket_size"] == 0
    assert zero["reduce_bucket_size"] == 7
    assert zero["overlap_comm"] is False


def test_nothing_competes_with_our_schedule_and_optimizer() -> None:
    assert not {"scheduler", "optimizer"} & config().keys()


@pytest.mark.parametrize(("precision", "bf16", "fp16"), [("bf16", True, False), ("fp16", False, True), ("fp32", False, False)])
def test_precision_and_clipping(precision: Precision, bf16: bool, fp16: bool) -> None:
    made = config(Training(optimizer=Optimizer(gradient_clipping=0.5)), precision)
    assert made["bf16"] == {"enabled": bf16}
    assert isinstance(made["fp16"], dict)
    assert made["fp16"]["enabled"] == fp16
    assert made["gradient_clipping"] == 0.5
    assert made["train_batch_size"] == 8 * 4
