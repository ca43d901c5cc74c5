"""`finetune logs` of a run whose pods are gone: what its storage keeps."""

from pathlib import Path

import pytest
from tests.cli.conftest import Finetune

from finetune_trainer.storage.directory import DirectoryStorage

PRINTED = {
    "logs/preparation/tiny-prepare-0a-x1/main/000000000000.log": b"rows are tokenised\n",
    "logs/training/20261129T100000Z-tiny-1-aaaaa/driver/000000000000.log": b"first attempt\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/driver/000000000000.log": b"step 1\nstep 2\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/driver/000000000014.log": b"step 3\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/rank-0/000000000000.log": b"rank 0 speaks\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/rank-0-stderr/000000000000.log": b"rank 0 warns\n",
}


@pytest.fixture
def run(tmp_path: Path) -> str:
    storage = DirectoryStorage(tmp_path / "bucket")
    for key, data in PRINTED.items():
        storage.put(key, data)
    return str(tmp_path / "bucket")


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ((), "step 1\nstep 2\nstep 3\n"),
        (("--tail", "1"), "step 3\n"),
        (("--tail", "1", "--json"), '{"line": "step 3"}\n'),
        (("--attempt", "1"), "first attempt\n"),
        (("--rank", "0"), "rank 0 speaks\nrank 0 warns\n"),
        (("--stage", "preparation"), "rows are tokenised\n"),
    ],
)
def test_what_is_kept(finetune: Finetune, run: str, options: tuple[str, ...], out: str) -> None:
    assert finetune("logs", run, *options) == (0, out, "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--attempt", "3"), "keeps no log of attempt 3 of training; there are 2"),
        (("--rank", "4"), "--rank 4: "),
        (("--rank", "4"), "keeps no log of it; there are driver, rank-0"),
        (("--stage", "publication"), "keeps no log of publication"),
        (("--follow",), "--follow is for the log of a job's pod"),
        (("--rank", "0", "--stage", "preparation"), "--rank 0 is of training, and --stage preparation has none"),
    ],
)
def test_what_is_not_there_is_told(finetune: Finetune, run: str, options: tuple[str, ...], told: str) -> None:
    code, out, err = finetune("logs", run, *options)
    assert (code, out) == (2, "")
    assert told in err


def test_a_folder_without_logs(finetune: Finetune, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = finetune("logs", "./empty")
    assert code == 2
    assert "keeps no log of any stage" in err
