"""Published runs of another stack, foretold by our arithmetic from two of them. Prints one JSON object; needs no GPU.

    python -m benchmarks.published

llm-foundry (FSDP, FlashAttention, bf16) on A100s: MPT models on rows of 2,048 tokens of text, every token of which is learnt. Facts are
those of its table "A100 80GB / 40GB with 1600 Gbps node-node interconnect" (github.com/mosaicml/llm-foundry,
scripts/train/benchmarking/README.md at 061f2c7), all rows of models from 1 B up with that length. Two constants are fitted, on two runs of
one node; every other run is foretold: larger and smaller models, another card, 8 to 128 GPUs, with and without recomputation.

The recipe's run (about 85 steps in about 45 minutes on 8 x A100-80GB) is another stack's: its factor is told, and nothing is fitted on it.
"""

import json
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from finetune_api.accelerators import Accelerator, accelerator
from finetune_api.finetunejob import ModelShape, ZeroOptimization
from finetune_api.load import Load
from finetune_api.step_time import AT_BEST, RECIPE_SLOWDOWN, Stack, Work, speeds, step_time

LENGTH: Final = 2048
# Gb/s between nodes, as the table's title says.
NETWORK: Final = 1600e9 / 8
# (width, layers, heads); vocabulary 50,368, tied; learned positions; feed-forward four times as wide; no biases.
_MODELS: Final = {
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 20),
    "7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "30b": (7168, 48, 56),
    "70b": (8192, 80, 64),
}
_VOCABULARY: Final = 50_368


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the table."""

    model: str
    card: str
    gpus: int
    micro_batch: int
    recomputed: bool
    tokens_per_second: int
    """Of one GPU."""


# model, card, GPUs, rows of a micro-batch, recomputation, tokens a second of a GPU
RUNS: Final = (
    Run("70b", "a100-80gb", 64, 8, True, 410),
    Run("70b", "a100-80gb", 32, 2, True, 373),
    Run("30b", "a100-80gb", 8, 3, True, 916),
    Run("13b", "a100-80gb", 8, 2, False, 2262),
    Run("7b", "a100-80gb", 8, 6, False, 4641),
    Run("3b", "a100-80gb", 8, 10, False, 10811),
    Run("1b", "a100-80gb", 8, 14, False, 20513),
    Run("70b", "a100-40gb", 128, 4, True, 376),
    Run("70b", "a100-40gb", 64, 2, True, 276),
    Run("30b", "a100-40gb", 128, 6, True, 865),
    Run("30b", "a100-40gb", 32, 4, True, 857),
    Run("13b", "a100-40gb", 128, 16, True, 1972),
    Run("13b", "a100-40gb", 64, 16, True, 1976),
    Run("13b", "a100-40gb", 32, 14, True, 1998),
    Run("13b", "a100-40gb", 16, 10, True, 1993),
    Run("13b", "a100-40gb", 8, 4, True, 1668),
    Run("7b", "a100-40gb", 128, 18, True, 3623),
    Run("7b", "a100-40gb", 64, 18, True, 3665),
    Run("7b", "a100-40gb", 32, 18, True, 3725),
    Run("7b", "a100-40gb", 16, 16, True, 3645),
    Run("7b", "a100-40gb", 8, 12, True, 3679),
    Run("3b", "a100-40gb", 128, 6, False, 9538),
    Run("3b", "a100-40gb", 64, 6, False, 9736),
    Run("3b", "a100-40gb", 32, 6, False, 9914),
    Run("3b", "a100-40gb", 16, 5, False, 9750),
    Run("3b", "a100-40gb", 8, 5, False, 10065),
    Run("1b", "a100-40gb", 128, 10, False, 18647),
    Run("1b", "a100-40gb", 64, 10, False, 19001),
    Run("1b", "a100-40gb", 32, 10, False, 15555),
    Run("1b", "a100-40gb", 16, 8, False, 19085),
    Run("1b", "a100-40gb", 8, 8, False, 19271),
)
# One card, one node, no recomputation; far apart in width, which is what the two constants differ by.
FITTED_ON: Final = (RUNS[4], RUNS[6])


def main() -> None:
    print(json.dumps(measure(), indent=1))


def measure() -> dict[str, Any]:
    """The constants, every other run beside what is foretold of it, and our plan of the recipe's run."""
    stack = fitted(FITTED_ON)
    told = [_row(run, stack) for run in RUNS if run not in FITTED_ON]
    errors = [abs(row["error"]) for row in told]
    return {
        "fitted_on": [_row(run, stack) for run in FITTED_ON],
        "products": stack.products,
        "moved_bytes": stack.moved_bytes,
        "in_use": {"products": AT_BEST.products, "moved_bytes": AT_BEST.moved_bytes, "recipe_slowdown": RECIPE_SLOWDOWN},
        "foretold": told,
        "median_error": median(errors),
        "within_10": sum(error <= 0.10 for error in errors),
        "within_15": sum(error <= 0.15 for error in errors),
        "recipe": recipe(stack),
    }


def fitted(runs: tuple[Run, Run]) -> Stack:
    """The stack whose two constants give these two runs' times: linear in 1 / products and in moved_bytes, so one solution."""

    def parts(run: Run) -> tuple[float, float, float]:
        """Seconds at products = 1 and moved_bytes = 1, of each, and what is left of the measured time: communication and update."""
        terms = {term.name: term.seconds for term in _time(run, replace(AT_BEST, products=1.0, moved_bytes=1.0)).terms}
        moved = terms["activations moved"]
        rest = {name: terms[name] for name in ("communication, not hidden", "optimizer's update") if name in terms}
        return sum(terms.values()) - moved - sum(rest.values()), moved, _seen(run) - sum(rest.values())

    (a, b, c), (d, e, f) = (parts(run) for run in runs)
    determinant = a * e - b * d
    return replace(AT_BEST, products=determinant / (c * e - b * f), moved_bytes=(a * f - c * d) / determinant)


def shape(model: str) -> ModelShape:
    """An MPT model's numbers."""
    width, layers, heads = _MODELS[model]
    return ModelShape(
        architecture="GPT2LMHeadModel",  # a plain feed-forward layer, as MPT's
        layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        attention_heads=heads,
        key_value_heads=heads,
        head_size=width // heads,
        vocabulary_size=_VOCABULARY,
        positions=LENGTH,
        parameters=12 * layers * width**2 + (_VOCABULARY + LENGTH) * width,
    )


def _time(run: Run, stack: Stack) -> Any:
    """One micro-step."""
    card = _card(run.card)
    load = Load(
        shape=shape(run.model),
        zero=ZeroOptimization(),
        device="gpu",
        precision="bf16",
        world_size=run.gpus,
        tokens=run.micro_batch * LENGTH,
        checkpointing=run.recomputed,
    )
    work = Work(load=load, nodes=max(1, run.gpus // 8), micro_steps=1, length=float(LENGTH))
    return step_time(work, speeds(card, card.bf16_flops or 0.0, NETWORK, slowest=False), stack)


def _card(name: str) -> Accelerator:
    found = accelerator(name)
    assert found is not None, name
    return found


def _seen(run: Run) -> float:
    """Seconds of a micro-step."""
    return run.micro_batch * LENGTH / run.tokens_per_second


def _row(run: Run, stack: Stack) -> dict[str, Any]:
    planned = run.micro_batch * LENGTH / _time(run, stack).seconds
    return {
        "model": run.model,
        "card": run.card,
        "gpus": run.gpus,
        "micro_batch": run.micro_batch,
        "recomputed": run.recomputed,
        "seen": run.tokens_per_second,
        "planned": planned,
        "error": planned / run.tokens_per_second - 1,
    }


def recipe(stack: Stack) -> dict[str, Any]:
    """StarChat alpha on 1, 2, 4 and 8 nodes of 8 x A100-80GB as `finetune plan` tells it, and the published run's own factor."""
    from pathlib import Path

    from finetune_api.jobfile import load_job
    from finetune_api.plan import Machine, assumed_data, plan

    job = load_job(Path(__file__).parents[1] / "examples/starchat-alpha.yaml", ())
    data = assumed_data(7_440_000, 1024)
    # Dialogues of 391 tokens in the mean, as 626 of the real ones; what attention costs follows from squares, which spread doubles.
    train = data.train.model_copy(update={"squared_lengths": 7_440_000 * 2 * 391})
    data = data.model_copy(update={"train": train})
    nodes = {}
    for number in (1, 2, 4, 8):
        workers = job.spec.workers.model_copy(update={"nodes": number})
        training = job.spec.training.model_copy(update={"micro_batch_size": 4})
        changed = job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers, "training": training})})
        found = plan(changed, job.spec.model.shape, data, Machine(network_bandwidth=NETWORK if number > 1 else None))
        assert found.timing is not None
        nodes[str(number)] = {
            "steps": found.total_steps,
            "seconds": (found.timing.best_seconds, found.seconds),
            "mfu": (found.timing.best_mfu, found.timing.mfu),
            "gpu_hours": (found.best_gpu_hours, found.gpu_hours),
        }
    best = nodes["1"]["seconds"][0]
    return {"nodes": nodes, "published_minutes": 45, "factor": 45 * 60 / best if best else None, "products": stack.products}


if __name__ == "__main__":
    main()
