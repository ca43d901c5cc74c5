"""The runtime handler `host-python`: containers that see this machine's programs, libraries and this checkout's Python, read-only.

A pod asks for it by `runtimeClassName: host-python`. It is a handler of its own, since on the default one these folders would lie
over those of real images. Nothing else of the machine is shown: no home folder, no /etc but certificates, no /tmp.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from finetune_operator import keys

HANDLER: Final = "host-python"
ROOT: Final = Path(__file__).resolve().parents[2]
# /etc/alternatives: what `c++` and its like are links to.
SYSTEM_FOLDERS: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ssl", "/etc/alternatives")
SOURCES: Final = ("operator", "trainer", "examples")
RUNTIME_CLASS: Final[dict[str, Any]] = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": HANDLER},
    "handler": HANDLER,
}


def write_runtime_spec(path: Path) -> Path:
    """Write the containers' base specification: containerd's default, these folders, and as many open files as this machine allows."""
    done = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, check=True)
    spec = json.loads(done.stdout)
    spec["mounts"] += [_read_only(folder) for folder in shown_folders()]
    # A runtime without CAP_SYS_RESOURCE can't raise it further. Ray asks for 65536 and goes on with what there is.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": hard, "hard": hard}]
    path.write_text(json.dumps(spec))
    return path


def shown_folders() -> list[Path]:
    """What a container sees at the same place as here: parents before children.

    The folders above them are made in the container's own file system, so that a Python in a closed home folder can be read too.
    """
    base = Path(sys.base_prefix)
    python = {Path(sys.prefix), base, base.resolve(), Path(sys.executable).resolve().parents[1]}
    wanted = {Path(name) for name in SYSTEM_FOLDERS} | python | {ROOT / name for name in SOURCES}
    return [path for path in sorted(wanted) if path.is_dir() and not _covered(path)]


def hidden_folders(shown: Iterable[Path] | None = None) -> list[Path]:
    """Those of the shown folders that no pod of a job would see: it mounts a volume of its own over a folder above them."""
    over = [Path(folder) for folder in (keys.TEMPORARY_FOLDER, keys.SHARED_MEMORY, keys.SCRATCH_FOLDER)]
    return [path for path in (shown_folders() if shown is None else shown) if any(path.is_relative_to(folder) for folder in over)]


def check_place() -> None:
    """Raise RuntimeError where a job's pods would find no Python: "python: executable file not found" is all that they say."""
    if hidden := hidden_folders():
        raise RuntimeError(
            f"a job's pods mount volumes of their own over /{hidden[0].parts[1]}, where {hidden[0]} is: they would find neither Python nor "
            "this checkout; clone it elsewhere, below your home folder for one, and make .venv there"
        )


def unreadable_files() -> list[Path]:
    """Files of this Python and checkout, in their first levels, that the pods' user may not read: a strict umask made them."""
    return [path for top in shown_folders() if str(top) not in SYSTEM_FOLDERS for path in _files(top) if not path.stat().st_mode & 0o004]


def _files(top: Path, levels: int = 4) -> Iterator[Path]:
    """Files of the first `levels` folders, links aside."""
    for folder, inner, names in os.walk(top):
        if len(Path(folder).relative_to(top).parts) >= levels:
            inner.clear()
        yield from (path for name in names if not (path := Path(folder, name)).is_symlink())


def _covered(path: Path) -> bool:
    """Whether another folder shows it already."""
    return path != Path("/usr") and path.is_relative_to("/usr")


def _read_only(folder: Path) -> dict[str, Any]:
    return {"destination": str(folder), "type": "bind", "source": str(folder), "options": ["rbind", "ro", "nosuid", "nodev"]}
