"""The copy of a GPU's state, with a stream that copies as late as it may: it is that of its moment, whatever trains meanwhile."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.architectures import llama, random_rows, save_random
from torch import Tensor

from finetune_api.finetunejob import Optimizer, Training
from finetune_trainer.model.build import build_model
from finetune_trainer.training.engine import DTYPES
from finetune_trainer.training.engine_snapshot import DeviceSnapshot, constant_pieces, snapshot_of
from finetune_trainer.training.plain_engine import PlainEngine
from finetune_trainer.training.snapshot import HostSnapshot

Values = dict[tuple[str, str], np.ndarray[Any, Any]]


class LateStream:
    """Copies when somebody waits for it, and not before, in the thread that waits first."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.held, self.begun = 0, 0
        self._lock = threading.Lock()

    def memory(self, elements: int) -> Tensor:
        return torch.full((elements,), torch.nan)

    def begin(self) -> None:
        self.begun += 1

    def copy(self, into: Tensor, source: Tensor) -> None:
        assert self.begun, "it would not see what has been computed"
        self.asked.append((into, source))

    def end(self) -> None:
        """What was asked for is all in `asked`."""

    def hold(self) -> None:
        self.held += 1
        self.wait()

    def wait(self) -> None:
        with self._lock:
            for into, source in self.asked:
                into.copy_(source)
            self.asked.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(llama(), tmp_path_factory.mktemp("snapshot") / "llama")


def trained(folder: Path, precision: str = "fp32", **settings: Any) -> PlainEngine:
    model = build_model(folder, initialization="pretrained", seed=1, dropout=0.0, vocabulary_size=0, dtype=DTYPES[precision], reads=True)
    return PlainEngine(model, Training(optimizer=Optimizer(**settings)))


def step(engine: PlainEngine) -> None:
    rows = random_rows(3, seed=engine.step)
    engine.train_step(rows, num_supervised=sum(row.num_supervised for row in rows), learning_rate=1e-2)


def late(engine: PlainEngine) -> tuple[DeviceSnapshot, LateStream]:
    stream = LateStream()
    host = snapshot_of(engine, print)
    assert isinstance(host, HostSnapshot), "on a CPU it is copied at once"
    return DeviceSnapshot(engine, stream, live=host.live, constants=lambda: constant_pieces(engine.constants)), stream


def values(pieces: Any) -> Values:
    return {(piece.kind, piece.name): piece.data.copy() for piece in pieces}


def assert_equal(found: Values, expected: Values) -> None:
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        np.testing.assert_array_equal(found[key], one, err_msg=str(key))


@pytest.mark.parametrize(("precision", "optimizer"), [("fp32", "adamw"), ("bf16", "adamw"), ("fp32", "adamw8bit")])
def test_it_is_the_state_of_its_moment(folder: Path, precision: str, optimizer: str) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    engine = trained(folder, precision, name=optimizer)
    snapshot, stream = late(engine)
    for _ in range(2):  # the second in the first one's memory
        step(engine)
        expected, held = values(snapshot.live()), stream.held
        snapshot.take()
        assert stream.asked, "nothing is copied while the loop asks for it"
        step(engine)
        step(engine)
        assert stream.held == held + 1, "the device waits once, before the first update"
        assert_equal(values(snapshot.pieces()), expected)
        assert any((one != expected[key]).any() for key, one in values(snapshot.live()).items()), "training has gone on"


def test_without_the_wait_it_would_be_another_state(folder: Path) -> None:
    engine = trained(folder)
    snapshot, _ = late(engine)
    expected = values(snapshot.live())
    engine.before_update = lambda: None
    snapshot.take()
    step(engine)
    found = values(snapshot.pieces())
    assert any((found[key] != one).any() for key, one in expected.items())


def test_who_writes_waits_for_the_copy(folder: Path) -> None:
    engine = trained(folder)
    snapshot, stream = late(engine)
    expected = values(snapshot.live())
    snapshot.take()
    found: list[Values] = []
    writer = threading.Thread(target=lambda: found.append(values(snapshot.pieces())))
    writer.start()
    writer.join(timeout=30)
    assert stream.held == 0
    assert_equal(found[0], expected)


def test_one_copy_of_the_state_is_held(folder: Path) -> None:
    engine = trained(folder)
    snapshot, _ = late(engine)
    assert snapshot.nbytes == 0
    for _ in range(2):
        snapshot.take()
    assert snapshot.nbytes == sum(4 * piece.tensor.numel() for piece in engine.local_state())
