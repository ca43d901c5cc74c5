"""ZeRO-3 training of one model over all ranks: the only room that knows DeepSpeed.

In: a model from `weights.build_model` (whole on rank 0, shapes elsewhere), micro-batches, a learning rate. Out: losses, and the
optimizer's state as flat pieces in logical coordinates (kind, name, start, stop) that any world size can read back. torch.distributed
is already initialised. Every method is collective: all ranks call it, with equally many micro-batches.

Exactness: the loss of a step is the sum over supervised tokens of all ranks and micro-steps, divided by their number. DeepSpeed
averages gradients over ranks, so each micro-step's sum is scaled by world size / supervised tokens, and nothing else is scaled.

An architecture whose dialogues can't share a row gets one dialogue a call. Each call gathers weights, so all ranks make as many as the
rank with the most dialogues; those that a rank lacks are empty.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetune_api.errors import TrainingFailed
from finetune_api.finetunejob import Training
from finetune_trainer.model.attention import boundary_arguments
from finetune_trainer.model.loss import install_loss_head
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch, empty_micro_batch, single_dialogues
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.compiled_ops import load_cpu_op
from finetune_trainer.training.zero_config import deepspeed_config

Kind = Literal["master", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


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

    `tensor` is a flat fp32 view of live memory: copy it before the next optimizer step.
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    tensor: Tensor


class Engine:
    """A model under ZeRO-3 with its AdamW state. `step` is the number of optimizer steps taken."""

    def __init__(self, model: Any, training: Training, *, precision: Precision, method: Method | None = None) -> None:
        """Partition `model` over the ranks and create the optimizer's state. Collective.

        `model`: from `build.build_model` in `DTYPES[precision]`; on ranks other than 0 with `reads=False`. `method`: how its
        architecture is computed, as the trial found; packed, with a linear head, by default.
        """
        self._method = method or Method()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = _device()
        self.step = 0
        self._seed = training.seed
        config = deepspeed_config(
            training, hidden_size=model.config.get_text_config().hidden_size, world_size=self.world_size, precision=precision
        )
        deepspeed = _start_deepspeed(self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
        if training.activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.model = model
        loss_model = install_loss_head(model, self._method)
        self._constants = _constants(model)
        partition(loss_model, config, self.device)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(model, training.optimizer.weight_decay),
            lr=training.optimizer.learning_rate,
            betas=(training.optimizer.beta1, training.optimizer.beta2),
            eps=training.optimizer.epsilon,
            fused=True,
        )
        self._engine, *_ = deepspeed.initialize(model=loss_model, optimizer=self._optimizer, config=config)
        self._zero = self._engine.optimizer
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._create_optimizer_state()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor, tied ones once; the same on every rank."""
        return {name: tuple(parameter.ds_shape) for name, parameter in self._parameters.items()}

    @property
    def constants(self) -> dict[str, Tensor]:
        """What is saved with the weights and not trained: buffers, frozen parameters. Whole on rank 0, none elsewhere."""
        return self._constants if self.rank == 0 else {}

    def train_step(self, micro_batches: Sequence[MicroBatch], *, num_supervised: int, learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches. `num_supervised`: of all ranks and micro-steps together.

        Raises TrainingFailed, with the state as it was before, when loss or gradient is not finite.
        """
        assert micro_batches, "every rank takes part in every step, with an empty micro-batch if need be"
        self._engine.train()
        for group in self._zero.param_groups:
            group["lr"] = learning_rate
        scale = self.world_size / max(1, num_supervised)
        calls = self._calls(micro_batches)
        local_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, micro_batch in enumerate(calls):
            self._engine.set_gradient_accumulation_boundary(index == len(calls) - 1)
            self._seed_dropout(index)
            loss = self._engine(**self._inputs(micro_batch))
            self._engine.backward(loss * scale, scale_wrt_gas=False)
            local_sum += loss.detach()
        (loss_sum,) = self._summed(local_sum)
        self._engine.step()
        grad_norm = float(self._engine.get_global_grad_norm())
        if not (np.isfinite(loss_sum) and np.isfinite(grad_norm)):
            raise TrainingFailed(
                f"step {self.step + 1}: loss {loss_sum / max(1, num_supervised)} and gradient norm {grad_norm} are not both finite; "
                "begin a new run (--run-folder) with a lower spec.training.optimizer.learningRate, or look at the data of this step"
            )
        self.step += 1
        return StepResult(loss=loss_sum / max(1, num_supervised), loss_sum=loss_sum, grad_norm=grad_norm)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of cross entropies and number of supervised tokens, over all ranks. Without dropout."""
        self._engine.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for micro_batch in self._calls(micro_batches):
            totals[0] += self._engine(**self._inputs(micro_batch))
            totals[1] += micro_batch.num_supervised
        loss_sum, count = self._summed(totals)
        return loss_sum, round(count)

    @torch.no_grad()
    def logits(self, micro_batch: MicroBatch) -> Tensor:
        """Logits (T, V) of every token, in fp32 on every rank: for comparing with an exported model. Collective, with one row for all."""
        self._engine.eval()
        made = []
        for call in [micro_batch] if self._method.packed else single_dialogues(micro_batch):
            inputs = self._inputs(call)
            del inputs["labels"]
            made.append(self._engine(**inputs).float())
        return torch.cat(made)

    def local_state(self) -> Iterator[Piece]:
        """This rank's pieces of master weights and moments, name by name. The same tensors, by reference, until the next step.

        A parameter of n elements is cut into ceil(n / world size) each; ranks for which nothing is left yield nothing for it.
        """
        for name, parameter in self._parameters.items():
            start, stop = self._range(parameter)
            if start == stop:
                continue
            for kind in KINDS:
                tensor = self._partition(parameter, kind)[: stop - start]
                yield Piece(kind=kind, name=name, shape=tuple(parameter.ds_shape), start=start, stop=stop, tensor=tensor)

    @torch.no_grad()
    def load_local_state(self, read: Callable[[Kind, str, int, int], np.ndarray[Any, Any]], *, step: int) -> None:
        """Put back what `local_state` gave, at this or another world size. `read` gives flat fp32; `step`: optimizer steps taken."""
        for name, parameter in self._parameters.items():
            start, stop = self._range(parameter)
            if start == stop:
                continue
            for kind in KINDS:
                values = torch.tensor(read(kind, name, start, stop), dtype=torch.float32)  # a copy, as views may be read-only
                self._partition(parameter, kind)[: stop - start].copy_(values)
        for state in self._optimizer.state.values():
            state["step"].fill_(step)
        self._weights_from_masters()
        self.step = step
        dist.barrier()

    def _create_optimizer_state(self) -> None:
        """Adam's state, which torch makes at the first step only: so that a checkpoint can be read or written before it."""
        for flat in self._zero.fp32_partitioned_groups_flat:
            self._optimizer.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                "exp_avg": torch.zeros_like(flat, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
            }

    def _weights_from_masters(self) -> None:
        """What DeepSpeed does at the end of an optimizer step: weights in the model's dtype from the masters.

        Without it the first forward still uses the old weights; small parameters, which ZeRO-3 keeps gathered, until the
        step after (DeepSpeed 0.19.8).
        """
        self._zero._partition_all_parameters()
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        self._zero._post_step(set())

    def _partition(self, parameter: Any, kind: Kind) -> Tensor:
        """This rank's partition of one kind, flat fp32, padding included; a view of DeepSpeed's own memory."""
        group, offset, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
        flat = self._zero.fp32_partitioned_groups_flat[group]
        whole = flat.detach() if kind == "master" else self._optimizer.state[flat][kind]
        return cast(Tensor, whole.narrow(0, offset, length))

    def _range(self, parameter: Any) -> tuple[int, int]:
        """The elements of the flattened parameter that this rank holds."""
        size, elements = parameter.ds_tensor.ds_numel, parameter.ds_numel
        assert size == -(-elements // self.world_size), "DeepSpeed cuts a parameter into equal parts, the last one padded"
        return min(self.rank * size, elements), min((self.rank + 1) * size, elements)

    def _calls(self, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What the model is called with, equally often on every rank. Collective where dialogues can't share a call."""
        if self._method.packed:
            return micro_batches
        # A micro-batch that holds nothing to learn adds nothing, and costs a gathering of all weights.
        single = [call for row in micro_batches for call in single_dialogues(row) if call.num_supervised] or [empty_micro_batch()]
        most = torch.tensor(len(single), dtype=torch.int64, device=self.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return single + [empty_micro_batch() for _ in range(int(most) - len(single))]

    def _inputs(self, micro_batch: MicroBatch) -> dict[str, Any]:
        def row(values: Any) -> Tensor:
            return torch.as_tensor(values, dtype=torch.int64, device=self.device)[None]

        return {
            "input_ids": row(micro_batch.input_ids),
            "position_ids": row(micro_batch.position_ids),
            "labels": row(micro_batch.labels),
            **boundary_arguments(micro_batch, self.device),
        }

    def _seed_dropout(self, micro_step: int) -> None:
        """Dropout is a function of seed, step and the micro-batch's index in the global step, so a resumed run drops the same."""
        index = micro_step * self.world_size + self.rank
        torch.manual_seed(int(np.random.SeedSequence((self._seed, self.step, index)).generate_state(1, np.uint64)[0] >> 1))

    def _summed(self, values: Tensor) -> list[float]:
        dist.all_reduce(values)
        return cast(list[float], values.reshape(-1).tolist())


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters for AdamW: weight decay on matrices and embeddings only, not on norms and biases."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trained if _dimensions(p) >= 2]
    vectors = [p for p in trained if _dimensions(p) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: Any) -> int:
    """Dimensions of a parameter, also once ZeRO-3 holds it as an empty vector."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def partition(module: nn.Module, config: dict[str, Any], device: torch.device) -> None:
    """Cut every parameter over the ranks, in place, module by module: rank 0 sends what it read, nobody holds more than one module's.

    Other ranks' parameters are on the meta device. Parameters that modules share stay shared.
    """
    import deepspeed

    tied: dict[int, nn.Parameter] = {}
    for part in module.modules():
        own = [(name, parameter) for name, parameter in part._parameters.items() if parameter is not None]
        fresh = nn.Module()
        for name, parameter in own:
            if id(parameter) not in tied:
                tied[id(parameter)] = _materialised(parameter, device)
                fresh.register_parameter(name, tied[id(parameter)])
            part._parameters[name] = tied[id(parameter)]
        if next(fresh.parameters(), None) is not None:
            deepspeed.zero.Init(module=fresh, config_dict_or_path=config)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
            if buffer is not None and name not in part._non_persistent_buffers_set:
                _from_first_rank(cast(Tensor, part._buffers[name]))


def _from_first_rank(buffer: Tensor) -> None:
    """A buffer that is read with the weights, on every rank; the others made it as the architecture begins."""
    whole = buffer.contiguous()
    dist.broadcast(whole.view(torch.uint8) if whole.dtype == torch.bool else whole, src=0)
    buffer.copy_(whole)


def _constants(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of what is saved with the trained tensors and is not trained; nothing on ranks that did not read the weights."""
    tensors = chain(model.named_parameters(), model.named_buffers())  # tied ones once, unlike `state_dict`
    saved = model.state_dict().keys()
    return {name: one.detach().cpu().clone() for name, one in tensors if name in saved and not one.requires_grad and not one.is_meta}


def _materialised(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    if not parameter.is_meta:
        return parameter
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device), requires_grad=parameter.requires_grad)


def _device() -> torch.device:
    if dist.get_backend() != "nccl":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


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
