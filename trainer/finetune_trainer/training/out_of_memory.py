"""A rank that needed more memory than there was: told from other errors, and told to a user with what would need less. Pure."""

from typing import Final

from finetune_api.batch_size import halved
from finetune_api.errors import OutOfMemory
from finetune_api.finetunejob import Training
from finetune_trainer.reporting.readable import size

# torch 2.13's CPU allocator, cuBLAS, and CUDA itself below NCCL; torch's own error on a GPU has a class.
_WORDS: Final = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what it says.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def out_of_memory(error: BaseException, training: Training, *, rank: int, micro_batch_size: int, peak_bytes: int) -> OutOfMemory:
    """The same as an error of ours. `peak_bytes`: the most that this rank has held."""
    said = str(error).partition("\n")[0].partition(". GPU ")[0].rstrip(". ") or type(error).__name__
    rows = f"{micro_batch_size} row{'s' if micro_batch_size > 1 else ''} of {training.max_sequence_length:,} tokens"
    return OutOfMemory(
        f"worker {rank} ran out of memory with micro-batches of {rows}, having held {size(peak_bytes)} at most: {said}; "
        f"{_remedy(training, micro_batch_size)}"
    )


def _remedy(training: Training, micro_batch_size: int) -> str:
    """The setting that needs less, the cheapest first. All but the last train as before."""
    if (fewer := halved(micro_batch_size)) is not None:
        return f"set spec.training.microBatchSize to {fewer}: the steps stay the same"
    if not training.activation_checkpointing:
        return "set spec.training.activationCheckpointing to true: it takes a third more time, and the steps stay the same"
    return (
        "a micro-batch has 1 row already: give it more workers, spec.training.deepspeed.offload_optimizer, "
        "spec.training.method: lora, or a smaller spec.training.maxSequenceLength"
    )
