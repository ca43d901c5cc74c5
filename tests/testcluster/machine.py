"""What a cluster changes on this machine beyond its own folder, and how all of it is removed, also after a crash.

There is one cluster on a machine at a time, since its network has a fixed name; a mark in /run says in which folder it lives. What a
crash left is found again by three marks that don't depend on who started what: records of processes, the network name space,
the nodes' control groups.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.testcluster import cgroups, network
from tests.testcluster.node import Node, mounts_below, remove_leftovers, unmount_below
from tests.testcluster.processes import Processes
from tests.testcluster.s3 import remove_s3_sockets

MARK: Final = Path("/run/finetune-cluster")
LOCK: Final = Path("/run/finetune-cluster.lock")
# A kubelet sets these for the whole machine.
KERNEL_SETTINGS: Final = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
                          "kernel/keys/root_maxbytes")  # fmt: skip
# A kubelet's socket for device plugins is here, whatever its root folder is.
KUBELET_FOLDER: Final = Path("/var/lib/kubelet")


def existing() -> Path | None:
    """Folder of the cluster that is up on this machine, or was when it crashed."""
    return Path(MARK.read_text().strip()) if MARK.exists() else None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One start or removal at a time on this machine; the kernel lets go of it when the process ends."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"a test cluster is being started or removed at this moment, in {existing()}; try again") from None
        yield


def mark(folder: Path) -> None:
    """Say where the cluster lives. Its folder is deleted with it, so nothing else may be in there."""
    if folder.exists() and any(folder.iterdir()):
        raise RuntimeError(f"{folder} is not empty; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    MARK.write_text(str(folder))


def remove(folder: Path, *, keep_logs: bool = False) -> None:
    """Remove the cluster in `folder` and all that any cluster left; nothing happens when there is none. The caller is `alone`."""
    records = folder / "processes"
    if records.exists():
        # Idle connections would hold SeaweedFS for 15 s.
        Processes(records).stop_all(grace_seconds=3.0)
    _end_all()
    for node in nodes_in(folder):
        remove_leftovers(node)
    unmount_below(folder)
    clear()
    remove_s3_sockets()
    restore(folder)
    for path in folder.glob("*"):
        if not (keep_logs and path == records):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if folder.exists() and not keep_logs:
        folder.rmdir()
    MARK.unlink(missing_ok=True)


def _end_all() -> None:
    """End every process of every node, whoever started it: those in the cluster's network, then the pods'."""
    network.end(network.processes_inside())
    cgroups.remove_cgroups()


def clear() -> None:
    """Remove what lies in no cluster's folder and is found by its name."""
    _end_all()
    network.remove_network()


def leftovers() -> list[str]:
    """What is still there of a cluster, in words; nothing after `remove`."""
    folder = existing()
    found = {
        f"the mark {MARK}": MARK.exists(),
        f"the network name space {network.NAMESPACE}": network.network_exists(),
        f"the network device {network.CABLE}": Path(f"/sys/class/net/{network.CABLE}").exists(),
        f"control groups {cgroups.PARENT}": cgroups.cgroups_exist(),
        f"mounts below {folder}": folder is not None and bool(mounts_below(folder)),
    }
    return [what for what, there in found.items() if there]


def nodes_in(folder: Path) -> list[Node]:
    """The nodes whose folders are there."""
    return [Node(index=int(path.name.removeprefix("node-")), folder=path) for path in sorted(folder.glob("node-[0-9]*"))]


def remember(folder: Path) -> None:
    """Write down what a kubelet is about to change on this machine."""
    settings = {name: Path("/proc/sys", name).read_text().strip() for name in KERNEL_SETTINGS if Path("/proc/sys", name).exists()}
    (folder / "machine.json").write_text(json.dumps({"settings": settings, "kubelet_folder": KUBELET_FOLDER.exists()}))


def restore(folder: Path) -> None:
    """Put it back."""
    memory = folder / "machine.json"
    if not memory.exists():
        return
    before = json.loads(memory.read_text())
    for name, value in before["settings"].items():
        if Path("/proc/sys", name).read_text().strip() != value:
            Path("/proc/sys", name).write_text(value)
    if not before["kubelet_folder"]:
        shutil.rmtree(KUBELET_FOLDER, ignore_errors=True)
