"""DeepSpeed's configuration as a pure function of the job's training settings. This room imports nothing of DeepSpeed.

There is no `scheduler` and no `optimizer` block on purpose: DeepSpeed's scheduler silently wins over anyone else's, and
the optimizer is given as an object. Gradient accumulation is the engine's: it marks the boundary itself, so the value here is 1.
"""

from typing import Any

from finetune_api.finetunejob import Training, ZeroOptimization
from finetune_trainer.model.precision import Precision


def deepspeed_config(training: Training, *, hidden_size: int, world_size: int, precision: Precision) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize` and `deepspeed.zero.Init`. `hidden_size` fills in what is absent (see ZeroOptimization)."""
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "train_batch_size": training.micro_batch_size * world_size,
        "gradient_clipping": training.optimizer.gradient_clipping,
        "bf16": {"enabled": precision == "bf16"},
        # Micro-steps are added up in fp32: a sum of many in bf16 loses the small ones. 4 bytes of a partition instead of 2.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero_optimization(training.deepspeed, hidden_size),
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def zero_optimization(settings: ZeroOptimization, hidden_size: int) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization` with every absent size computed from the hidden size, as "auto" does in Transformers."""
    square = hidden_size * hidden_size
    return {
        "stage": 3,
        "overlap_comm": settings.overlap_comm,
        "contiguous_gradients": settings.contiguous_gradients,
        "sub_group_size": settings.sub_group_size,
        "reduce_bucket_size": _given(settings.reduce_bucket_size, square),
        "stage3_prefetch_bucket_size": _given(settings.stage3_prefetch_bucket_size, square * 9 // 10),
        "stage3_param_persistence_threshold": _given(settings.stage3_param_persistence_threshold, 10 * hidden_size),
        "stage3_max_live_parameters": settings.stage3_max_live_parameters,
        "stage3_max_reuse_distance": settings.stage3_max_reuse_distance,
    }


def _given(value: int | None, absent: int) -> int:
    return absent if value is None else value
