"""Packages of other versions than ours, each set in a folder of its own outside the working tree, kept for the next time.

A set is a hash-pinned file of requirements/. Installed without dependencies, it lies in front of the tests' own environment: a second
torch would be five gigabytes for nothing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent.parent


def packages(name: str) -> Path:
    """The folder that goes to the front of PYTHONPATH for the packages of requirements/<name>.txt; installed if it isn't there."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "readers"
    folder = cache / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if not folder.is_dir():
            draft = folder.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", str(draft)]
            subprocess.run([*install, "--no-deps", "--require-hashes", "-r", str(requirements)], check=True, timeout=600)
            draft.rename(folder)
    return folder


def environment(*folders: Path) -> dict[str, str]:
    """Variables for a process that finds these packages first, and nothing of this working tree."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
