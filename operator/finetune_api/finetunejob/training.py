"""`spec.training`: method, batch, optimizer, sharding."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.lora import Lora
from finetune_api.finetunejob.types import LARGEST_INTEGER, Natural, Positive, Share, Spec, at_most_one, whole

# Peak learning rates of a job that gives none: an adapter begins at zero and has a hundredth of the parameters.
LEARNING_RATES = {"full": 2.0e-5, "lora": 2.0e-4, "qlora": 2.0e-4}


class Optimizer(Spec):
    """AdamW and its schedule."""

    name: Literal["adamw", "adamw8bit"] = Field(
        default="adamw", description="The optimizer. `adamw8bit` keeps its moments in 8 bits, by bitsandbytes, for one worker."
    )
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="Peak learning rate; absent means 2e-5, and 2e-4 for LoRA."
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine",
        description="Shape after warm-up. `wsd` (warm-up, stable, decay) stays at the peak, then falls linearly. All but constant end at "
        "0, or at minimumLearningRateRatio.",
    )
    decay_ratio: Share = Field(default=0.1, description="Share of all steps in which `wsd` falls.")
    minimum_learning_rate_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Where the schedule ends, as a share of the peak."
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

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(
            field="decay_ratio",
            acts=lambda optimizer: optimizer.schedule == "wsd",
            cel="has(self.schedule) && self.schedule == 'wsd'",
            message="is the share of steps in which schedule: wsd falls, and this schedule is another",
            remedy="remove it, or set schedule: wsd",
        ),
        Effect(
            field="minimum_learning_rate_ratio",
            acts=lambda optimizer: optimizer.schedule != "constant",
            cel="!has(self.schedule) || self.schedule != 'constant'",
            message="is where a schedule ends, and schedule: constant stays at the peak",
            remedy="remove it, or set schedule: cosine",
        ),
    )

    @model_validator(mode="after")
    def _one_warmup(self) -> "Optimizer":
        at_most_one(self, "warmup_ratio", "warmup_steps")
        return self

    @property
    def effective_warmup_ratio(self) -> float | None:
        """The ratio after its default; None where warmupSteps counts instead."""
        return 0.03 if self.warmup_ratio is None and self.warmup_steps is None else self.warmup_ratio


class Offload(Spec):
    """Where ZeRO keeps what it offloads."""

    model_config = ConfigDict(alias_generator=None)
    device: Literal["none", "cpu"] = Field(default="none", description="`cpu` is the memory of the host; `none` leaves it on the GPU.")
    pin_memory: bool | None = Field(
        default=None, description="Keep it in page-locked memory, which is copied faster and can't be swapped; absent means true."
    )


def _not_pinned(value: Any) -> Any:
    """Nothing that is not pinned, as the first definition filled it in, is nothing: a job of its is the same as one without."""
    return {} if value in ({"device": "none", "pin_memory": False}, {"pin_memory": False}) else value


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
    offload_optimizer: Annotated[Offload, BeforeValidator(_not_pinned)] = Field(
        default=Offload(), description="Masters and moments, which are then updated by the host's CPUs."
    )
    offload_param: Annotated[Offload, BeforeValidator(_not_pinned)] = Field(
        default=Offload(), description="Weights that are not in use; with zero3."
    )

    @property
    def offloads(self) -> bool:
        """Whether anything is kept in the host's memory."""
        return "cpu" in (self.offload_optimizer.device, self.offload_param.device)


class Training(Spec):
    """How it is learnt. Rows are packed sequences of at most maxSequenceLength tokens."""

    method: Literal["full", "lora", "qlora"] = Field(
        default="full",
        description="`full` trains all parameters; `lora` low-rank adapters and the rows of new control tokens; `qlora` the same beside "
        "layers that are kept in 4 bits.",
    )
    lora: Lora | None = Field(default=None, description="Keys of PEFT's LoraConfig.")
    sharding: Literal["zero3", "zero2"] = Field(
        default="zero3",
        description="What is partitioned over workers: weights, gradients and optimizer state (`zero3`), or gradients and optimizer state "
        "(`zero2`: less traffic, and each worker holds all weights).",
    )
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
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto",
        description="Arithmetic of forward and backward. `auto` takes bf16 where the hardware is fast at it, else fp32. `fp16`, with "
        "losses scaled, is for GPUs without bf16. Masters are fp32.",
    )
    tf32: bool = Field(default=True, description="TensorFloat-32 for fp32 matrix products on GPUs that have it.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Every dropout of the model but that of attention, whatever its config says."
    )
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="Share of attention's weights that are dropped, whatever the model's config says. On GPUs a kernel does it; on CPUs it "
        "costs a matrix of a dialogue's squared length.",
    )
    activation_checkpointing: bool = Field(default=True, description="Recompute activations in the backward pass.")
    recomputed_layers: Literal["all", "fewest"] = Field(
        default="all",
        description="Which layers recompute theirs: `all`, or the `fewest` with which the plan fits in a worker's memory, every n-th.",
    )
    log_every_steps: Positive = Field(default=1, description="Steps between lines of metrics; the first step is always one.")
    seed: Natural = Field(default=42, description="Seed of data order, new weights and dropout.")

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(
            field="lora",
            acts=lambda training: training.method != "full",
            cel="has(self.method) && self.method != 'full'",
            message="has settings for adapters, and method: full trains all parameters",
            remedy="remove it, or set training.method: lora",
        ),
        Effect(
            field="recomputed_layers",
            acts=lambda training: training.activation_checkpointing,
            cel="!has(self.activationCheckpointing) || self.activationCheckpointing",
            message="is about layers that recompute their activations, and activationCheckpointing: false lets none",
            remedy="remove it, or set activationCheckpointing: true",
        ),
    )

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        at_most_one(self, "epochs", "max_steps")
        return self

    @property
    def effective_epochs(self) -> int | None:
        """Epochs after their default; None where maxSteps counts instead."""
        return 3 if self.epochs is None and self.max_steps is None else self.epochs

    @property
    def effective_learning_rate(self) -> float:
        """The peak after its default, which depends on the method."""
        given = self.optimizer.learning_rate
        return LEARNING_RATES[self.method] if given is None else given

    @property
    def adapter(self) -> Lora | None:
        """The adapters that are trained; None where all parameters are."""
        return None if self.method == "full" else self.lora or Lora()
