"""DeepSpeed's op for CPUs (communication between the ranks of a machine), compiled by the first process that needs it, once an environment.

torch marks a folder in which it compiles by a file, `lock`, and waits for ever for one that a killed process left (2.13). So our
processes take turns by a lock of the kernel's, which ends with its process, and whoever's turn it is removes such a file.

`python -m finetune_trainer.training.compiled_ops` (COMPILE) compiles ahead.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from finetune_trainer.files.locks import locked_in_turn

# What to run to compile ahead. Spelt out: run as a program, this module is called __main__.
COMPILE: Final = (sys.executable, "-m", "finetune_trainer.training.compiled_ops")


def compiled_ops_folder() -> Path:
    """Where torch keeps ops that it compiled. One folder an environment: torch compiles anew when its files have another path."""
    if named := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(named)
    return _in_cache(sys.prefix)


def _in_cache(made_for: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "finetune/torch_extensions" / hashlib.sha256(made_for.encode()).hexdigest()[:12]


def writable_ops_folder() -> Path:
    """That folder, or a copy of it in this user's cache where it is another's: torch takes a lock beside an op that it loads.

    So it is in an image whose user and group are replaced by a platform's. Times are copied too, or ninja would build anew.
    """
    folder = compiled_ops_folder()
    if all(os.access(path, os.W_OK) for path in (folder, *folder.glob("*/"))) or not folder.exists():
        return folder
    copy = _in_cache(str(folder))
    with turn(copy.parent):
        if not copy.exists():
            unfinished = copy.with_suffix(".unfinished")
            shutil.copytree(folder, unfinished, dirs_exist_ok=True)
            unfinished.rename(copy)
    return copy


def load_cpu_op() -> None:
    """Load the op into this process, compiled first where it isn't (about 90 s on 2 cores). On a CPU, before DeepSpeed is started."""
    folder = writable_ops_folder()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    os.environ["DS_ACCELERATOR"] = "cpu"
    # This environment's own ninja first: another version rebuilds what is already there.
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, os.environ.get("PATH", os.defpath)])
    from deepspeed.ops import __compatible_ops__
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    if not __compatible_ops__.get(ShareMemCommBuilder.NAME):
        return  # DeepSpeed does without it
    with turn(folder):
        for left in folder.glob("*/lock"):
            left.unlink()
        ShareMemCommBuilder().load()


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process at a time; the next begins when this one is done or gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked_in_turn(folder / "turn"):
        yield


if __name__ == "__main__":
    load_cpu_op()
