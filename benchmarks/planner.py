"""What the planner foretells, beside what is measured: a small model on this machine's CPUs. Prints one JSON object.

    python -m benchmarks.planner [--steps 6] [--wait 30] [--keep FOLDER] [--page docs/benchmarks.md]

Calibrated on one configuration (`finetune plan --calibrate` does the same with a run), it foretells seven others: ZeRO-2 and ZeRO-3, with
and without recomputation, micro-batches of 1 and 4 rows, one worker and two, full training and LoRA. A random Llama (4 layers, 256 wide,
vocabulary 16,384), fp32, one thread a worker, 8 packed rows of up to 1,024 tokens a step, half of the tokens supervised. Every
configuration is a process group of its own, through the engine that a run would have.

Memory is what a worker's process holds at most while it trains, with malloc giving back what is freed, above what it held before the
model: when all libraries are loaded and an engine of a tiny model has taken a step. Time is the median step; processor seconds of
rank 0 stand beside it, which others' work on the machine hardly changes.
"""

import argparse
import gc
import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.machine import least_disturbed, measured
from benchmarks.planner_document import planner_section
from benchmarks.sections import Kept, provenance, with_section

from benchmarks import published

if TYPE_CHECKING:
    from finetune_api.calibration import Calibration
    from finetune_api.training_run import TrainingRun

PACKAGES: Final = ["finetune-operator", "torch", "transformers", "deepspeed", "peft"]
LENGTH: Final = 1024
ROWS: Final = 8
SUPERVISED: Final = 0.5
WARM_UP: Final = 2
LLAMA: Final = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 16_384, "max_position_embeddings": LENGTH, "tie_word_embeddings": False,
}  # fmt: skip
TINY: Final = {**LLAMA, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}

_BASE: Final = {"world": 2, "sharding": "zero3", "recomputed": False, "micro_batch": 1, "method": "full"}
# The first is calibrated on; each other differs in what its name says.
CONFIGURATIONS: Final[dict[str, dict[str, Any]]] = {
    "ZeRO-3, 2 workers": _BASE,
    "ZeRO-2": {**_BASE, "sharding": "zero2"},
    "recomputation": {**_BASE, "recomputed": True},
    "micro-batch 4": {**_BASE, "micro_batch": 4},
    "1 worker": {**_BASE, "world": 1},
    "LoRA": {**_BASE, "method": "lora"},
    "LoRA, 1 worker, micro-batch 4": {**_BASE, "world": 1, "method": "lora", "micro_batch": 4},
    "ZeRO-2, recomputation, micro-batch 4": {**_BASE, "sharding": "zero2", "recomputed": True, "micro_batch": 4},
}


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_group(options.worker, Path(options.folder), options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), planner_section(found)), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=6, help=f"measured steps, after {WARM_UP} to warm up")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, help="of the configurations, besides the first")
    parser.add_argument("--keep", type=Path, help="folder of figures: what an earlier call measured isn't measured again")
    parser.add_argument("--page", type=Path, help="file whose section is written anew")
    parser.add_argument("--worker", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every configuration as it was planned and seen; the first says by how much others are to be corrected."""
    from finetune_api.calibration import Seen, calibration
    from finetune_api.plan import replanned

    for name, config in (("model", LLAMA), ("tiny", TINY)):
        (folder / name).mkdir()
        written = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "pad_token_id": 0, "bos_token_id": None, **config}
        (folder / name / "config.json").write_text(json.dumps({**written, "eos_token_id": None}))
    first, *others = [name for name in CONFIGURATIONS if not options.only or name in options.only or name == next(iter(CONFIGURATIONS))]
    kept = Kept(options.keep, {"steps": options.steps, "llama": LLAMA, "rows": ROWS, "length": LENGTH})
    seen = {name: kept(name.replace(" ", "-"), lambda name=name: _measured(name, folder, options)) for name in (first, *others)}  # type: ignore[misc]
    run = run_of(CONFIGURATIONS[first])
    numbers = {"memory_bytes": seen[first]["peak_bytes"], "footprint_bytes": seen[first]["footprint_bytes"]}
    calibrated, by_processor = (
        calibration([Seen(plan=replanned(run), step_seconds=seen[first][name], **numbers)]) for name in ("step_seconds", "cpu_seconds")
    )
    assert calibrated is not None
    assert by_processor is not None
    return {
        "llama": LLAMA,
        "rows": ROWS,
        "length": LENGTH,
        "steps": options.steps,
        "calibrated_on": first,
        "factors": {"step": calibrated.step, "beside_bytes": calibrated.beside_bytes},
        "published": published.measure(),
        "configurations": {name: _beside(name, seen[name], calibrated, by_processor) for name in seen},
        **provenance(PACKAGES),
    }


def _beside(name: str, seen: dict[str, Any], calibrated: "Calibration", by_processor: "Calibration") -> dict[str, Any]:
    """Planned and seen, and by how much they differ."""
    from finetune_api.plan import Machine, plan

    run = run_of(CONFIGURATIONS[name])
    found = plan(run.job, run.model_shape, run.data, Machine(fast_bf16=False), calibrated)
    again = plan(run.job, run.model_shape, run.data, Machine(fast_bf16=False), by_processor)
    assert found.memory is not None
    assert found.timing is not None
    assert again.timing is not None
    runtime = next(term.bytes for term in found.memory.terms if term.name == "runtime")
    above, seen_above = found.memory.total_bytes - runtime, seen["peak_bytes"] - seen["footprint_bytes"]
    return {
        **seen,
        "planned_step_seconds": found.timing.seconds_per_step,
        "step_error": found.timing.seconds_per_step / seen["step_seconds"] - 1,
        "cpu_error": again.timing.seconds_per_step / seen["cpu_seconds"] - 1,
        "planned_above_bytes": above,
        "above_bytes": seen_above,
        "memory_error": above / seen_above - 1,
        "time_terms": {term.name: term.seconds for term in found.timing.terms},
        "memory_terms": {term.name: term.bytes for term in found.memory.terms},
    }


def run_of(settings: dict[str, Any]) -> "TrainingRun":
    """A run of that configuration, as the trainer would get it."""
    from finetune_api.finetunejob import FineTuneJob
    from finetune_api.model_shape import shape_from_config
    from finetune_api.plan import Machine, plan
    from finetune_api.training_run import DataShape, SplitShape, TrainingRun, Vocabulary, run_identity

    spec = {
        "model": {"name": "./model"},
        "dataset": {"sources": [{"path": "./none.jsonl"}]},
        "training": {
            "method": settings["method"],
            "sharding": settings["sharding"],
            "microBatchSize": settings["micro_batch"],
            "globalBatchSize": ROWS,
            "maxSequenceLength": LENGTH,
            "maxSteps": 10,
            "activationCheckpointing": settings["recomputed"],
            "precision": "fp32",
        },
        "workers": {"device": "cpu", "nodes": 1, "gpusPerNode": 0, "workersPerNode": settings["world"]},
    }
    job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "benchmark"}, "spec": spec}
    found = FineTuneJob.model_validate(job)
    rows = [row for step in range(10) for row in rows_of(step)]
    lengths = [length for row in rows for length in row]
    split = SplitShape(
        dialogues=len(lengths),
        segments=len(lengths),
        tokens=sum(lengths),
        supervised_tokens=int(SUPERVISED * sum(lengths)),
        rows=len(rows),
        squared_lengths=sum(length**2 for length in lengths),
    )
    data = DataShape(fingerprint="0" * 64, train=split)
    shape = shape_from_config({"architectures": ["LlamaForCausalLM"], **LLAMA})
    return TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="0" * 40,
        model_shape=shape,
        vocabulary=Vocabulary(size=LLAMA["vocab_size"]),
        data=data,
        plan=plan(found, shape, data, Machine(fast_bf16=False)),
    )


def rows_of(step: int) -> list[list[int]]:
    """Lengths of the dialogues in each row of a step: full rows."""
    generator, rows = random.Random(step), []
    for _ in range(ROWS):
        row: list[int] = []
        while (left := LENGTH - sum(row)) > 0:
            row.append(min(left, generator.randint(100, 600)))
        rows.append(row)
    return rows


def _measured(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time as it is, and memory in processes of their own, in which malloc gives back what is freed.

    glibc raises the size from which a block goes back with each that does, and would keep several times what tensors take.
    """
    command = [sys.executable, "-m", "benchmarks.planner", "--worker", name, "--folder", str(folder), "--steps"]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    timed = least_disturbed(name, lambda _: measured([*command, str(options.steps)], environment), options.wait)
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    held = measured([*command, "1"], environment | given_back)
    return timed | {memory: held[memory] for memory in ("peak_bytes", "footprint_bytes")}


# ---- in the workers


def _group(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """What rank 0 measured. Every rank is a new process, as under Ray."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    world = CONFIGURATIONS[name]["world"]
    ranks = [context.Process(target=_rank, args=(rank, port, name, folder, steps, results)) for rank in range(world)]
    for one in ranks:
        one.start()
    found: dict[str, Any] = results.get()
    for one in ranks:
        one.join()
    return found


def _rank(rank: int, port: int, name: str, folder: Path, steps: int, results: Any) -> None:
    import torch
    import torch.distributed as dist

    settings = CONFIGURATIONS[name]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(settings["world"]), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=settings["world"])
    run = run_of(settings)
    _steps(_engine(run, folder / "tiny", rank), rank, settings, TINY["vocab_size"], 1)
    gc.collect()
    footprint = _memory("VmRSS")
    engine = _engine(run, folder / "model", rank)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # from here on VmHWM is counted anew
    spent = _steps(engine, rank, settings, LLAMA["vocab_size"], WARM_UP + steps)[WARM_UP:]
    if rank == 0:
        wall, processor = (statistics.median(times) for times in zip(*spent, strict=True))
        found = {"step_seconds": wall, "cpu_seconds": processor, "footprint_bytes": footprint, "peak_bytes": _memory("VmHWM")}
        results.put({**found, "all_seconds": [seconds for seconds, _ in spent]})
    dist.barrier()
    dist.destroy_process_group()


def _engine(run: "TrainingRun", folder: Path, rank: int) -> Any:
    from finetune_api.engines import engine_name
    from finetune_trainer.model.build import build_model
    from finetune_trainer.model.method import Method
    from finetune_trainer.training.engine import DTYPES
    from finetune_trainer.training.engines import make_engine

    training = run.job.spec.training
    model = build_model(folder, initialization="random", seed=0, dropout=0.0, vocabulary_size=0, dtype=DTYPES["fp32"], reads=rank == 0)
    if training.adapter is not None:
        from finetune_trainer.model.adapters import adapt

        adapt(model, run, reads=rank == 0)
    return make_engine(engine_name(training, run.plan.world_size), model, training, precision="fp32", method=Method())


def _steps(engine: Any, rank: int, settings: dict[str, Any], vocabulary: int, count: int) -> list[tuple[float, float]]:
    """Seconds of each step, and processor seconds of this rank."""
    from finetune_trainer.training.batches import micro_batch

    spent, size = [], settings["micro_batch"]
    for step in range(count):
        rows = [_Row(lengths, vocabulary) for lengths in rows_of(step)]
        mine = rows[rank :: settings["world"]]
        batches = []
        for start in range(0, len(mine), size):
            joined = _Row([length for row in mine[start : start + size] for length in row.lengths], vocabulary)
            batches.append(micro_batch(joined, range(len(joined.lengths))))
        supervised = sum(int(sum(row.supervised_counts)) for row in rows)
        began, worked = time.perf_counter(), time.process_time()
        engine.train_step(batches, num_supervised=supervised, learning_rate=1e-4)
        spent.append((time.perf_counter() - began, time.process_time() - worked))
    return spent


class _Row:
    """Random dialogues as `batches.Examples`: the second half of each is supervised."""

    def __init__(self, lengths: list[int], vocabulary: int) -> None:
        import numpy as np

        generator = np.random.default_rng(sum(lengths))
        self.lengths = np.array(lengths)
        self._ids = [generator.integers(3, vocabulary, length) for length in lengths]
        self.supervised_counts = np.array([int(SUPERVISED * length) for length in lengths])

    def ids(self, index: int) -> Any:
        return self._ids[index]

    def labels(self, index: int) -> Any:
        labels = self._ids[index].copy()
        labels[: len(labels) - self.supervised_counts[index]] = -100
        return labels


def _memory(field: str) -> int:
    """Of this process, as the kernel counts it."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, field
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
