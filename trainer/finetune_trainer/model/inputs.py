"""A micro-batch as the arguments of a LossModel: all its numbers in one block of memory, which is copied to the device at once.

On a GPU the block is pinned and the copy overlaps with what is computed; lengths stay Python numbers. So nobody waits for the GPU: what
its kernels need to know of a micro-batch is known before they are started.

Shapes: T tokens, S segments, N supervised tokens.
"""

from typing import Any

import numpy as np
import torch

from finetune_trainer.model.attention import boundaries
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX


def model_inputs(row: MicroBatch, device: torch.device) -> dict[str, Any]:
    """The arguments of `LossModel.forward`; without `supervised` and `targets` it gives logits."""
    supervised_N = np.flatnonzero(row.labels != IGNORE_INDEX)
    parts = (row.input_ids, row.position_ids, supervised_N, row.labels[supervised_N], row.cu_seq_lens)
    lengths = [len(part) for part in parts]
    block = torch.empty(sum(lengths), dtype=torch.int64, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=block.numpy())
    ids, positions, supervised, targets, offsets = torch.split(block.to(device, non_blocking=True), lengths)
    return {
        "input_ids": ids[None],
        "position_ids": positions[None],
        "supervised": supervised,
        "targets": targets,
        **boundaries(row, offsets.to(torch.int32)),
    }
