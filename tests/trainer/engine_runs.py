"""What test_engine.py runs on each rank: several checks in one process group, because starting one costs half a minute.

A PlainEngine knows no process group: on each rank it trains on all rows, as one worker would.
"""

import time
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from tests.trainer.architectures import EMPTY, packed, random_rows
from tests.trainer.golden import curve

from finetune_api.engines import EngineName
from finetune_api.finetunejob import Offload, Optimizer, Training, ZeroOptimization
from finetune_trainer.model.build import build_model
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.model.precision import Precision
from finetune_trainer.training.engine import DTYPES, KINDS, Engine, NonFiniteStep
from finetune_trainer.training.engines import make_engine
from finetune_trainer.training.own_time import OwnTime
from finetune_trainer.training.plain_engine import PlainEngine

State = dict[str, np.ndarray[Any, Any]]
STEPS = 2
TOO_LARGE = 2.0**24  # a scale of losses with which gradients overflow in fp16
CURVE = 12  # steps of the curves that engines are compared by
SLOW_SECONDS = 0.3  # of each call of a slow rank's head
ROWS = 5  # an uneven number, so that some ranks get empty micro-batches


def engine(
    folder: Path,
    *,
    name: EngineName = "zero3",
    precision: Precision = "fp32",
    dropout: float = 0.0,
    seed: int = 1,
    random: bool = False,
    restored: bool = False,
    offload: bool = False,
) -> Engine:
    """An engine that partitions everything but biases and norms, clips, and decays; `restored`: it begins without values."""
    place = Offload(device="cpu", pin_memory=False) if offload else Offload()
    training = Training(
        micro_batch_size=1,
        seed=seed,
        activation_checkpointing=True,
        sharding="zero2" if name == "zero2" else "zero3",
        deepspeed=ZeroOptimization(stage3_param_persistence_threshold=60, offload_optimizer=place, offload_param=place),
        optimizer=Optimizer(weight_decay=0.1, gradient_clipping=0.5, epsilon=1e-6),
    )
    model = build_model(
        folder,
        initialization="random" if random else "pretrained",
        seed=seed,
        dropout=dropout,
        vocabulary_size=0,
        dtype=DTYPES[precision],
        reads=name == "plain" or dist.get_rank() == 0,
        by_range=name == "zero3",
        restored=restored,
    )
    return make_engine(name, model, training, precision=precision, method=Method())


def share(trained: Engine, rows: list[MicroBatch]) -> list[MicroBatch]:
    """This rank's rows, equally many on each; all of them where there is one worker."""
    if isinstance(trained, PlainEngine):
        return rows
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = rows[rank::size]
    return mine + [EMPTY] * (-(-len(rows) // size) - len(mine))


def steps(trained: Engine, count: int, learning_rate: float = 1e-2) -> list[tuple[float, float]]:
    """(loss, gradient norm) of the next steps; the data of a step depends on its number alone."""
    results = []
    for _ in range(count):
        rows = random_rows(ROWS, seed=trained.step)
        result = trained.train_step(
            share(trained, rows), num_supervised=sum(row.num_supervised for row in rows), learning_rate=learning_rate
        )
        results.append((result.loss, result.grad_norm))
    return results


def whole_state(trained: Engine) -> State:
    """Every tensor of the state, whole, on every rank; keys are `kind/name`. NaN where no rank had a piece."""
    pieces = [(p.kind, p.name, p.start, p.stop, p.tensor.numpy().copy()) for p in trained.local_state()]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, pieces)
    state = {f"{kind}/{name}": np.full(shape, np.nan, np.float32) for name, shape in trained.shapes.items() for kind in KINDS}
    for kind, name, start, stop, values in (piece for one in everyone for piece in one):
        state[f"{kind}/{name}"].reshape(-1)[start:stop] = values
    return state


def restore(trained: Engine, state: State, step: int) -> None:
    """Put a whole state back."""
    trained.load_local_state(lambda kind, name, start, stop: state[f"{kind}/{name}"].reshape(-1)[start:stop], step=step)


def logits(trained: Engine) -> np.ndarray[Any, Any]:
    """Logits of one fixed row."""
    return trained.logits(random_rows(1, seed=99)[0]).numpy()


def train_save_restore(folder: Path, precision: Precision, dropout: float) -> dict[str, Any]:
    """Train some steps, copy the state, train as many more; then the same from the copy in an engine with other random weights."""
    first = engine(folder, precision=precision, dropout=dropout)
    before = logits(first)
    early = steps(first, STEPS)
    saved, saved_logits = whole_state(first), logits(first)
    late = steps(first, STEPS)
    rows = random_rows(5, seed=50)
    evaluation = first.evaluate(share(first, rows))
    second = engine(folder, precision=precision, dropout=dropout, random=True)
    other_logits = logits(second)
    restore(second, saved, STEPS)
    return {
        "before": before,
        "early": early,
        "late": late,
        "saved": saved,
        "final": whole_state(first),
        "evaluation": evaluation,
        "saved_logits": saved_logits,
        "other_logits": other_logits,
        "restored_logits": logits(second),
        "restored_late": steps(second, STEPS),
        "restored_final": whole_state(second),
    }


def resume(folder: Path, saved: State) -> dict[str, Any]:
    """From a state that another world size wrote: logits, then some steps."""
    resumed = engine(folder, restored=True, seed=5)
    restore(resumed, saved, STEPS)
    return {"logits": logits(resumed), "late": steps(resumed, STEPS), "final": whole_state(resumed)}


def beside_plain(
    folder: Path, name: EngineName, precision: Precision = "fp32", dropout: float = 0.0, offload: bool = False
) -> dict[str, Any]:
    """An engine over all ranks and the plain one: their curves, then one of each goes on from what the other left, and gives it back."""
    divided = engine(folder, name=name, precision=precision, dropout=dropout, offload=offload)
    plain = engine(folder, name="plain", precision=precision, dropout=dropout)
    curves = {"divided": steps(divided, CURVE), "plain": steps(plain, CURVE)}
    states = {"divided": whole_state(divided), "plain": whole_state(plain)}
    rows = random_rows(5, seed=50)
    evaluations = [one.evaluate(share(one, rows)) for one in (divided, plain)]
    divided = engine(folder, name=name, precision=precision, dropout=dropout, offload=offload, restored=True)
    plain = engine(folder, name="plain", precision=precision, dropout=dropout, restored=True)
    restore(plain, states["divided"], CURVE)
    restore(divided, states["plain"], CURVE)
    return {
        "curves": curves,
        "states": states,
        "taken_up": {"divided": whole_state(divided), "plain": whole_state(plain)},
        "evaluations": evaluations,
        "logits": [logits(one) for one in (divided, plain)],
        "late": {"divided": steps(divided, STEPS), "plain": steps(plain, STEPS)},
    }


def halves(folder: Path, name: EngineName) -> dict[str, Any]:
    """Steps in fp16 that begin with too large a scale: the curve, and the scale that is left."""
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed (0.19.8) refuses fp16 where oneDNN has no kernels for it, as on CPUs without AVX512-FP16; torch computes it on all.
    with patch.object(get_accelerator(), "is_fp16_supported", lambda: True):
        trained: Any = engine(folder, name=name, precision="fp16")
    if name == "plain":
        trained._scaler = torch.amp.GradScaler("cpu", TOO_LARGE)
    else:
        trained._zero.loss_scaler.cur_scale = TOO_LARGE
    curve = steps(trained, CURVE)
    scale = trained._scaler.get_scale() if name == "plain" else trained._zero.loss_scale
    return {"curve": curve, "scale": scale, "steps": trained.step}


def isolation(folder: Path) -> dict[str, Any]:
    """Change one dialogue of a row: logits of the others, and the training step when only the others count."""
    trained = engine(folder)
    kept, old, new, last = [3, 5, 7, 11, 2], [9, 8, 1, 4], [6, 2, 2, 10], [12, 13, 14]
    rows = [packed(kept, middle, last, supervised=(True, False, True)) for middle in (old, new)]
    results = [trained.train_step([row], num_supervised=2 * row.num_supervised, learning_rate=0.0) for row in rows]
    return {"logits": [trained.logits(row).numpy() for row in rows], "steps": [(r.loss, r.grad_norm) for r in results]}


def groupings(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The same dialogues as separate rows, packed into rows, and with several rows in a micro-batch: some steps each."""
    generator = np.random.default_rng(3)
    dialogues = [generator.integers(0, 61, size).tolist() for size in generator.integers(2, 12, 12)]
    arrangements = {
        "unpacked": [packed(d) for d in dialogues],
        "packed": [packed(*dialogues[i : i + 3]) for i in range(0, 12, 3)],
        "one": [packed(*dialogues[:6]), packed(*dialogues[6:])],
    }
    results = {}
    for name, rows in arrangements.items():
        trained = engine(folder)
        supervised = sum(row.num_supervised for row in rows)
        made = [trained.train_step(share(trained, rows), num_supervised=supervised, learning_rate=1e-2) for _ in range(STEPS)]
        results[name] = [(result.loss, result.grad_norm) for result in made]
    return results


def not_finite(folder: Path) -> dict[str, Any]:
    """A loss that is not finite is refused and leaves the state as it was."""
    trained = engine(folder)
    state = whole_state(trained)
    state["master/" + next(name for name in trained.shapes if name.endswith("ln_f.weight"))][:] = np.inf
    restore(trained, state, step=4)
    before = whole_state(trained)
    try:
        steps(trained, 1)
    except NonFiniteStep as error:
        return {"message": str(error), "losses": error.losses, "before": before, "after": whole_state(trained), "step": trained.step}
    raise AssertionError("the step was taken")


def warned(folder: Path) -> list[tuple[str, str]]:
    """File and words of every warning of a step, and of one that anybody else gives meanwhile."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        steps(engine(folder), 1)
        warnings.warn("a word for programmers", FutureWarning, stacklevel=1)
    return [(Path(one.filename).name, str(one.message)) for one in seen]


def own_time(folder: Path) -> tuple[float | None, float | None]:
    """Seconds a token of this rank's head, in a step and in none. The second rank's head is a slow one."""
    trained = engine(folder)
    head = trained.head
    assert head is not None
    watch = OwnTime(head, trained.device)
    if dist.get_rank() == 1:
        head.register_forward_pre_hook(lambda *ignored: time.sleep(SLOW_SECONDS))
    steps(trained, 1)
    return watch.take(), watch.take()


def two_ranks(gpt_bigcode: Path, llama: Path, golden: Path) -> dict[str, Any]:
    """Everything that is tried on two ranks."""
    return {
        "gpt_bigcode": train_save_restore(gpt_bigcode, "fp32", dropout=0.0),
        "dropout": train_save_restore(gpt_bigcode, "fp32", dropout=0.1),
        "bf16": train_save_restore(llama, "bf16", dropout=0.0),
        "fp16": {name: halves(llama, name) for name in ("plain", "zero3", "zero2")},
        "isolation": {"gpt_bigcode": isolation(gpt_bigcode), "llama": isolation(llama)},
        "groupings": groupings(llama),
        "golden": curve(engine(golden), dist.get_rank(), dist.get_world_size(), micro_batch_size=2),
        "not_finite": not_finite(gpt_bigcode),
        "beside_plain": {
            "fp32": beside_plain(gpt_bigcode, "zero3"),
            "bf16": beside_plain(llama, "zero3", precision="bf16"),
            "dropout": beside_plain(gpt_bigcode, "zero3", dropout=0.1),
            "zero2": beside_plain(gpt_bigcode, "zero2"),
            "zero2 bf16": beside_plain(llama, "zero2", precision="bf16"),
            "offload": beside_plain(gpt_bigcode, "zero3", offload=True),
            "offload bf16": beside_plain(llama, "zero3", precision="bf16", offload=True),
            "zero2 offload": beside_plain(gpt_bigcode, "zero2", offload=True),
            "zero2 offload bf16": beside_plain(llama, "zero2", precision="bf16", offload=True),
        },
        "own_time": own_time(llama),
        "warned": warned(gpt_bigcode),
        "threads": torch.get_num_threads(),
    }


def other_ranks(gpt_bigcode: Path, golden: Path, saved: State) -> dict[str, Any]:
    """The same from the start, and from the state that two ranks saved."""
    return {
        "resumed": resume(gpt_bigcode, saved),
        "early": steps(engine(gpt_bigcode), STEPS),
        "golden": curve(engine(golden), dist.get_rank(), dist.get_world_size(), micro_batch_size=2),
    }
