"""AdamW whose moments are in 8 bits, by bitsandbytes: a code for each element, and for each 256 of them a scale in fp32.

In: fp32 masters of one device. Out: an optimizer as torch's own, and its moments as tensors, kind by kind: codes and scales, so that a run
goes on bit-identically from what was saved. Moments of tensors with fewer than 4,096 elements are in fp32. For the plain engine alone:
others cut tensors anywhere, and a code is of no use without its block's scale.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from finetune_api.finetunejob import Optimizer
    from finetune_trainer.training.engine import Kind


def eight_bit_adamw(groups: Sequence[dict[str, Any]], settings: "Optimizer") -> torch.optim.Optimizer:
    """bitsandbytes' AdamW over groups of parameters, its moments made, as zeros."""
    from bitsandbytes.optim import AdamW8bit

    made = AdamW8bit(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)
    for index, group in enumerate(made.param_groups):
        for place, parameter in enumerate(group["params"]):
            made.init_state(group, parameter, index, place)
    return made  # type: ignore[no-any-return]  # bitsandbytes has no types


def moments(state: dict[str, Any]) -> dict["Kind", Tensor]:
    """The moments of one parameter, by kind; live memory."""
    first, second = state["state1"], state["state2"]
    if "absmax1" not in state:
        return {"exp_avg": first, "exp_avg_sq": second}
    return {
        "exp_avg_codes": first,
        "exp_avg_sq_codes": second,
        "exp_avg_scales": state["absmax1"],
        "exp_avg_sq_scales": state["absmax2"],
    }
