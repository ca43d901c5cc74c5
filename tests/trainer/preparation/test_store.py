"""The store: what is written is mapped back, it appears whole or not at all, and what was altered is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune_api.errors import StorageFailed
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.preparation.store import PreparedData, read_meta, store_folder, write_store

NAME = "f" * 64


def write(folder: Path, *, name: str = NAME, first: int = 5) -> Path:
    with write_store(folder, name) as store:
        store.append("train", np.array([first, 6, 7], np.uint32), np.array([0, 1, 1], np.uint8), np.array([3]), 1, [("a.jsonl", 7)])
        store.append(
            "train",
            np.array([8, 9, 70_000], np.uint32),
            np.array([1, 1, 0], np.uint8),
            np.array([2, 1]),
            2,
            [("b.jsonl", 1), ("a.jsonl", 9)],
        )
        store.append("evaluation", np.array([1, 2], np.uint32), np.array([0, 1], np.uint8), np.array([2]), 1, [("b.jsonl", 2)])
        store.add_text("note.txt", "hello")
        store.meta["more"] = {"a": 1}
    return store_folder(folder, name)


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    data = PreparedData.open(write(tmp_path), "train")
    assert (data.num_examples, data.num_tokens, data.lengths.tolist()) == (3, 6, [3, 2, 1])
    assert [data.ids(index).tolist() for index in range(3)] == [[5, 6, 7], [8, 9], [70_000]]
    assert [data.labels(index).tolist() for index in range(3)] == [[IGNORE_INDEX, 6, 7], [8, 9], [IGNORE_INDEX]]
    assert data.supervised_counts.tolist() == [2, 1, 0]
    assert PreparedData.open(store_folder(tmp_path, NAME), "evaluation").ids(0).tolist() == [1, 2]


def test_each_example_knows_its_source_and_row(tmp_path: Path) -> None:
    folder = write(tmp_path)
    train, evaluation = PreparedData.open(folder, "train"), PreparedData.open(folder, "evaluation")
    assert [train.origin(index) for index in range(3)] == [("a.jsonl", 7), ("b.jsonl", 1), ("a.jsonl", 9)]
    assert evaluation.origin(0) == ("b.jsonl", 2)


def test_a_store_of_an_older_version_does_not_know_them(tmp_path: Path) -> None:
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["origins"], meta["files"]["train.origins.npy"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert PreparedData.open(folder, "train").origin(0) is None


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    ids = PreparedData.open(write(tmp_path), "train").ids(0)
    assert isinstance(ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_what_the_writer_adds_is_in_meta(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path))
    assert meta is not None
    assert (meta["fingerprint"], meta["more"]) == (NAME, {"a": 1})
    assert set(meta["files"]) == {f"{side}.{part}" for side in ("train", "evaluation") for part in PARTS} | {"note.txt"}


PARTS = ("ids.bin", "supervised.bin", "offsets.npy", "counts.npy", "origins.npy")


def test_there_is_no_store_before_it_is_written(tmp_path: Path) -> None:
    assert read_meta(store_folder(tmp_path, NAME)) is None


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with write_store(tmp_path, NAME) as store:
            store.append("train", np.array([5], np.uint32), np.array([0], np.uint8), np.array([1]), 1, [("a.jsonl", 1)])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_left_unfinished_is_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "meta.json").unlink()
    assert read_meta(folder) is None
    assert PreparedData.open(write(tmp_path, first=4), "train").ids(0).tolist() == [4, 6, 7]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("part", [f"train.{part}" for part in PARTS])
def test_an_altered_file_is_refused(tmp_path: Path, part: str) -> None:
    folder = write(tmp_path)
    content = bytearray((folder / part).read_bytes())
    content[-1] ^= 1
    (folder / part).write_bytes(content)
    with pytest.raises(StorageFailed, match=rf"{part} is not what was written: cut off or altered; remove"):
        read_meta(folder)


def test_a_file_cut_off_is_refused_when_a_rank_opens_it(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "train.ids.bin").write_bytes(b"1234")
    with pytest.raises(StorageFailed, match=r"train\.ids\.bin is not what was written"):
        PreparedData.open(folder, "train")


@pytest.mark.parametrize("damage", ["", "{}", "[]"])
def test_a_damaged_meta_is_refused(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path)
    (folder / "meta.json").write_text(damage, encoding="utf-8")
    with pytest.raises(StorageFailed, match="remove that folder to prepare the data again"):
        read_meta(folder)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "train.counts.npy").unlink()
    with pytest.raises(StorageFailed, match=r"train\.counts\.npy"):
        read_meta(folder)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageFailed, match=r"prepared data can't be written to .*file"):
        write(tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_store(tmp_path: Path) -> None:
    write(tmp_path)

    def fill() -> None:
        with write_store(tmp_path, "e" * 64) as store:
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")
            store.add_text("never", "")

    with pytest.raises(StorageFailed, match="No space left on device"):
        fill()
    assert [folder.name for folder in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.offsets.npy", b"no array of numpy's"),
        ("train.offsets.npy", np.array([0, 3, 5, 7])),
        ("train.offsets.npy", np.array([0, 5, 3, 6])),
        ("train.offsets.npy", np.array([0.0, 3.0, 5.0, 6.0])),
        ("train.counts.npy", np.array([2, 1])),
        ("train.supervised.bin", b"\x01"),
        ("meta.json", b"[" * 100_000),
        ("meta.json", b'{"files": null}'),
    ],
)
def test_files_that_lead_out_of_one_another_are_refused(tmp_path: Path, name: str, content: bytes | np.ndarray) -> None:
    """Sizes are as they were: somebody's disk lied, or somebody wrote meta.json again."""
    folder = write(tmp_path)
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content)
    if name != "meta.json":
        meta = json.loads((folder / "meta.json").read_text())
        meta["files"][name]["bytes"] = (folder / name).stat().st_size
        (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(StorageFailed, match=r"prepared data in .* is damaged \(.*; remove that folder to prepare the data again"):
        PreparedData.open(folder, "train")
