"""What each rank of benchmarks/checkpoints.py does: trains with one side's checkpoints, restores, or begins again. Prints one JSON object.

    python -m benchmarks.checkpoints_ranks '{"act": "train", "side": "ours", ...}'

That process starts the ranks and reports what rank 0 says. Of an earlier commit's trainer (PYTHONPATH) only the side "before" is run: this
file asks either of them for no more than they have.
"""

import contextlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

LAUNCHED = time.time()
BUCKET = "finetune-benchmarks"
PARALLEL, PART_BYTES = 4, 8 * 2**20  # of our uploads, and so of the others'
LEARNING_RATE = 1e-4
WARM_UP = 2
_IDENTITY = "b" * 64


def main() -> None:
    settings = json.loads(sys.argv[1])
    if "rank" in settings:
        _rank(settings)
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        commands = [
            [
                sys.executable,
                "-m",
                "benchmarks.checkpoints_ranks",
                json.dumps({**settings, "rank": rank, "port": port, "result": str(result)}),
            ]
            for rank in range(settings["world"])
        ]
        ranks = [subprocess.Popen(command, stdout=sys.stderr, env=os.environ | {"LAUNCHED": str(time.time())}) for command in commands]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            sys.exit(f"ranks ended with {codes}")
        print(result.read_text())


def _rank(settings: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    rank, world = settings["rank"], settings["world"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(settings["port"]), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = _ACTS[settings["act"]](settings)
    if rank == 0:
        Path(settings["result"]).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # nobody's threads are waited for


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

    store = CheckpointStore(_storage(settings), identity=_IDENTITY, job="benchmark")
    claim = Claim.from_json(ranks.from_first(lambda: store.claimed().claim.to_json()))
    return CheckpointStore(store.storage, identity=_IDENTITY, job="benchmark", claim=claim)


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
    """boto3's, with these keys and nothing of this machine's."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name="us-east-1"
    )


def upload(settings: dict[str, Any], files: list[Path]) -> None:
    """By boto3, in parts of the size of ours, as many at a time."""
    from boto3.s3.transfer import TransferConfig

    client = s3_client(settings["endpoint"], settings["access_key"], settings["secret_key"])
    plan = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARALLEL)
    for file in files:
        client.upload_file(str(file), BUCKET, f"{settings['prefix']}/{file.name}", Config=plan)


class Side(Protocol):
    """Saves checkpoints of an engine. All methods are collective."""

    def begin(self, step: int) -> None: ...
    def look(self) -> None:
        """After each step."""

    def finish(self) -> None:
        """The checkpoint is whole, in storage."""


class Nothing:
    """A run without checkpoints."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        self.details: dict[str, float] = {}

    def begin(self, step: int) -> None: ...
    def look(self) -> None: ...
    def finish(self) -> None: ...


class Ours(Nothing):
    """The trainer's saver, as its loop uses it."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        super().__init__(engine, ranks, settings)
        from finetune_trainer.training.saving import Saver

        self._ranks = ranks
        self._bytes = 4 * sum(piece.stop - piece.start for piece in engine.local_state())
        self._saver = Saver(
            store=make_store(settings, ranks),
            ranks=ranks,
            state=lambda: pieces_of(engine),
            state_bytes=lambda: self._bytes,
            free_bytes=lambda: None,
            prune=list,
            notice=lambda text: print(text, file=sys.stderr),
            signs=lambda what: None,
        )

    def begin(self, step: int) -> None:
        from finetune_trainer.training.training_rank import resident_bytes

        before = resident_bytes()
        self._saver.begin(step, {})
        self.details |= {"part_bytes": self._bytes, "snapshot_bytes": resident_bytes() - before}

    def look(self) -> None:
        saved = self._saver.take_up(self._ranks.gathered(self._saver.word))
        self._note(saved)

    def finish(self) -> None:
        self._note(self._saver.settle())

    def _note(self, saved: Any) -> None:
        if saved is not None:
            assert not saved.problem, saved.problem
            self.details |= {"write_seconds": saved.write_seconds}


class Before(Nothing):
    """As the trainer saved before: every rank writes, rank 0 commits, and training waits."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        super().__init__(engine, ranks, settings)
        self._engine, self._ranks, self._store = engine, ranks, make_store(settings, ranks)

    def begin(self, step: int) -> None:
        from finetune_trainer.checkpoints.store import PartRecord

        part = self._store.write_part(step, self._ranks.rank, pieces_of(self._engine))
        parts = self._ranks.gathered(part.to_json())
        self._ranks.from_first(lambda: self._store.commit(step, [PartRecord.from_json(one) for one in parts], {}) and None)


class DeepSpeed(Nothing):
    """`save_checkpoint` to the disk, then each rank's files by boto3: as a training script does it."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        super().__init__(engine, ranks, settings)
        self._engine, self._ranks, self._settings = engine, ranks, settings

    def begin(self, step: int) -> None:
        began = time.monotonic()
        folder = Path(self._settings["folder"], "deepspeed")
        self._engine._engine.save_checkpoint(str(folder), tag="saved")
        self.details["save_seconds"] = time.monotonic() - began
        if self._settings.get("endpoint"):
            own = f"zero_pp_rank_{self._ranks.rank}_"
            upload(self._settings, [file for file in (folder / "saved").iterdir() if file.name.startswith(own)])
            self._ranks.gathered(None)


class Dcp(Nothing):
    """torch.distributed.checkpoint's `async_save` to the disk; then a thread sends each rank's file by boto3."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        super().__init__(engine, ranks, settings)
        self._engine, self._ranks, self._settings = engine, ranks, settings
        self._sending: threading.Thread | None = None

    def begin(self, step: int) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        folder = Path(self._settings["folder"], "dcp")
        # One rank's tensors are its own: none is replicated.
        state = {f"{self._ranks.rank}.{piece.kind}.{piece.name}": piece.tensor for piece in self._engine.local_state()}
        saving = async_save(state, storage_writer=FileSystemWriter(folder, single_file_per_rank=True), process_group=self._ranks._group)

        def send() -> None:
            saving.result()  # type: ignore[union-attr]
            upload(self._settings, sorted(folder.glob(f"__{self._ranks.rank}_*")))

        self._sending = threading.Thread(target=send)
        self._sending.start()

    def finish(self) -> None:
        if self._sending is not None:
            self._sending.join()
        self._ranks.gathered(None)


SIDES: dict[str, Callable[[Any, Any, dict[str, Any]], Nothing]] = {
    "none": Nothing,
    "ours": Ours,
    "before": Before,
    "deepspeed": DeepSpeed,
    "dcp": Dcp,
}


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    """Steps, and a checkpoint after the first; until all steps are done and the checkpoint is in storage."""
    from finetune_trainer.training.collectives import Ranks

    ranks, engine = Ranks(), make_engine(settings)
    step = _stepper(engine, settings)
    for _ in range(WARM_UP):
        step()
    side = SIDES[settings["side"]](engine, ranks, settings)
    ranks.gathered(None)
    began, used = time.monotonic(), _used()
    blocked, steps = 0.0, list[float]()
    for number in range(settings["steps"]):
        before = time.monotonic()
        step()
        steps.append(time.monotonic() - before)
        asked = time.monotonic()
        if number == 0:
            side.begin(engine.step)
        else:
            side.look()
        blocked += time.monotonic() - asked
    trained = time.monotonic() - began
    side.finish()
    seconds, processor = time.monotonic() - began, _used() - used
    return {
        "seconds": seconds,
        "trained_seconds": trained,
        "blocked_seconds": blocked,
        "processor_seconds": sum(ranks.gathered(processor)),
        "step_seconds": sorted(steps)[len(steps) // 2],
        **side.details,
    }


def _stepper(engine: Any, settings: dict[str, Any]) -> Callable[[], None]:
    import numpy as np
    import torch.distributed as dist

    from finetune_trainer.model.micro_batch import joined

    vocabulary = json.loads(Path(settings["model"], "config.json").read_text(encoding="utf-8"))["vocab_size"]

    def step() -> None:
        random = np.random.default_rng((engine.step, dist.get_rank()))
        row = joined([random.integers(0, vocabulary, settings["tokens"]).tolist()])
        engine.train_step([row], num_supervised=row.num_supervised * dist.get_world_size(), learning_rate=LEARNING_RATE)

    return step


def _used() -> float:
    return sum(os.times()[:2])


def _restore(settings: dict[str, Any]) -> dict[str, Any]:
    """The newest checkpoint into an engine of this world size; by DeepSpeed, what it saved after ds_to_universal."""
    from finetune_trainer.training.collectives import Ranks

    ranks, engine = Ranks(), make_engine(settings)
    if settings["side"] == "deepspeed":
        folder = Path(settings["folder"], "deepspeed")
        began, used, converted = time.monotonic(), _used(), 0.0
        if ranks.rank == 0:
            shutil.rmtree(folder / "universal", ignore_errors=True)
            arguments = [
                "--input_folder",
                str(folder / "saved"),
                "--output_folder",
                str(folder / "universal"),
                "--num_extract_workers",
                "2",
            ]
            child = sum(os.times()[2:4])
            command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *arguments, "--num_merge_workers", "2"]
            subprocess.run(command, check=True, stdout=sys.stderr)
            converted = sum(os.times()[2:4]) - child
        ranks.gathered(None)
        conversion = time.monotonic() - began
        engine._engine._config.load_universal_checkpoint = True
        engine._engine.load_checkpoint(str(folder), tag="universal")
        seconds = ranks.largest(round(1000 * (time.monotonic() - began))) / 1000
        spent = sum(ranks.gathered(_used() - used + converted))
        return {"seconds": seconds, "conversion_seconds": conversion, "processor_seconds": spent}
    ranks.gathered(None)
    began, used = time.monotonic(), _used()
    taken_up(engine, ranks, settings)
    return {
        "seconds": ranks.largest(round(1000 * (time.monotonic() - began))) / 1000,
        "processor_seconds": sum(ranks.gathered(_used() - used)),
    }


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


def _restart(settings: dict[str, Any]) -> dict[str, Any]:
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
    _stepper(engine, settings)()
    ended("first step")
    return {"ends": ends}


def _throughput(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one part written by our store, and of as many bytes by boto3 from the memory, in turns."""
    import io

    import numpy as np
    from boto3.s3.transfer import TransferConfig

    from finetune_trainer.checkpoints.store import CheckpointStore, Piece

    store = CheckpointStore(_storage(settings), identity=_IDENTITY, job="benchmark").claimed()
    values = np.random.default_rng(0).random(settings["bytes"] // 4, dtype=np.float32)
    tensors = np.split(values, 64)
    client = s3_client(settings["endpoint"], settings["access_key"], settings["secret_key"])
    plan = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARALLEL)

    def ours(turn: int) -> None:
        store.write_part(turn + 1, 0, (
            Piece(kind="master", name=f"{number}", shape=one.shape, start=0, stop=one.size, data=one) for number, one in enumerate(tensors)
        ))  # fmt: skip

    def plain(turn: int) -> None:
        client.upload_fileobj(io.BytesIO(values.data), BUCKET, f"{settings['prefix']}-plain/{turn}", Config=plan)

    sides: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    for turn in range(settings["repeats"]):
        for name, write in (("ours", ours), ("plain", plain)) if turn % 2 == 0 else (("plain", plain), ("ours", ours)):
            began, used = time.monotonic(), _used()
            write(turn)
            sides[name].append((time.monotonic() - began, _used() - used))
    spent = {name: {"seconds": [one for one, _ in its], "processor_seconds": [one for _, one in its]} for name, its in sides.items()}
    return {**spent, "bytes": settings["bytes"]}


_ACTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train": _train,
    "restore": _restore,
    "restart": _restart,
    "throughput": _throughput,
}

if __name__ == "__main__":
    main()
