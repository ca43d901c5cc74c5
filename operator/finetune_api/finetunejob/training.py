"""`spec.training`: method, batch, optimizer, sharding."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from finetune_api.finetunejob.types import LARGEST_INTEGER, Natural, Positive, Share, Spec, at_most_one, whole


class Optimizer(Spec):
    """AdamW and its schedule."""

    name: Literal["adamw"] = Field(default="adamw", description="The optimizer.")
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(default=2.0e-5, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Shape after warm-up; cosine and linear end at 0."
    )
    warmup_ratio: Share | None = Field(
        default=None, description="Share of all steps that warm up linearly; absent, with warmupSteps absent too, means 0.03."
    )
    warmup_steps: Natural | None = Field(default=None, description="Steps that warm up linearly.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(default=0.0, description="Decoupled weight decay, on matrices only.")
    gradient_clipping: Annotated[float, Field(gt=0.0)] = Field(default=1.0, description="Largest global L2 norm of the gradient.")
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.9, description="Decay of the first moment.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.999, description="Decay of the second moment.")
    epsilon: Annotated[float, Field(gt=0.0)] = Field(default=1.0e-8, description="Added to the root of the second moment.")

    @model_validator(mode="after")
    def _one_warmup(self) -> "Optimizer":
        at_most_one(self, "warmup_ratio", "warmup_steps")
        return self

    @property
    def effective_warmup_ratio(self) -> float | None:
        """The ratio after its default; None where warmupSteps counts instead."""
        return 0.03 if self.warmup_ratio is None and self.warmup_steps is None else self.warmup_ratio


class ZeroOptimization(Spec):
    """Keys of DeepSpeed's `zero_optimization`, under DeepSpeed's own names; absent means DeepSpeed's or our default."""

    model_config = ConfigDict(alias_generator=None)
    overlap_comm: bool = Field(default=True, description="Overlap gradient reduction with the backward pass.")
    contiguous_gradients: bool = Field(default=True, description="Copy gradients to one buffer as they are made.")
    sub_group_size: Positive = Field(default=1_000_000_000, description="Elements updated at a time by the optimizer.")
    reduce_bucket_size: Positive | None = Field(default=None, description="Elements reduced at a time; absent: hidden size squared.")
    stage3_prefetch_bucket_size: Natural | None = Field(default=None, description="Elements prefetched; absent: 0.9 x hidden size squared.")
    stage3_param_persistence_threshold: Natural | None = Field(
        default=None, description="Smaller parameters are never partitioned; absent: 10 x hidden size."
    )
    stage3_max_live_parameters: Positive = Field(default=1_000_000_000, description="Gathered elements alive at once.")
    stage3_max_reuse_distance: Positive = Field(
        default=1_000_000_000, description="Keep a parameter that is used again within this many elements."
    )


class Training(Spec):
    """How it is learnt. Rows are packed sequences of at most maxSequenceLength tokens."""

    method: Literal["full"] = Field(default="full", description="All parameters are trained.")
    sharding: Literal["zero3"] = Field(default="zero3", description="Weights, gradients and optimizer state are partitioned over workers.")
    deepspeed: ZeroOptimization = Field(default=ZeroOptimization(), description="Keys of DeepSpeed's zero_optimization.")
    epochs: Positive | None = Field(default=None, description="Passes over the data; absent, with maxSteps absent too, means 3.")
    max_steps: Positive | None = Field(default=None, description="Optimizer steps, instead of epochs.")
    max_sequence_length: Annotated[int, Field(ge=8, le=LARGEST_INTEGER), BeforeValidator(whole)] = Field(
        default=1024, description="Tokens in a packed row."
    )
    micro_batch_size: Positive = Field(
        default=4, description="Rows per worker and micro-step; fewer where globalBatchSize is absent and a worker's share is smaller."
    )
    global_batch_size: Positive | None = Field(
        default=None,
        description="Rows per optimizer step, over all workers. Absent is the largest power of two from 8 to 256 that leaves 100 steps, "
        "found once the data is prepared, and frozen with the run.",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="The optimizer and its schedule.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Arithmetic of forward and backward. `auto` takes bf16 where the hardware is fast at it, else fp32. Masters are fp32.",
    )
    tf32: bool = Field(default=True, description="TensorFloat-32 for fp32 matrix products on GPUs that have it.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.0, description="Every dropout of the model.")
    activation_checkpointing: bool = Field(default=True, description="Recompute activations in the backward pass.")
    log_every_steps: Positive = Field(default=1, description="Steps between lines of metrics; the first step is always one.")
    seed: Natural = Field(default=42, description="Seed of data order, new embeddings and dropout.")

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        at_most_one(self, "epochs", "max_steps")
        return self

    @property
    def effective_epochs(self) -> int | None:
        """Epochs after their default; None where maxSteps counts instead."""
        return 3 if self.epochs is None and self.max_steps is None else self.epochs
