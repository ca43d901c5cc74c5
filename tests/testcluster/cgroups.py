"""A control group for each node, as the root under which its kubelet puts pods.

Two kubelets that share a root delete each other's pods. Both hierarchies are known: version 1 (one per controller) and version 2.
The processes found here are the pods' own: how they are found again after a crash, whoever started them.
"""

import contextlib
import time
from pathlib import Path
from typing import Final

from tests.testcluster.network import end

CGROUPS: Final = Path("/sys/fs/cgroup")
PARENT: Final = "finetune-cluster"
_CONTROLLERS: Final = "+cpuset +cpu +io +memory +pids"


def cgroup(node: str) -> str:
    """The kubelet's `cgroupRoot`."""
    return f"/{PARENT}/{node}"


def make_cgroups(node: str) -> None:
    """Make the node's groups, so that a kubelet may make groups in them."""
    for hierarchy in _hierarchies():
        if hierarchy.name == "unified":
            continue  # has no controllers; runc makes what it needs
        folder = hierarchy
        for name in (PARENT, node):
            if (folder / "cgroup.controllers").exists():
                (folder / "cgroup.subtree_control").write_text(_CONTROLLERS)
            parent, folder = folder, folder / name
            folder.mkdir(exist_ok=True)
            # A new group of this controller has no processor and no memory bank, and holds no process until it does.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (parent / setting).exists() and "cpuset" in hierarchy.name:
                    (folder / setting).write_text((parent / setting).read_text())


# A killed process with gigabytes of memory is gone when the kernel has taken them back, which a busy machine does late.
_END_SECONDS = 60.0


def processes_of(node: str) -> list[int]:
    """Ids of all processes in the node's pods."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for listing in (hierarchy / PARENT / node).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in listing.read_text().split()}
    return sorted(found)


def containers_of(node: str) -> dict[int, str]:
    """Processes in the node's containers -> the container's id, which is its group's name."""
    found: dict[int, str] = {}
    hierarchy = next(one for one in _hierarchies() if (one / PARENT / node).exists())
    for listing in (hierarchy / PARENT / node).rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found |= dict.fromkeys(map(int, listing.read_text().split()), listing.parent.name)
    return found


def end_pods(node: str) -> None:
    """Kill all processes in the node's pods. Raises RuntimeError for those that the kernel doesn't let go."""
    deadline = time.monotonic() + _END_SECONDS
    while processes := processes_of(node):
        end(processes)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {processes} of {node} do not end")


def remove_cgroups(seconds: float = 10.0) -> None:
    """Kill what runs in any node's groups and remove them; nothing happens when there are none."""
    for node in {path.name for hierarchy in _hierarchies() for path in (hierarchy / PARENT).glob("*/")}:
        end_pods(node)
    deadline = time.monotonic() + seconds
    for hierarchy in _hierarchies():
        # The deepest first. A group stays busy for a moment after its last process has ended.
        for folder in sorted([hierarchy / PARENT, *(hierarchy / PARENT).rglob("*/")], reverse=True):
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)


def cgroups_exist() -> bool:
    return any((hierarchy / PARENT).exists() for hierarchy in _hierarchies())


def _hierarchies() -> list[Path]:
    """The root folder of each hierarchy."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]
