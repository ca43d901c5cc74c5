"""Files that appear whole or not at all."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.files.atomic import atomically, make_folder, sync_tree, write_atomically, write_synced


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "für\n")
    assert path.read_bytes() == "für\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["run.json"]


@contextmanager
def _full_disk() -> Iterator[None]:
    """Files end at 100 bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_on_a_full_disk_the_old_file_stays_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    with _full_disk(), pytest.raises(OSError, match="File too large"):
        write_atomically(path, "x" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_block_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with pytest.raises(FileNotFoundError), atomically(path) as draft:
        shutil.copyfile(__file__, draft) and (tmp_path / "none").read_bytes()
    assert os.listdir(tmp_path) == []


def test_the_file_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path: Path) -> None:
    """By the order of the system's calls: an fsync of the draft, its rename, an fsync of the folder."""
    code = f"""
import os, sys
from pathlib import Path
from finetune_trainer.files.atomic import write_atomically
def tell(event, arguments):
    if event == "os.rename":
        print("rename", flush=True)
fsync = os.fsync
def told(descriptor):
    print("folder" if os.path.isdir(f"/proc/self/fd/{{descriptor}}") else "file", flush=True)
    fsync(descriptor)
os.fsync = told
sys.addaudithook(tell)
write_atomically(Path({str(tmp_path)!r}) / "run.json", "text")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["file", "rename", "folder"]


def test_a_draft_of_another_writer_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with atomically(path) as first:
        first.write_text("first")
        write_atomically(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_a_name_that_is_taken_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    assert write_synced(path, [b"a", bytearray(b"b"), memoryview(b"c")]) is None
    assert path.read_bytes() == b"abc"
    with pytest.raises(FileExistsError):
        write_synced(path, [b"other"])
    assert path.read_bytes() == b"abc"


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b/c")
    make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "a/b/file").touch()
    sync_tree(tmp_path)
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a/b/file")


def test_it_imports_the_standard_library_only() -> None:
    code = (
        "import sys, finetune_trainer.files.atomic; print({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names - {'__main__'})"
    )
    # -S: no site-packages, whose .pth files import what they like.
    paths = os.pathsep.join(path for path in sys.path if "site-packages" not in path)
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": paths})
    assert done.stdout.strip() == "{'finetune_trainer'}"
