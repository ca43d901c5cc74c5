"""What an export needs beside the weights, kept with them."""

from pathlib import Path

import pytest
from tests.exported_models import TINY, training_run

from finetune_api.errors import InvalidStorage, InvalidTrainingRun
from finetune_trainer.checkpoints.run_record import RUN_KEY, fetch_base, keep_run, kept_run
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.model.resolve import small_files
from finetune_trainer.storage.directory import DirectoryStorage


def kept(folder: Path) -> DirectoryStorage:
    storage = DirectoryStorage(folder / "storage")
    (folder / "meta.json").write_text("{}")
    keep_run(storage, training_run(TINY), small_files(TINY), folder / "meta.json")
    return storage


def test_the_run_and_the_base_models_small_files_come_back(tmp_path: Path) -> None:
    storage = kept(tmp_path)
    assert kept_run(storage) == training_run(TINY)
    fetched = fetch_base(storage, tmp_path / "base")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {path.name: path.read_bytes() for path in small_files(TINY)}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in fetched.iterdir()}


def test_weights_are_not_among_the_small_files(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.safetensors.index.json", "config.json", "LICENSE.txt", "train.py"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in small_files(tmp_path)] == ["LICENSE.txt", "config.json", "model.safetensors.index.json"]


def test_the_same_run_writes_nothing_again(tmp_path: Path) -> None:
    storage = kept(tmp_path)
    before = storage.versions()
    keep_run(storage, training_run(TINY), small_files(TINY), tmp_path / "meta.json")
    assert storage.versions() == before


def test_a_record_that_was_cut_off_is_none(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")
    with pytest.raises(FileNotFoundError):
        keep_run(storage, training_run(TINY), small_files(TINY), tmp_path / "absent.json")
    with pytest.raises(
        InvalidStorage, match=r"holds no run: there is no run/run\.json; give the prefix that spec\.checkpoints\.storage names"
    ):
        kept_run(storage)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    storage = kept(tmp_path)
    storage.put(RUN_KEY, b"{")
    with pytest.raises(InvalidTrainingRun, match=f"{tmp_path}/storage"):
        kept_run(storage)


def test_the_record_is_no_checkpoint_and_stays_when_they_are_pruned(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")
    run = training_run(TINY)
    store = CheckpointStore(storage, identity=run.identity, job="demo").claimed()
    (tmp_path / "meta.json").write_text("{}")
    keep_run(storage, run, small_files(TINY), tmp_path / "meta.json")
    assert list(store.candidates()) == []
    store.prune(1)
    assert kept_run(storage) == run
    CheckpointStore(storage, identity=run.identity, job="demo").claimed()
