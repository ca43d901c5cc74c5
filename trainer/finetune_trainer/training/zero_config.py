"""DeepSpeed's configuration as a pure function of the job's training settings. This room imports nothing of DeepSpeed.

There is no `scheduler` and no `optimizer` block on purpose: DeepSpeed's scheduler silently wins over anyone else's, and
the optimizer is given as an object. Gradient accumulation is the engine's: it marks the boundary itself, so the value here is 1.
"""

from typing import Any

from finetune_api.finetunejob import Offload, Training, ZeroOptimization
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.engine import FIRST_SCALE_POWER


def deepspeed_config(training: Training, *, hidden_size: int, world_size: int, precision: Precision) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize` and `deepspeed.zero.Init`. `hidden_size` fills in what is absent (see ZeroOptimization)."""
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "train_batch_size": training.micro_batch_size * world_size,
        "gradient_clipping": training.optimizer.gradient_clipping,
        "bf16": {"enabled": precision == "bf16"},
        # Half the scale after every overflow; the engine lets it grow.
        "fp16": {
            "enabled": precision == "fp16",
            "initial_scale_power": FIRST_SCALE_POWER,
            "hysteresis": 1,
            "loss_scale_window": 2**31,
        },
        # Micro-steps are added up in fp32: a sum of many in bf16 loses the small ones. 4 bytes of a partition instead of 2.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero_optimization(training.deepspeed, hidden_size, stage=int(training.sharding.removeprefix("zero"))),
        # torch's fused AdamW on the host, too: DeepSpeed's own would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def zero_optimization(settings: ZeroOptimization, hidden_size: int, *, stage: int) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization` with every absent size computed from the hidden size, as "auto" does in Transformers."""
    square = hidden_size * hidden_size
    either = {
        "stage": stage,
        "overlap_comm": settings.overlap_comm,
        "contiguous_gradients": settings.contiguous_gradients,
        "reduce_bucket_size": _given(settings.reduce_bucket_size, square),
        **_offload("offload_optimizer", settings.offload_optimizer),
    }
    if stage == 2:
        return either
    return either | {
        "sub_group_size": settings.sub_group_size,
        "stage3_prefetch_bucket_size": _given(settings.stage3_prefetch_bucket_size, square * 9 // 10),
        "stage3_param_persistence_threshold": _given(settings.stage3_param_persistence_threshold, 10 * hidden_size),
        "stage3_max_live_parameters": settings.stage3_max_live_parameters,
        "stage3_max_reuse_distance": settings.stage3_max_reuse_distance,
        **_offload("offload_param", settings.offload_param),
    }


def _offload(key: str, settings: Offload) -> dict[str, Any]:
    return {} if settings.device == "none" else {key: {"device": settings.device, "pin_memory": settings.pin_memory is not False}}


def _given(value: int | None, absent: int) -> int:
    return absent if value is None else value
