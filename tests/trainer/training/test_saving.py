"""finetune_trainer/training/saving.py: two ranks as threads, on a storage that waits, fails and is taken over when it is told to."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from finetune_api.errors import RunConflict, StorageFailed
from finetune_trainer.checkpoints.columns import COLUMNS
from finetune_trainer.checkpoints.store import CheckpointStore, Piece
from finetune_trainer.files.atomic import Bytes
from finetune_trainer.training.saving import Saved, Saver
from finetune_trainer.training.snapshot import HostSnapshot

from ..memory_storage import MemoryStorage

WORLD = 2
SHAPE = (5, 3)
Floats = np.ndarray[Any, Any]


class Gate(MemoryStorage):
    """Writing of parts waits while `open` is cleared; `fails` and `deletes` say what goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.fails: Callable[[str], bool] = lambda key: False
        self.deletes = True

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        assert self.open.wait(20)
        if self.fails(key):
            raise StorageFailed(f"writing {key} failed")
        return super().put_stream(key, blocks)

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if self.fails(key):
            raise StorageFailed(f"creating {key} failed")
        return super().put_if_absent(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        if not self.deletes:
            raise StorageFailed("deleting failed: not allowed")
        super().delete(keys)


class Meeting:
    """What ranks that are threads tell one another."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.values: list[Any] = [None] * size


class ThreadRank:
    """One rank of a meeting, with its half of a tensor."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self._meeting = rank, meeting
        self.values = np.zeros(8 if rank == 0 else 7, dtype=np.float32)

    def gathered(self, value: Any) -> list[Any]:
        self._meeting.barrier.wait()
        self._meeting.values[self.rank] = value
        self._meeting.barrier.wait()
        return list(self._meeting.values)

    def from_first(self, ask: Callable[[], Any]) -> Any:
        return self.gathered(ask() if self.rank == 0 else None)[0]

    def pieces(self) -> Iterator[Piece]:
        start = 8 * self.rank
        yield Piece(kind="master", name="w", shape=SHAPE, start=start, stop=start + self.values.size, data=self.values)


class Pair:
    """Two ranks with their savers."""

    def __init__(self, storage: Gate, *, free: int | None = None, keep: int = 3) -> None:
        self.storage, self.notices = storage, list[str]()
        meeting = Meeting(WORLD)
        self.ranks = [ThreadRank(rank, meeting) for rank in range(WORLD)]
        self.store = CheckpointStore(storage, identity="a", job="j").claimed()
        self.savers = [self._saver(rank, free, keep) for rank in self.ranks]

    def _saver(self, rank: ThreadRank, free: int | None, keep: int) -> Saver:
        return Saver(
            store=self.store,
            ranks=rank,
            snapshot=HostSnapshot(rank.pieces),
            state_bytes=lambda: rank.values.nbytes,
            free_bytes=lambda: free,
            prune=lambda: self._pruned(keep),
            notice=self.notices.append,
            signs=lambda what: None,
        )

    def _pruned(self, keep: int) -> list[str]:
        damaged: list[str] = []
        self.store.prune(keep, notice=damaged.append)
        return damaged

    def together(self, act: Callable[[Saver, ThreadRank], Any]) -> list[Any]:
        """Every rank does it, as collectives want it; the error of a rank is raised."""
        with ThreadPoolExecutor(WORLD) as threads:
            return list(threads.map(act, self.savers, self.ranks))

    def train(self, value: float) -> None:
        """A step changes the state in place."""
        for rank in self.ranks:
            rank.values[:] = value

    def begin(self, step: int) -> Saved | None:
        return self.together(lambda saver, rank: saver.begin(step, {"position": step}))[0]  # type: ignore[no-any-return]

    def look(self) -> Saved | None:
        """What the loop does once a step."""
        return self.together(lambda saver, rank: saver.take_up(rank.gathered(saver.word)))[0]  # type: ignore[no-any-return]

    def settle(self) -> Saved | None:
        return self.together(lambda saver, rank: saver.settle())[0]  # type: ignore[no-any-return]

    def until_known(self) -> Saved:
        """Looks as often as it takes."""
        for _ in range(2000):
            if (saved := self.look()) is not None:
                return saved
            time.sleep(0.005)
        raise AssertionError("nothing became of the checkpoint")

    def restored(self) -> tuple[int, Floats]:
        """Step and tensor of the newest checkpoint."""
        found = self.store.newest_verified()
        assert found is not None
        with self.store.reader(found) as reader:
            return found.step, reader.read("master", "w", 0, 15)


@pytest.fixture
def storage() -> Gate:
    return Gate()


def test_a_checkpoint_is_of_its_moment_though_training_goes_on(storage: Gate) -> None:
    pair = Pair(storage)
    pair.train(1.0)
    storage.open.clear()
    assert pair.begin(1) is None
    pair.train(2.0)
    assert pair.look() is None
    assert pair.savers[0].under_way
    storage.open.set()
    saved = pair.until_known()
    assert (saved.step, saved.problem) == (1, "")
    assert saved.manifest is not None
    assert saved.manifest.extra["position"] == 1
    step, values = pair.restored()
    assert step == 1
    assert (values == 1.0).all()
    assert not any(saver.under_way for saver in pair.savers)


def test_the_next_one_waits_for_the_one_under_way(storage: Gate) -> None:
    pair = Pair(storage)
    pair.train(1.0)
    storage.open.clear()
    pair.begin(1)
    pair.train(2.0)
    threading.Timer(0.2, storage.open.set).start()
    before = pair.begin(2)
    assert before is not None
    assert before.step == 1
    assert before.manifest is not None
    assert pair.until_known().step == 2
    step, values = pair.restored()
    assert step == 2
    assert (values == 2.0).all()


@pytest.mark.parametrize("which", ["rank-00000", "rank-00001", "manifest.json"])
def test_what_fails_is_told_and_the_next_checkpoint_is_whole(storage: Gate, which: str) -> None:
    pair = Pair(storage)
    pair.train(1.0)
    storage.fails = lambda key: which in key
    pair.begin(1)
    saved = pair.until_known()
    assert saved.manifest is None
    assert which in saved.problem
    assert pair.store.newest_verified() is None
    storage.fails = lambda key: False
    pair.train(2.0)
    pair.begin(2)
    assert pair.until_known().manifest is not None
    assert pair.restored()[0] == 2


def test_older_checkpoints_that_cannot_be_deleted_cost_no_step(storage: Gate) -> None:
    pair = Pair(storage, keep=1)
    for step in (1, 2):
        pair.begin(step)
        storage.deletes = False
        assert pair.until_known().manifest is not None
    assert ["could not be deleted" in notice for notice in pair.notices] == [True]
    storage.deletes = True
    pair.begin(3)
    pair.until_known()
    assert {one.step for one in pair.store.candidates()} == {3}


def test_a_checkpoint_that_is_damaged_meanwhile_is_told_before_it_is_deleted(storage: Gate) -> None:
    """It may have been the best."""
    pair = Pair(storage, keep=5)
    pair.begin(1)
    pair.settle()
    (part,) = [key for key in storage.objects if "step-00000001" in key and "rank-00001" in key]
    del storage.objects[part]
    pair.begin(2)
    pair.settle()
    assert [one for one in pair.notices if "step 1 is damaged" in one and part in one] == pair.notices
    assert len(pair.notices) == 1
    assert not [key for key in storage.objects if "step-00000001" in key]


@pytest.mark.parametrize("late", [False, True], ids=["before it is written", "before it is committed"])
def test_an_attempt_that_took_over_ends_this_one(storage: Gate, late: bool) -> None:
    pair = Pair(storage)
    if late:
        storage.open.clear()
        pair.begin(1)
        CheckpointStore(storage, identity="a", job="j").claimed()
        storage.open.set()
    else:
        CheckpointStore(storage, identity="a", job="j").claimed()
        pair.begin(1)
    with pytest.raises(RunConflict, match="was replaced by attempt"):
        pair.settle()
    assert pair.store.newest_verified() is None


def test_training_waits_where_memory_is_too_short_for_a_copy(storage: Gate) -> None:
    pair = Pair(storage, free=36)  # of which rank 0 would take 32
    pair.train(1.0)
    storage.open.clear()
    beginning = threading.Thread(target=pair.begin, args=(1,))
    beginning.start()
    beginning.join(0.2)
    assert beginning.is_alive(), "the state is still being read: training must not change it"
    storage.open.set()
    beginning.join(20)
    pair.train(2.0)
    pair.until_known()
    assert (pair.restored()[1] == 1.0).all()
    assert "raise the workers' memory limit" in pair.notices[0]
    pair.begin(2)
    pair.until_known()
    assert len(pair.notices) == WORLD, "told once, by each rank"


def test_the_last_checkpoint_is_waited_for(storage: Gate) -> None:
    pair = Pair(storage)
    pair.train(3.0)
    saved = pair.together(lambda saver, rank: saver.save(7, {}))[0]
    assert saved.manifest.step == 7
    assert saved.manifest.extra["seconds"] > 0
    assert not any(saver.under_way for saver in pair.savers)
    storage.fails = lambda key: "rank-00001" in key
    problems = [saved.problem for saved in pair.together(lambda saver, rank: saver.save(8, {}))]
    assert "rank-00001" in problems[0]


@pytest.mark.parametrize(("free", "columns"), [(None, COLUMNS), (36, 1)], ids=["a copy", "no memory for one"])
def test_a_copy_lies_in_columns_also_at_the_end(storage: Gate, monkeypatch: pytest.MonkeyPatch, free: int | None, columns: int) -> None:
    """A state that is read piece by piece can't: its pieces aren't all there at a time."""
    pair, asked = Pair(storage, free=free), list[int]()
    write = CheckpointStore.write_part

    def noted(self: CheckpointStore, *given: Any, **named: Any) -> Any:
        asked.append(named["columns"])
        return write(self, *given, **named)

    monkeypatch.setattr(CheckpointStore, "write_part", noted)
    pair.savers[1].columns = 1  # as under ZeRO-2
    pair.begin(1)
    pair.settle()
    pair.together(lambda saver, rank: saver.save(2, {}))
    assert sorted(asked) == sorted([columns, 1] * 2)
    assert pair.restored()[0] == 2


def test_each_chunk_is_a_sign_that_the_last_checkpoint_gets_on(storage: Gate) -> None:
    pair, told = Pair(storage), list[str]()
    for saver in pair.savers:
        saver.signs = told.append
    storage.open.clear()
    threading.Timer(0.2, storage.open.set).start()
    pair.together(lambda saver, rank: saver.save(7, {}))
    assert {*told} == {"the checkpoint of step 7"}
