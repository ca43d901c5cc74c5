"""finetune_trainer/reporting/bars.py"""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tests.conftest import ROOT

CODE = """
import sys
{before}
from finetune_trainer.reporting.bars import bars_on_a_terminal_only
bars_on_a_terminal_only()
from datasets import load_dataset
rows = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
from transformers.utils.logging import tqdm
for _ in tqdm(rows, desc="reading"):
    pass
print(len(rows))
"""


def _run(folder: Path, before: str = "", stderr: int = subprocess.PIPE, **environment: str) -> "subprocess.CompletedProcess[str]":
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    paths = os.pathsep.join(str(ROOT / name) for name in ("operator", "trainer"))
    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", CODE.format(before=before), str(folder / "rows.jsonl"), str(folder / "cache")]
    environment = {**kept, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True, env=environment)


@pytest.mark.parametrize("before", ["", "import datasets, transformers.utils.logging"], ids=["first", "late"])
def test_a_log_that_is_no_terminal_gets_no_bars(tmp_path: Path, before: str) -> None:
    """Also of libraries that were imported before."""
    done = _run(tmp_path, before)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_whoever_set_the_variables_decides(tmp_path: Path) -> None:
    assert "Generating train split" in _run(tmp_path, HF_DATASETS_DISABLE_PROGRESS_BARS="0").stderr


def test_a_terminal_gets_bars(tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    done = _run(tmp_path, stderr=terminal)
    os.close(terminal)
    assert done.stdout == "2\n"
    assert b"Generating train split" in os.read(reader, 100_000)
    os.close(reader)
