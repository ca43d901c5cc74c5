"""ZeRO training of one model over all ranks: with `zero_config`, all that knows DeepSpeed.

In: a model from `build.build_model`, left in its files, or whole on rank 0 and shapes elsewhere. torch.distributed is already
initialised.

DeepSpeed averages gradients over ranks, so each micro-step's sum is scaled by world size / supervised tokens, and nothing else is scaled.

An architecture whose dialogues can't share a row gets one dialogue a call. Each call gathers weights, so all ranks make as many as the
rank with the most dialogues; those that a rank lacks are empty.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetune_api.finetunejob import Training
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch, empty_micro_batch
from finetune_trainer.model.precision import Precision
from finetune_trainer.model.stored import StoredValues, stored_values
from finetune_trainer.training.collectives import rank_device
from finetune_trainer.training.compiled_ops import load_cpu_op
from finetune_trainer.training.engine import (
    GROWTH_STEPS,
    KINDS,
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
    seed_dropout,
    step_result,
    trained_parameters,
    whole_logits,
    with_memory,
)
from finetune_trainer.training.zero_config import deepspeed_config
from finetune_trainer.training.zero_partitions import partitions_of


class ZeroEngine:
    """A model under ZeRO-3 or ZeRO-2, as the job says, with its AdamW state."""

    def __init__(
        self, model: Any, training: Training, *, precision: Precision, method: Method | None = None, recompute_every: int | None = None
    ) -> None:
        """Divide `model` over the ranks and create the optimizer's state. Collective.

        `model`: from `build.build_model` in `DTYPES[precision]`; on ranks other than 0 with `reads=False`. `method`: how its
        architecture is computed, as the trial found; packed, with a linear head, by default. `recompute_every`: as `loss_model` takes it.
        """
        self._method = method or Method()
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self.device = rank_device()
        self.step, self.before_update = 0, nothing_to_wait_for
        self._seed = training.seed
        self._halves, self._steps_at_scale = precision == "fp16", 0
        config = deepspeed_config(
            training, hidden_size=model.config.get_text_config().hidden_size, world_size=self._world_size, precision=precision
        )
        deepspeed = _start_deepspeed(self.device)
        module = loss_model(model, training, self._method, self.device, recompute_every)
        self._head = module.head
        self._constants = {name: one.cpu().clone() for name, one in constants(model, training).items()}
        stage = config["zero_optimization"]["stage"]
        if stage == 3:
            partition(module, config, self.device)
            if training.adapter is not None:
                _gather_for_adapters(model)
        else:
            spread(module, self.device)
        self._optimizer = adamw(trained_parameters(model).values(), training.optimizer)
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=self._optimizer, config=config)
        self._zero = self._engine.optimizer
        self._partitions = partitions_of(self._zero, stage=stage, rank=self._rank, world_size=self._world_size)
        self._parameters = trained_parameters(model)
        create_moments(self._optimizer, self._partitions.flats)

    @property
    def head(self) -> nn.Module | None:
        """The module that makes losses of hidden states; its weight is gathered before its forward."""
        return self._head

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor, tied ones once; the same on every rank."""
        return {name: _shape(parameter) for name, parameter in self._parameters.items()}

    @property
    def constants(self) -> dict[str, Tensor]:
        """What is saved with the weights and not trained, as it was read; whole on rank 0, none elsewhere."""
        return self._constants if self._rank == 0 else {}

    def train_step(self, micro_batches: Sequence[MicroBatch], *, num_supervised: int, learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches. Raises NonFiniteStep, with the state as before, when it is not finite."""
        self._engine.train()
        for group in self._zero.param_groups:
            group["lr"] = learning_rate
        while True:
            loss_sum, losses = self._backward(micro_batches, num_supervised)
            self.before_update()
            self._engine.step()
            if not self._overflowed(loss_sum):
                break
        grad_norm = float(self._engine.get_global_grad_norm())
        result = step_result(
            step=self.step + 1,
            loss_sum=loss_sum,
            grad_norm=grad_norm,
            num_supervised=num_supervised,
            losses=partial(losses_by_micro_batch, self._method, micro_batches, losses),
        )
        self.step += 1
        return result

    def _backward(self, micro_batches: Sequence[MicroBatch], num_supervised: int) -> tuple[float, list[Tensor]]:
        """Gradients of all micro-batches, added up. The sum of losses over all ranks, and this rank's, left on the device."""
        scale = self._world_size / max(1, num_supervised)
        batches = self._calls(micro_batches)
        assert batches, "every rank takes part in every step, with an empty micro-batch if need be"
        local_sum, losses = torch.zeros((), dtype=torch.float64, device=self.device), []
        for index, micro_batch in enumerate(batches):
            self._engine.set_gradient_accumulation_boundary(index == len(batches) - 1)
            seed_dropout(self._seed, self.step, index * self._world_size + self._rank)
            loss = self._engine(**model_inputs(micro_batch, self.device))
            self._engine.backward(loss * scale, scale_wrt_gas=False)
            local_sum += loss.detach()
            if micro_batch.num_supervised:
                losses.append(loss.detach())
        (loss_sum,) = self._summed(local_sum)
        return loss_sum, losses

    def _overflowed(self, loss_sum: float) -> bool:
        """Whether the step is to be made again, with the smaller scale that DeepSpeed has chosen; it took none.

        The scale grows here and not there: DeepSpeed 0.19.8 divides the gradients of the step in which it grows by the new one.
        """
        if not self._halves or not math.isfinite(loss_sum):
            return False
        scaler, overflow = self._zero.loss_scaler, bool(self._zero.overflow)
        self._steps_at_scale = 0 if overflow else self._steps_at_scale + 1
        if self._steps_at_scale == GROWTH_STEPS:
            scaler.cur_scale, self._steps_at_scale = 2.0 * scaler.cur_scale, 0
        return overflow and scaler.cur_scale > 1.0

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of cross entropies and number of supervised tokens, over all ranks. Without dropout."""
        self._engine.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for micro_batch in self._calls(micro_batches):
            totals[0] += self._engine(**model_inputs(micro_batch, self.device))
            totals[1] += micro_batch.num_supervised
        loss_sum, count = self._summed(totals)
        return loss_sum, round(count)

    @torch.no_grad()
    def logits(self, micro_batch: MicroBatch) -> Tensor:
        """Logits (T, V) of every token, in fp32 on every rank, of one row for all."""
        self._engine.eval()
        return whole_logits(self._engine, self._method, micro_batch, self.device)

    def local_state(self) -> Iterator[Piece]:
        """This rank's pieces of master weights and moments, kind by kind. The same tensors, by reference, until the next step.

        Where this rank owns nothing of a parameter, it yields nothing for it.
        """
        for kind in KINDS:
            for name, parameter in self._parameters.items():
                owned = self._partitions.owned(parameter)
                if owned is None:
                    continue
                tensor = self._flat(owned.group, kind).narrow(0, owned.offset, owned.stop - owned.start)
                yield Piece(kind=kind, name=name, shape=_shape(parameter), start=owned.start, stop=owned.stop, tensor=tensor)

    @torch.no_grad()
    def load_local_state(self, read: Read, *, step: int) -> None:
        """Put back what `local_state` gave, of any engine at any world size. `step`: optimizer steps taken."""
        for piece in self.local_state():
            values = read(piece.kind, piece.name, piece.start, piece.stop)
            piece.tensor.copy_(torch.tensor(values, dtype=torch.float32))  # a copy first, as views may be read-only
        for state in self._optimizer.state.values():
            state["step"].fill_(step)
        self._partitions.update_weights()
        self.step = step
        dist.barrier()

    def _flat(self, group: int, kind: Kind) -> Tensor:
        """One kind of what this rank owns of a group of parameters, padding included; DeepSpeed's own memory."""
        masters = self._partitions.flats[group]
        return masters.detach() if kind == "master" else cast(Tensor, self._optimizer.state[masters][kind])

    def _calls(self, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What the model is called with, equally often on every rank. Collective where dialogues can't share a call."""
        mine = calls(self._method, micro_batches)
        if self._method.packed:
            return mine
        most = torch.tensor(max(1, len(mine)), dtype=torch.int64, device=self.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return [*mine, *(empty_micro_batch() for _ in range(int(most) - len(mine)))]

    def _summed(self, values: Tensor) -> list[float]:
        dist.all_reduce(values)
        return cast(list[float], values.reshape(-1).tolist())


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def partition(module: nn.Module, config: dict[str, Any], device: torch.device) -> None:
    """Cut every parameter over the ranks, in place, module by module: nobody holds more than one module's, but what it has read before.

    Each rank reads its own ranges of parameters that say where their values are. Others rank 0 has read, and sends; on other ranks they
    are on the meta device. Parameters that modules share stay shared.
    """
    import deepspeed

    class OwnRange(deepspeed.zero.Init):  # type: ignore[misc]  # DeepSpeed has no types
        """Keeps what this rank has of a parameter, and sends nothing (DeepSpeed 0.19.8)."""

        def _zero_init_param(self, param: Any) -> None:
            self._convert_to_deepspeed_param(param)
            param.partition()

    tied: dict[int, nn.Parameter] = {}
    for part in module.modules():
        own = [(name, parameter) for name, parameter in part._parameters.items() if parameter is not None]
        sent, read = nn.Module(), nn.Module()
        for name, parameter in own:
            if id(parameter) not in tied:
                tied[id(parameter)] = with_memory(parameter, device)
                values = stored_values(parameter)
                (sent if values is None else read).register_parameter(name, tied[id(parameter)])
                if values is not None:
                    _read_own_range(tied[id(parameter)], values)
            part._parameters[name] = tied[id(parameter)]
        for cut, module_of in ((deepspeed.zero.Init, sent), (OwnRange, read)):
            if next(module_of.parameters(), None) is not None:
                cut(module=module_of, config_dict_or_path=config)
        _place_buffers(part, device)


def spread(module: nn.Module, device: torch.device) -> None:
    """Make room for every parameter on every rank, in place; DeepSpeed sends what rank 0 read when it is initialised for ZeRO-2."""
    make_room(module, device)
    for part in module.modules():
        _place_buffers(part, device)


def _place_buffers(part: nn.Module, device: torch.device) -> None:
    for name, buffer in part._buffers.items():
        part._buffers[name] = None if buffer is None else buffer.to(device)
        if buffer is not None and name not in part._non_persistent_buffers_set:
            _from_first_rank(cast(Tensor, part._buffers[name]))


def _gather_for_adapters(model: nn.Module) -> None:
    """Let DeepSpeed gather a parameter for every module that uses it, not only for the one that it belongs to."""
    import deepspeed

    from finetune_trainer.model.adapters import borrowed_parameters

    for module, parameter in borrowed_parameters(model):
        deepspeed.zero.register_external_parameter(module, parameter)


def _from_first_rank(buffer: Tensor) -> None:
    """A buffer that is read with the weights, on every rank; the others made it as the architecture begins."""
    whole = buffer.contiguous()
    dist.broadcast(whole.view(torch.uint8) if whole.dtype == torch.bool else whole, src=0)
    buffer.copy_(whole)


@torch.no_grad()
def _read_own_range(parameter: nn.Parameter, values: StoredValues) -> None:
    """Fill the range of `parameter` that this rank will keep; the rest stays as it is, untouched. Collective."""
    elements, rank = parameter.numel(), dist.get_rank()
    size = -(-elements // dist.get_world_size())
    start, stop = min(rank * size, elements), min((rank + 1) * size, elements)
    mean = None
    if values.fresh:
        mean = (values.mean() if rank == 0 else torch.empty(values.shape[1:], dtype=values.dtype)).to(parameter.device)
        dist.broadcast(mean, src=0)
        mean = mean.cpu()
    parameter.view(-1)[start:stop] = values.read(start, stop, mean).to(parameter.device)


def _start_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed with its surroundings set, and hand it torch's process group.

    On a CPU its first start compiles an op (about 90 s on 2 cores).
    """
    os.environ.setdefault("LOCAL_RANK", "0")
    if device.type == "cpu":
        load_cpu_op()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 wants renamed, and torch says so in the wrapper around them: hundreds of
    # lines a step where every warning is shown, and Ray brings each rank's to the driver's log.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger$")
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)
    return deepspeed
