"""Training of one model by one process: torch alone, without DeepSpeed, a compiler or a process group.

In: a model from `build.build_model`, whole, or without values where a checkpoint will give them. Out: what ZeRO gives at one rank, whose
arithmetic this is: gradients of micro-steps are added up in fp32, clipped by their global norm, and applied to fp32 masters by AdamW. A
parameter in fp32 is its own master. AdamW's moments may be in 8 bits.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.training.engine import (
    ALL_KINDS,
    FIRST_SCALE_POWER,
    GROWTH_STEPS,
    Kind,
    Piece,
    Read,
    StepResult,
    adamw,
    calls,
    constants,
    create_moments,
    loss_model,
    losses_by_micro_batch,
    make_room,
    nothing_to_wait_for,
    parameter_groups,
    seed_dropout,
    step_result,
    trained_parameters,
    whole_logits,
)

if TYPE_CHECKING:  # `make test-gpu` trains on machines without pydantic
    from finetune_api.finetunejob import Optimizer, Training

# What torch and DeepSpeed add to a norm that they divide by.
_CLIPPING_EPSILON = 1e-6


class PlainEngine:
    """A model on one device with its AdamW state."""

    def __init__(
        self,
        model: Any,
        training: "Training",
        *,
        method: Method | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        recompute_every: int | None = None,
    ) -> None:
        """Move `model` to `device` and create the optimizer's state. Its parameters' type is that of forward and backward.

        `method`: how its architecture is computed, as the trial found; packed, with a linear head, by default. `recompute_every`: as
        `loss_model` takes it.
        """
        self.device, self.step, self.before_update = device, 0, nothing_to_wait_for
        self._method, self._training = method or Method(), training
        make_room(model, device)
        self._model = model.to(device)
        self._module = loss_model(model, training, self._method, device, recompute_every)
        self._parameters = trained_parameters(model)
        self._masters = {name: _master(parameter) for name, parameter in self._parameters.items()}
        self._optimizer = _optimizer(self._masters.values(), training.optimizer)
        halves = any(parameter.dtype == torch.float16 for parameter in model.parameters())
        self._scaler = torch.amp.GradScaler(device.type, 2.0**FIRST_SCALE_POWER, growth_interval=GROWTH_STEPS, enabled=halves)

    @property
    def head(self) -> nn.Module | None:
        """The module that makes losses of hidden states."""
        return self._module.head

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor, tied ones once."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    @property
    def constants(self) -> dict[str, Tensor]:
        """What is saved with the weights and not trained, on the CPU."""
        return {name: one.cpu() for name, one in constants(self._model, self._training).items()}

    def train_step(self, micro_batches: Sequence[MicroBatch], *, num_supervised: int, learning_rate: float) -> StepResult:
        """One optimizer step over all micro-batches. Raises NonFiniteStep, with the state as before, when it is not finite."""
        self._module.train()
        while True:
            try:
                losses = self._backward(micro_batches, num_supervised)
                loss_sum, grad_norm = self._measured(losses)
                if self._overflowed(loss_sum, grad_norm):
                    continue
                result = step_result(
                    step=self.step + 1,
                    loss_sum=loss_sum,
                    grad_norm=grad_norm,
                    num_supervised=num_supervised,
                    losses=partial(losses_by_micro_batch, self._method, micro_batches, losses),
                )
                self._update(grad_norm, learning_rate)
            finally:
                for one in (*self._parameters.values(), *self._masters.values()):
                    one.grad = None
            self.step += 1
            return result

    def _backward(self, micro_batches: Sequence[MicroBatch], num_supervised: int) -> list[Tensor]:
        """Gradients of all micro-batches, added up; the losses."""
        losses, scale = [], 1 / max(1, num_supervised)
        for index, micro_batch in enumerate(calls(self._method, micro_batches)):
            if micro_batch.num_supervised == 0:
                continue
            seed_dropout(self._training.seed, self.step, index)
            loss = self._module(**model_inputs(micro_batch, self.device))
            self._scaler.scale(loss * scale).backward()
            losses.append(loss.detach())
        return losses

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of cross entropies and number of supervised tokens. Without dropout."""
        self._module.eval()
        losses, count = [], 0
        for micro_batch in calls(self._method, micro_batches):
            losses.append(self._module(**model_inputs(micro_batch, self.device)))
            count += micro_batch.num_supervised
        return _summed(losses), count

    @torch.no_grad()
    def logits(self, micro_batch: MicroBatch) -> Tensor:
        """Logits (T, V) of every token, in fp32."""
        self._module.eval()
        return whole_logits(self._module, self._method, micro_batch, self.device)

    def local_state(self) -> Iterator[Piece]:
        """Every tensor of master weights and moments, whole, kind by kind. By reference, until the next step."""
        states = {name: self._state(master) for name, master in self._masters.items()}
        for kind in ALL_KINDS:
            for name, state in states.items():
                if (tensor := state.get(kind)) is not None:
                    yield Piece(kind=kind, name=name, shape=tuple(tensor.shape), start=0, stop=tensor.numel(), tensor=tensor.view(-1))

    @torch.no_grad()
    def load_local_state(self, read: Read, *, step: int) -> None:
        """Put back what `local_state` gave, of any engine at any world size. `step`: optimizer steps taken."""
        for piece in self.local_state():
            values = read(piece.kind, piece.name, piece.start, piece.stop)
            piece.tensor.copy_(torch.tensor(values, dtype=torch.float32))  # a copy first, as views may be read-only
        for state in self._optimizer.state.values():
            state["step"] = state["step"].fill_(step) if isinstance(state["step"], Tensor) else step
        self._weights_from_masters()
        self.step = step

    def _measured(self, losses: list[Tensor]) -> tuple[float, float]:
        """Sum of the losses and norm of the gradients, all that a step asks the device. Gradients are the masters' afterwards."""
        for name, parameter in self._parameters.items():
            # Nothing of a step may have reached a parameter, such as an expert's: its moments decay all the same, as under ZeRO.
            gradient = torch.zeros_like(self._masters[name]) if parameter.grad is None else parameter.grad
            self._masters[name].grad = gradient
        if losses:
            self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.get_total_norm([cast(Tensor, master.grad) for master in self._masters.values()])
        *sums, grad_norm = torch.stack([*losses, norm]).tolist()
        return math.fsum(sums), grad_norm

    def _overflowed(self, loss_sum: float, grad_norm: float) -> bool:
        """Whether the step is to be made again, with a smaller scale from now on."""
        if not self._scaler.is_enabled() or not math.isfinite(loss_sum):
            return False
        self._scaler.update()
        return not math.isfinite(grad_norm) and self._scaler.get_scale() > 1.0

    @torch.no_grad()
    def _update(self, grad_norm: float, learning_rate: float) -> None:
        if grad_norm + _CLIPPING_EPSILON > self._training.optimizer.gradient_clipping:
            for master in self._masters.values():
                cast(Tensor, master.grad).mul_(self._training.optimizer.gradient_clipping / (grad_norm + _CLIPPING_EPSILON))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self.before_update()
        self._optimizer.step()
        self._weights_from_masters()

    def _weights_from_masters(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter is not self._masters[name]:
                parameter.copy_(self._masters[name])

    def _state(self, master: Tensor) -> dict[Kind, Tensor]:
        """A parameter's state by kind; live memory."""
        state = self._optimizer.state[master]
        if "exp_avg" in state:
            return {"master": master.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        from finetune_trainer.training.eight_bit_adamw import moments

        return {"master": master.detach(), **moments(state)}


def _optimizer(masters: Collection[Tensor], settings: "Optimizer") -> torch.optim.Optimizer:
    """What the job names, with its moments."""
    if settings.name == "adamw8bit":
        from finetune_trainer.training.eight_bit_adamw import eight_bit_adamw

        return eight_bit_adamw(parameter_groups(masters, settings.weight_decay), settings)
    made = adamw(masters, settings)
    create_moments(made, masters)
    return made


def _master(parameter: Any) -> Tensor:
    """The fp32 tensor that the optimizer updates: the parameter itself, or a copy that becomes its value after each step."""
    parameter.data = parameter.data.contiguous()  # pieces of the state are views of a flat tensor
    if parameter.dtype == torch.float32:
        return cast(Tensor, parameter)
    parameter.grad_dtype = torch.float32  # micro-steps are added up in it
    return cast(Tensor, parameter.detach().float())


def _summed(losses: list[Tensor]) -> float:
    return math.fsum(torch.stack(losses).tolist()) if losses else 0.0
