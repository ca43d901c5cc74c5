"""The sides that benchmarks/checkpoints.py compares, as one engine's checkpoints are saved by each."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.checkpoints_places import make_store, pieces_of, upload


class Nothing:
    """A run without checkpoints, and what every side has. Its methods are collective."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        self.details: dict[str, float] = {}

    def begin(self, step: int) -> None:
        """Save, or begin to."""

    @property
    def word(self) -> str:
        """What this rank tells the others after each step, as the trainer's loop exchanges it whether it saves or not."""
        return "nothing"

    def look(self, words: list[str]) -> None:
        """With every rank's word."""

    def finish(self) -> None:
        """The checkpoint is whole, in storage."""


class Ours(Nothing):
    """The trainer's saver, as its loop uses it."""

    def __init__(self, engine: Any, ranks: Any, settings: dict[str, Any]) -> None:
        super().__init__(engine, ranks, settings)
        from finetune_trainer.training.saving import Saver
        from finetune_trainer.training.snapshot import HostSnapshot

        self._ranks = ranks
        self._bytes = 4 * sum(piece.stop - piece.start for piece in engine.local_state())
        self._saver = Saver(
            store=make_store(settings, ranks),
            ranks=ranks,
            snapshot=HostSnapshot(lambda: pieces_of(engine)),
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
        grown = resident_bytes() - before
        # What the process had free already is not seen in its growth.
        self.details |= {"part_bytes": self._bytes, "snapshot_bytes": max(grown, self._saver.snapshot.nbytes)}

    @property
    def word(self) -> str:
        return self._saver.word

    def look(self, words: list[str]) -> None:
        self._note(self._saver.take_up(words))  # type: ignore[arg-type]

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
