"""Restores of benchmarks/checkpoints.py: into an engine that is there, and by processes that begin again."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.checkpoints_places import make_engine, make_store, used
from benchmarks.checkpoints_steps import stepper

_WORKERS = ("--num_extract_workers", "2", "--num_merge_workers", "2")  # a core each


def restore(settings: dict[str, Any]) -> dict[str, Any]:
    """The newest checkpoint into an engine of this world size: ours, or what DeepSpeed saved."""
    from finetune_trainer.training.collectives import Ranks

    ranks, engine = Ranks(), make_engine(settings)
    return _converted(engine, ranks, settings) if settings["side"] == "deepspeed" else _ours(engine, ranks, settings)


def _ours(engine: Any, ranks: Any, settings: dict[str, Any]) -> dict[str, Any]:
    ranks.gathered(None)
    began, spent_before = time.monotonic(), used()
    taken_up(engine, ranks, settings)
    return {"seconds": _slowest(ranks, time.monotonic() - began), "processor_seconds": sum(ranks.gathered(used() - spent_before))}


def _converted(engine: Any, ranks: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's checkpoint of another world size, by ds_to_universal and load_checkpoint."""
    folder = Path(settings["folder"], "deepspeed")
    ranks.gathered(None)
    began, spent_before, converted = time.monotonic(), used(), 0.0
    if ranks.rank == 0:
        shutil.rmtree(folder / "universal", ignore_errors=True)
        child = sum(os.times()[2:4])
        folders = ["--input_folder", str(folder / "saved"), "--output_folder", str(folder / "universal")]
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *folders, *_WORKERS]
        subprocess.run(command, check=True, stdout=sys.stderr)
        converted = sum(os.times()[2:4]) - child
    ranks.gathered(None)
    conversion = time.monotonic() - began
    engine._engine._config.load_universal_checkpoint = True
    engine._engine.load_checkpoint(str(folder), tag="universal")
    spent = sum(ranks.gathered(used() - spent_before + converted))
    return {"seconds": _slowest(ranks, time.monotonic() - began), "conversion_seconds": conversion, "processor_seconds": spent}


def _slowest(ranks: Any, seconds: float) -> float:
    return max(ranks.gathered(seconds))


def taken_up(engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
    """As training/restoring.py does it."""
    from finetune_trainer.checkpoints.sharing import shared_folder

    store = make_store(settings, ranks)
    checkpoint = ranks.from_first(store.newest_verified)
    with store.reader(checkpoint) as reader:
        needs = reader.expect((piece.kind, piece.name, piece.start, piece.stop) for piece in engine.local_state())
        with shared_folder(ranks, store.claim.token, needs) as shared:
            if shared is not None:
                reader.share(*shared)
            engine.load_local_state(reader.read, step=checkpoint.step)
            ranks.gathered(None)


def restart(settings: dict[str, Any]) -> dict[str, Any]:
    """From the start of the processes to the end of the first step: when each part of it ended, on rank 0."""
    from finetune_trainer.training.collectives import Ranks

    launched, ends = float(os.environ["LAUNCHED"]), dict[str, float]()

    def ended(part: str) -> None:
        ends[part] = time.time() - launched

    ranks = Ranks()
    ended("libraries and process group")
    engine = make_engine(settings)
    ended("model and engine")
    taken_up(engine, ranks, settings)
    ended("restore")
    stepper(engine, settings)()
    ended("first step")
    return {"ends": ends}
