"""The project as it was when it was first installed by others: what an upgrade begins from, and what a rollback goes back to."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

from tests.conftest import ROOT

FORMER: Final = "038631c"
CHART: Final = "charts/finetune-operator"
# Sources of data in its jobs: `name` is `path` now, and each field is there whose rule reads that.
FORMER_SOURCES: Final[list[dict[str, Any]]] = [
    {"name": "org/data", "config": "en", "revision": "v2", "tokenSecret": {"name": "hub"}},
    {"name": "s3://bucket/data", "format": "messages", "credentialsSecret": {"name": "s3"}},
]


def is_at_hand() -> bool:
    """Whether the history goes back so far; a shallow clone's doesn't."""
    return subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{FORMER}^{{commit}}"], capture_output=True, check=False).returncode == 0


def former_tree(folder: Path, *paths: str) -> Path:
    """These paths of that commit, in `folder`. Raises RuntimeError where the history isn't at hand: it can't be made up."""
    command = ["git", "-C", ROOT, "archive", "--format=tar", FORMER, "--", *paths]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        told = done.stderr.decode().strip()
        raise RuntimeError(f"upgrades begin at commit {FORMER}, which git doesn't give ({told}); in a shallow clone: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
