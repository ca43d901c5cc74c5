"""How fast a step of the trainer's own engine is and what it takes of the GPU's memory, beside plain Transformers on the same dialogues.

Ours: `PlainEngine`, rows of packed dialogues, supervised tokens alone before the head. Theirs: the same weights, the row's dialogues padded
to the longest, the model's own loss under autocast. Both have fp32 masters, compute in bf16, recompute activations and use torch's AdamW.
MFU counts what has to be computed: no padding, no recomputation, the head for supervised tokens only.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from tests.gpu.training import LEARNING_RATE, Sizes, config_of, random_row

from finetune_trainer.model.attention import ATTENTION, register
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.training.plain_engine import PlainEngine

WARM_UP = 3
DIALOGUES = 16
# What the trial finds right for GPTBigCode.
METHOD = Method(last_layer=("attn.c_proj", "mlp"))
# About 1 B parameters with 24 layers; fewer where they don't fit.
LARGE = {"width": 1_792, "heads": 14, "words": 49_152, "row": 8_192}
LAYERS = (24, 12, 6, 2)

Step = Callable[[MicroBatch], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """`seconds`: of the measured steps. `flops`: that they need. `squared_lengths`: of their dialogues, added up. `peak_bytes`: of the
    GPU's memory, 0 where there is none.
    """

    name: str
    parameters: int
    tokens: int
    seconds: float
    flops: float
    squared_lengths: int
    peak_bytes: int
    last_loss: float


def engine(
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    *,
    seed: int,
    checkpointing: bool = True,
    optimizer: str = "adamw",
    recompute_every: int | None = None,
) -> PlainEngine:
    """The engine that trains with one GPU, with a random GPTBigCode: the same weights on every device."""
    settings = training(checkpointing=checkpointing, optimizer=optimizer)
    return PlainEngine(random_model(sizes, seed).to(dtype), settings, method=METHOD, device=device, recompute_every=recompute_every)


def training(*, checkpointing: bool = True, optimizer: str = "adamw") -> Any:
    """What engines read of a job's settings, for machines without pydantic."""
    settings = SimpleNamespace(name=optimizer, weight_decay=0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, gradient_clipping=1.0)
    return SimpleNamespace(activation_checkpointing=checkpointing, tf32=False, adapter=None, seed=0, optimizer=settings)


def random_model(sizes: Sizes, seed: int, attention: str = ATTENTION) -> Any:
    """On the CPU, in fp32, in training mode; the same weights each time."""
    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config_of(sizes), attn_implementation=attention).train()


def ours(sizes: Sizes, device: torch.device) -> Step:
    """A step of the engine."""
    trained = engine(sizes, device, torch.bfloat16, seed=0)
    return lambda row: trained.train_step([row], num_supervised=row.num_supervised, learning_rate=LEARNING_RATE).loss


def plain_transformers(sizes: Sizes, device: torch.device) -> Step:
    """A step as most would write it."""
    model = random_model(sizes, 0, "sdpa").to(device)
    # Transformers before 5 has it under the other name only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1, fused=device.type == "cuda")

    def step(row: MicroBatch) -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(**padded(row, device), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def padded(row: MicroBatch, device: torch.device) -> dict[str, torch.Tensor]:
    """The dialogues of a row as a batch for a model of Transformers, whose loss shifts labels itself."""
    spans = list(pairwise(row.cu_seq_lens.tolist()))
    ids, mask = (torch.zeros(len(spans), row.max_length, dtype=torch.int64) for _ in range(2))
    labels = torch.full_like(ids, IGNORE_INDEX)
    for index, (start, stop) in enumerate(spans):
        ids[index, : stop - start] = torch.from_numpy(row.input_ids[start:stop])
        mask[index, : stop - start] = 1
        labels[index, 1 : stop - start] = torch.from_numpy(row.labels[start : stop - 1])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def measured(name: str, make: Callable[[Sizes, torch.device], Step], sizes: Sizes, device: torch.device, *, steps: int) -> Speed:
    """`steps` steps after some that choose kernels."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step, rows = make(sizes, device), [random_row(sizes, seed, dialogues=DIALOGUES) for seed in range(WARM_UP + steps)]
    for row in rows[:WARM_UP]:
        step(row)
    started = time.perf_counter()
    losses = [step(row) for row in rows[WARM_UP:]]  # a number each: the GPU has done it
    return Speed(
        name=name,
        parameters=parameters(sizes),
        tokens=sum(len(row.input_ids) for row in rows[WARM_UP:]),
        seconds=time.perf_counter() - started,
        flops=sum(flops(sizes, row) for row in rows[WARM_UP:]),
        squared_lengths=sum(length**2 for row in rows[WARM_UP:] for length in lengths(row)),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        last_loss=losses[-1],
    )


def layer_parameters(sizes: Sizes) -> int:
    """Matrices of a layer with one key and value head, without biases and norms."""
    head = sizes.width // sizes.heads
    return sizes.width * (2 * sizes.width + 2 * head) + 8 * sizes.width * sizes.width


def parameters(sizes: Sizes) -> int:
    """Of the model, tied tables of tokens once."""
    return sizes.layers * layer_parameters(sizes) + (sizes.words + sizes.row) * sizes.width


def lengths(row: MicroBatch) -> list[int]:
    """Tokens of each dialogue."""
    return [stop - start for start, stop in pairwise(row.cu_seq_lens.tolist())]


def flops(sizes: Sizes, row: MicroBatch) -> float:
    """What forward and backward of a row need: three times the forward; attention's half that looks back."""
    matrices = 2.0 * sizes.layers * layer_parameters(sizes) * len(row.input_ids) + 2.0 * sizes.words * sizes.width * row.num_supervised
    attention = 2.0 * sizes.layers * sizes.width * sum(length * length for length in lengths(row))
    return 3.0 * (matrices + attention)


def speed_sizes(device: torch.device) -> Sizes:
    """The largest that fits with room to spare: 20 bytes a parameter, and logits and activations of plain Transformers' batch."""
    free = torch.cuda.get_device_properties(device).total_memory * 0.8 - 24 * 2**30
    fitting = [sizes for layers in LAYERS if 20 * parameters(sizes := Sizes(layers=layers, **LARGE)) <= free]
    return fitting[0] if fitting else Sizes(layers=6, width=1_024, heads=8, words=49_152, row=2_048)
