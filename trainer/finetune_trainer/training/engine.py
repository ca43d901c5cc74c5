"""What trains a model: the protocol that the rest of training knows, and what its engines share.

An engine takes a model from `build.build_model`, micro-batches and a learning rate. It gives losses, and the optimizer's state as flat
pieces in logical coordinates (kind, name, start, stop), which any engine at any world size reads back. Every method is collective: all
ranks call it, with equally many micro-batches. `zero_engine` divides a model over ranks, `plain_engine` has one rank and no DeepSpeed;
which of them trains a job, `finetune_api.engines` says.

Exactness: the loss of a step is the sum over supervised tokens of all ranks and micro-steps, divided by their number, which is known before
the first backward. Gradients of micro-steps are added up in fp32, and masters and moments are fp32.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.errors import NonFiniteLoss
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import LossModel, install_loss_head
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch, single_dialogues
from finetune_trainer.model.precision import DTYPE_NAMES

if TYPE_CHECKING:  # `make test-gpu` trains on machines without pydantic
    from finetune_api.finetunejob import Optimizer, Training

# Of a parameter's state: its master, and its moments in fp32, or in 8 bits as codes and scales.
Kind = Literal["master", "exp_avg", "exp_avg_sq", "exp_avg_codes", "exp_avg_sq_codes", "exp_avg_scales", "exp_avg_sq_scales"]
ALL_KINDS: tuple[Kind, ...] = get_args(Kind)
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
DTYPES: dict[str, torch.dtype] = {precision: getattr(torch, name) for precision, name in DTYPE_NAMES.items()}
# In fp16 losses are scaled, so that small gradients are not rounded to 0: by which power of two at first, and after how many steps without
# an overflow by twice as much. A step that overflows is made again with half the scale; at 1 it is what it seems, and fails.
FIRST_SCALE_POWER, GROWTH_STEPS = 16, 2000

Read = Callable[[Kind, str, int, int], np.ndarray[Any, Any]]
"""Elements [start, stop) of a flattened tensor, by kind and name, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    """Mean cross entropy over the supervised tokens of all ranks, before the update."""
    loss_sum: float
    grad_norm: float
    """L2 norm over all parameters and ranks, before clipping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """This rank's part of one tensor: elements [start, stop) of the flattened tensor called `name`.

    `tensor` is a flat view of live memory, in fp32 but for codes, which are bytes: copy it before the optimizer's next update.
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    tensor: Tensor


class Engine(Protocol):
    """A model in training with its AdamW state. What is trained are the parameters that require a gradient when the engine is made."""

    device: torch.device
    step: int
    """Optimizer steps taken."""
    before_update: Callable[[], None]
    """Called before the optimizer changes what `local_state` gave."""

    @property
    def head(self) -> nn.Module | None:
        """The module that makes losses of hidden states: in its forward no rank waits for another."""
        ...

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor, tied ones once; the same on every rank."""
        ...

    @property
    def constants(self) -> dict[str, Tensor]:
        """What is saved with the weights and not trained: buffers, frozen parameters. On the CPU, whole on rank 0, none elsewhere."""
        ...

    def train_step(self, micro_batches: Sequence[MicroBatch], *, num_supervised: int, learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches. `num_supervised`: of all ranks and micro-steps together.

        Raises NonFiniteStep, with the state as it was before, when loss or gradient is not finite.
        """
        ...

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of cross entropies and number of supervised tokens, over all ranks. Without dropout."""
        ...

    def logits(self, micro_batch: MicroBatch) -> Tensor:
        """Logits (T, V) of every token, in fp32 on every rank: for comparing with an exported model. One row for all ranks."""
        ...

    def local_state(self) -> Iterator[Piece]:
        """This rank's pieces of master weights and moments. The same tensors, by reference, until the next step.

        Kind by kind, as checkpoints lie: an export reads the masters alone, and a restore holds one kind's chunks at a time.
        """
        ...

    def load_local_state(self, read: Read, *, step: int) -> None:
        """Put back what `local_state` gave, of any engine at any world size. `step`: optimizer steps taken."""
        ...


def nothing_to_wait_for() -> None:
    """What an engine calls before an update, unless somebody copies its state meanwhile."""


def loss_model(model: Any, training: "Training", method: Method, device: torch.device, recompute_every: int | None) -> LossModel:
    """`model` as both engines call it: with its loss head, recomputing activations and using TensorFloat-32 where the job says so.

    `recompute_every`: of so many layers one recomputes, as the plan found (0: none); None: all or none, as the job says.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
    every = int(training.activation_checkpointing) if recompute_every is None else recompute_every
    if every:
        model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    return install_loss_head(model, method)


def make_room(module: nn.Module, device: torch.device) -> None:
    """Memory on `device` for what is on the meta device, in place and as it comes; parameters that modules share stay shared."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = made.setdefault(id(parameter), with_memory(parameter, device))


def with_memory(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    """`parameter`; where it is on the meta device, one with memory of no particular content."""
    if not parameter.is_meta:
        return parameter
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device), requires_grad=parameter.requires_grad)


def trained_parameters(model: nn.Module) -> dict[str, Any]:
    """What is trained, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def constants(model: nn.Module, training: "Training") -> dict[str, Tensor]:
    """What is saved with the trained tensors and not trained, by reference; nothing of what this rank did not read.

    With adapters nothing at all: the base model is read again.
    """
    if training.adapter is not None:
        return {}
    tensors = chain(model.named_parameters(), model.named_buffers())  # tied ones once, unlike `state_dict`
    saved = model.state_dict().keys()
    return {name: one.detach() for name, one in tensors if name in saved and not one.requires_grad and not one.is_meta}


def adamw(parameters: Iterable[Any], settings: "Optimizer") -> torch.optim.AdamW:
    """torch's fused AdamW over parameters that require a gradient."""
    return torch.optim.AdamW(
        parameter_groups(parameters, settings.weight_decay),
        lr=0.0,  # each step has its own
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def parameter_groups(parameters: Iterable[Any], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and embeddings only, not on norms and biases."""
    every = list(parameters)
    matrices = [p for p in every if _dimensions(p) >= 2]
    vectors = [p for p in every if _dimensions(p) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: Any) -> int:
    """Dimensions of a parameter, also once ZeRO-3 holds it as an empty vector."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def create_moments(optimizer: torch.optim.AdamW, parameters: Iterable[Tensor]) -> None:
    """Adam's state, which torch makes at the first step only: so that a checkpoint can be read or written before it."""
    for one in parameters:
        optimizer.state[one] = {
            "step": torch.zeros((), dtype=torch.float32, device=one.device),
            "exp_avg": torch.zeros_like(one, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(one, requires_grad=False),
        }


def calls(method: Method, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """What the model is called with: micro-batches as they are or, where dialogues can't share a call, each that has something to learn."""
    if method.packed:
        return micro_batches
    return [call for row in micro_batches for call in single_dialogues(row) if call.num_supervised]


def seed_dropout(seed: int, step: int, index: int) -> None:
    """Dropout is a function of seed, step and the micro-batch's index in the global step, so a resumed run drops the same."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, index)).generate_state(1, np.uint64)[0] >> 1))


def whole_logits(module: nn.Module, method: Method, micro_batch: MicroBatch, device: torch.device) -> Tensor:
    """Logits (T, V) of a micro-batch, in fp32, from a module that takes `model_inputs`."""
    made = []
    for call in [micro_batch] if method.packed else single_dialogues(micro_batch):
        inputs = model_inputs(call, device)
        del inputs["supervised"], inputs["targets"]
        made.append(module(**inputs).float())
    return torch.cat(made)


class NonFiniteStep(NonFiniteLoss):
    """Loss or gradient of a step is not finite, on all ranks. `losses`: of this rank's micro-batches, the sum of each, in their order."""

    def __init__(self, message: str, grad_norm: float = 0.0, losses: Sequence[float] = ()) -> None:
        super().__init__(message)
        self.grad_norm, self.losses = grad_norm, losses


def losses_by_micro_batch(method: Method, micro_batches: Sequence[MicroBatch], losses: Sequence[Tensor]) -> list[float]:
    """The sum of each micro-batch's losses. `losses`: of each call that has something to learn, in order. Asks the device once."""
    values = iter(torch.stack(list(losses)).tolist() if losses else ())
    return [sum(next(values) for call in calls(method, [one]) if call.num_supervised) for one in micro_batches]


def step_result(*, step: int, loss_sum: float, grad_norm: float, num_supervised: int, losses: Callable[[], Sequence[float]]) -> StepResult:
    """What optimizer step `step`, counted from 1, comes to. Raises NonFiniteStep, with `losses()`, where it is not finite."""
    loss = loss_sum / max(1, num_supervised)
    if not (np.isfinite(loss) and np.isfinite(grad_norm)):
        raise NonFiniteStep(f"step {step}: loss {loss} and gradient norm {grad_norm} are not both finite", grad_norm, losses())
    return StepResult(loss=loss, loss_sum=loss_sum, grad_norm=grad_norm)
