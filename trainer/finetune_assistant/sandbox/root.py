"""The file system that a sandboxed program sees: the machine's programs and Python, read-only, and one small disk of its own.

In: the folders to show and the size of the disk. Out: this process's root, in a mount namespace of its own. What isn't named here
doesn't exist in it: homes, /run, /var, other disks, the files of whoever runs it. Why a folder is shown is decided in `places.py`.
"""

import os
import stat
from contextlib import suppress

from finetune_assistant.sandbox import kernel
from finetune_assistant.sandbox.parcels import DISK, HOME, WORK

# What is in /dev. Linux's /dev/shm is a folder of the disk here.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "shm": f"{DISK}/shm"}
_FILES_ON_DISK = 4096
# Mounted over while the new root is made: there is one on every machine, and what is shown of it has been copied before.
_BASE = "/usr"


def build(shown: list[str], links: dict[str, str], disk_bytes: int, user: int, group: int) -> None:
    """Make the root and go into it.

    `shown`: absolute paths of files and folders, none below another; what a path leads to is shown at that path. `links`: symbolic
    links, by path. `user` and `group` own the disk. The process must be the first of a new pid namespace, with new mount and user
    namespaces. OSError when it can't be.
    """
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    trees = [(path, _tree(path)) for path in shown]
    devices = [(f"/dev/{name}", kernel.tree(f"/dev/{name}")) for name in _DEVICES]
    kernel.mount("sandbox", _BASE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=4096,mode=755")
    _mount_disk(disk_bytes, user, group)  # before what is shown, which may lie in /tmp
    for path, tree in [*trees, *devices]:
        _show(path, tree)
    for path, target in (links | {f"/dev/{name}": target for name, target in _LINKS.items()}).items():
        os.makedirs(os.path.dirname(_BASE + path), exist_ok=True)
        os.symlink(target, _BASE + path)
    _write_accounts(user, group)
    _mount_proc()
    kernel.mount("", _BASE, "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    kernel.become_root(_BASE)


def _tree(path: str) -> int:
    tree = kernel.tree(path)
    kernel.restrict(tree, kernel.MOUNT_ATTR_RDONLY, kernel.MOUNT_ATTR_NOSUID, kernel.MOUNT_ATTR_NODEV)
    return tree


def _show(path: str, tree: int) -> None:
    """Mount a tree at its own path below the new root; the folders above it are empty but for what is shown."""
    place = _BASE + path
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.attach(tree, place)
    os.close(tree)


def _write_accounts(user: int, group: int) -> None:
    """/etc with one account and this host alone."""
    os.makedirs(f"{_BASE}/etc", exist_ok=True)
    accounts = {
        "passwd": f"user:x:{user}:{group}::{HOME}:/bin/sh\n",
        "group": f"user:x:{group}:\n",
        "hosts": "127.0.0.1 localhost\n",
    }
    for name, text in accounts.items():
        with open(f"{_BASE}/etc/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _mount_proc() -> None:
    """With the program's own processes; an empty folder where the kernel refuses."""
    os.mkdir(f"{_BASE}/proc")
    # In a user namespace there is a new /proc only where no part of the old one is covered, which in a pod it is.
    with suppress(PermissionError):
        kernel.mount("proc", f"{_BASE}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_RDONLY)


def _mount_disk(disk_bytes: int, user: int, group: int) -> None:
    place = _BASE + DISK
    os.makedirs(place, exist_ok=True)
    options = f"size={disk_bytes},nr_inodes={_FILES_ON_DISK},mode=1777,uid={user},gid={group}"
    kernel.mount("sandbox", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for folder in (WORK, HOME, f"{DISK}/shm"):
        os.mkdir(_BASE + folder)
        os.chown(_BASE + folder, user, group)
