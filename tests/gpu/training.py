"""Training of a small GPTBigCode by torch alone: what the engine does on one GPU, without DeepSpeed.

Masters and moments are fp32, and the model computes in bf16 or fp32 from the masters' rounded values; the reference has fp64 for all.
Attention, loss and checkpoint are the trainer's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from finetune_trainer.checkpoints.store import CheckpointStore, Piece, Reader
from finetune_trainer.model.attention import ATTENTION, register
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import install_loss_head
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.storage.directory import DirectoryStorage

LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the model, of its rows and of what else is computed. `supervised`, `vocabulary`: of the loss by itself."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    words: int = 1_000
    row: int = 2_048
    steps: int = 4
    lengths: tuple[int, ...] = (700, 1, 300, 23, 512)
    supervised: int = 1_000
    vocabulary: int = 49_152


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Loss of a step, a mean over supervised tokens, and its gradient as one vector."""

    loss: float
    gradient: Tensor


def config_of(sizes: Sizes) -> Any:
    """GPTBigCode, multi-query as StarCoder is, without dropout."""
    return transformers.GPTBigCodeConfig(
        vocab_size=sizes.words,
        n_positions=sizes.row,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.08,  # attention that tells tokens apart, for a mistake in it to be seen
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )


class Trainer:
    """A random GPTBigCode with AdamW. The same seed gives the same weights on every device."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype, *, seed: int) -> None:
        register()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = transformers.AutoModelForCausalLM.from_config(config_of(sizes), attn_implementation=ATTENTION)
        self.device = device
        model = model.to(device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32).train()
        self._masters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._model: Any = install_loss_head(model.to(dtype))
        self._parameters = dict(model.named_parameters())
        matrices = [master for master in self._masters.values() if master.dim() >= 2]
        vectors = [master for master in self._masters.values() if master.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    def step(self, row: MicroBatch) -> Step:
        """One optimizer step over one row."""
        total = self._model(**self.inputs(row))
        (total / row.num_supervised).backward()
        for name, parameter in self._parameters.items():
            self._masters[name].grad = parameter.grad.to(self._masters[name].dtype)
            parameter.grad = None
        gradient = torch.cat([master.grad.flatten() for master in self._masters.values()])  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(list(self._masters.values()), 1.0)
        self._optimizer.step()
        self._weights_from_masters()
        return Step(loss=float(total.detach()) / row.num_supervised, gradient=gradient)

    def inputs(self, row: MicroBatch) -> dict[str, Any]:
        """The arguments of the loss model's forward."""
        return model_inputs(row, self.device)

    def forward(self, **inputs: Any) -> Tensor:
        """What the model gives: the loss, or without labels the logits."""
        output: Tensor = self._model(**inputs)
        return output

    def masters(self) -> Tensor:
        """All fp32 weights as one vector."""
        return torch.cat([master.detach().flatten().cpu() for master in self._masters.values()])

    def state(self) -> list[Tensor]:
        """Masters and both moments, tensor by tensor."""
        return [tensor for name in self._masters for tensor in self._kinds(name).values()]

    @contextmanager
    def saved(self) -> Iterator[Reader]:
        """A reader of a checkpoint of this state, committed to a folder that is gone afterwards, every byte verified."""
        with TemporaryDirectory() as folder:
            store = CheckpointStore(DirectoryStorage(Path(folder)), identity="gpu", job="gpu").claimed()
            store.commit(1, [store.write_part(1, 0, self._pieces())], extra={})
            written = store.newest_verified()
            assert written is not None
            store.verify(written, deep=True)
            with store.reader(written) as reader:
                yield reader

    def load(self, reader: Reader) -> None:
        """Take the state of a checkpoint."""
        for name, master in self._masters.items():
            self._optimizer.state[master] = {
                "step": torch.tensor(2.0),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
            for kind, tensor in self._kinds(name).items():
                tensor.copy_(torch.from_numpy(reader.read(kind, name, 0, tensor.numel())).reshape(tensor.shape))
        self._weights_from_masters()

    def _kinds(self, name: str) -> dict[str, Tensor]:
        master = self._masters[name]
        return {"master": master.detach(), **{kind: self._optimizer.state[master][kind] for kind in ("exp_avg", "exp_avg_sq")}}

    def _pieces(self) -> Iterator[Piece]:
        for name in self._masters:
            for kind, tensor in self._kinds(name).items():
                data, shape = tensor.flatten().cpu().numpy(), tuple(tensor.shape)
                yield Piece(kind=kind, name=name, shape=shape, start=0, stop=len(data), data=data)

    @torch.no_grad()
    def _weights_from_masters(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self._masters[name])


@torch.no_grad()
def logits(trainer: Trainer, row: MicroBatch) -> Tensor:
    """Logits (T, V) of every token."""
    inputs = trainer.inputs(row)
    del inputs["supervised"], inputs["targets"]
    return trainer.forward(**inputs)


def random_row(sizes: Sizes, seed: int, dialogues: int = 6) -> MicroBatch:
    """A full row of dialogues of random lengths, two thirds of its tokens supervised."""
    drawn = np.random.default_rng(seed)
    edges = np.unique([0, *drawn.integers(1, sizes.row, dialogues - 1), sizes.row])
    ids, learnt = drawn.integers(0, sizes.words, sizes.row), drawn.random(sizes.row) < 2 / 3
    labels = np.where(learnt, np.roll(ids, -1), IGNORE_INDEX)
    labels[edges[1:] - 1] = IGNORE_INDEX
    lengths = np.diff(edges)
    return MicroBatch(
        input_ids=ids,
        labels=labels,
        position_ids=np.concatenate([np.arange(length) for length in lengths]),
        cu_seq_lens=edges.astype(np.int32),
        max_length=int(lengths.max()),
        num_supervised=int((labels != IGNORE_INDEX).sum()),
    )
