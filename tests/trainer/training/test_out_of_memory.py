"""training/out_of_memory.py, with errors as torch and NumPy raise them."""

import numpy as np
import pytest
import torch

from finetune_api.errors import TrainingFailed
from finetune_api.finetunejob import Training
from finetune_trainer.training.out_of_memory import is_out_of_memory, out_of_memory

GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.2 GiB is free. "
    "Process 7 has 77.9 GiB memory in use.\nIf reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
)


def too_large(library: str) -> Exception:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        torch.empty(1 << 60, dtype=torch.uint8) if library == "torch" else np.empty(1 << 60, dtype=np.uint8)
    return caught.value


@pytest.mark.parametrize("error", [too_large("torch"), too_large("numpy"), torch.OutOfMemoryError(GPU), RuntimeError(GPU)])
def test_who_says_so_is_believed(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("Connection closed by peer"), TrainingFailed("step 3")])
def test_other_errors_are_others(error: Exception) -> None:
    assert not is_out_of_memory(error)


def told(micro_batch_size: int, **training: bool) -> str:
    error, settings = torch.OutOfMemoryError(GPU), Training(max_sequence_length=2048, **training)
    return str(out_of_memory(error, settings, rank=3, micro_batch_size=micro_batch_size, peak_bytes=77 << 30))


def test_what_is_told_has_the_peak_the_micro_batch_and_a_remedy() -> None:
    assert told(4) == (
        "worker 3 ran out of memory with micro-batches of 4 rows of 2,048 tokens, having held 77.0 GiB at most: "
        "CUDA out of memory. Tried to allocate 2.00 GiB; set spec.training.microBatchSize to 2: the steps stay the same"
    )


def test_the_remedy_is_one_that_is_left() -> None:
    assert told(1, activation_checkpointing=False).endswith("it takes a third more time, and the steps stay the same")
    assert told(1, activation_checkpointing=True).endswith("or a smaller spec.training.maxSequenceLength")
