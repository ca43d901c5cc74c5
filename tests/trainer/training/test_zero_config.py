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


def test_given_keys_are_kept_zero_too() -> None:
    given = ZeroOptimization(stage3_prefetch_bucket_size=0, reduce_bucket_size=7, overlap_comm=False)
    zero = config(Training(deepspeed=given))["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero["stage3_prefetch_bucket_size"] == 0
    assert zero["reduce_bucket_size"] == 7
    assert zero["overlap_comm"] is False


def test_nothing_competes_with_our_schedule_and_optimizer() -> None:
    assert not {"scheduler", "optimizer"} & config().keys()


@pytest.mark.parametrize(("precision", "enabled"), [("bf16", True), ("fp32", False)])
def test_precision_and_clipping(precision: Precision, enabled: bool) -> None:
    made = config(Training(optimizer=Optimizer(gradient_clipping=0.5)), precision)
    assert made["bf16"] == {"enabled": enabled}
    assert made["gradient_clipping"] == 0.5
    assert made["train_batch_size"] == 8 * 4
