"""What the acts of benchmarks/checkpoints.py share: an engine, a store of checkpoints, and boto3 as a script would use it.

Of an earlier commit's trainer (PYTHONPATH) only the side "before" is run: this file asks either of them for no more than they have.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BUCKET = "finetune-benchmarks"
PARALLEL, PART_BYTES = 4, 8 * 2**20  # of our uploads, and so of the others'
_IDENTITY, _JOB = "b" * 64, "benchmark"


def make_engine(settings: dict[str, Any]) -> Any:
    """ZeRO-3 in fp32, of a model with random weights."""
    import torch
    import torch.distributed as dist

    from finetune_api.finetunejob import Training
    from finetune_trainer.model.build import build_model

    model = build_model(
        Path(settings["model"]),
        initialization="random",
        seed=0,
        dropout=0.0,
        vocabulary_size=0,
        dtype=torch.float32,
        reads=dist.get_rank() == 0,
    )
    engine = _either("finetune_trainer.training.zero_engine", "ZeroEngine", "finetune_trainer.training.engine", "Engine")
    return engine(model, Training(micro_batch_size=1, activation_checkpointing=False), precision="fp32")


def _either(module: str, name: str, earlier_module: str, earlier_name: str) -> Any:
    """A class, or what it was at 6bee474."""
    with contextlib.suppress(ImportError):
        return getattr(importlib.import_module(module), name)
    return getattr(importlib.import_module(earlier_module), earlier_name)


def make_store(settings: dict[str, Any], ranks: Any) -> Any:
    """Of one claim for all ranks."""
    from finetune_trainer.checkpoints.store import CheckpointStore, Claim

    store = open_store(settings)
    claim = Claim.from_json(ranks.from_first(lambda: store.claimed().claim.to_json()))
    return CheckpointStore(store.storage, identity=_IDENTITY, job=_JOB, claim=claim)


def open_store(settings: dict[str, Any]) -> Any:
    """Without a claim."""
    from finetune_trainer.checkpoints.store import CheckpointStore

    return CheckpointStore(_storage(settings), identity=_IDENTITY, job=_JOB)


def _storage(settings: dict[str, Any]) -> Any:
    from finetune_trainer.storage.places import open_storage

    if not settings.get("endpoint"):
        from finetune_trainer.storage.directory import DirectoryStorage

        return DirectoryStorage(Path(settings["folder"], settings["prefix"]))
    credentials = _either("finetune_trainer.storage.s3_client", "S3Credentials", "finetune_trainer.storage.s3", "S3Credentials")
    keys = credentials(access_key=settings["access_key"], secret_key=settings["secret_key"])
    return open_storage(f"s3://{BUCKET}/{settings['prefix']}", endpoint=settings["endpoint"], credentials=lambda: keys)


def pieces_of(engine: Any) -> Iterator[Any]:
    """A rank's state as a checkpoint's pieces, kind by kind."""
    from finetune_trainer.checkpoints.store import Piece

    for kind in ("master", "exp_avg", "exp_avg_sq"):
        for piece in engine.local_state():
            if piece.kind == kind:
                yield Piece(kind=kind, name=piece.name, shape=piece.shape, start=piece.start, stop=piece.stop, data=piece.tensor.numpy())


def s3_client(endpoint: str, access_key: str, secret_key: str) -> Any:
    """boto3's, with these keys and nothing of this machine's, and without checksums of its own, as ours is."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required", proxies={}),
    )


def transfer_plan() -> Any:
    """boto3's, in parts of the size of ours, as many at a time."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARALLEL)


def upload(settings: dict[str, Any], files: list[Path]) -> None:
    """By boto3."""
    client = s3_client(settings["endpoint"], settings["access_key"], settings["secret_key"])
    for file in files:
        client.upload_file(str(file), BUCKET, f"{settings['prefix']}/{file.name}", Config=transfer_plan())


def used() -> float:
    """Processor seconds of this process so far."""
    return sum(os.times()[:2])
