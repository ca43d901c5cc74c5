"""System calls of Linux that Python has no function for: namespaces, mounts, capabilities, limits of a process's own future.

In: plain values. Out: nothing, or OSError with the kernel's error number. It runs before the sandboxed program in the same process, so
it imports little; what the calls are for is known in `root.py` and `warden.py`. Flags and structures: the kernel's
include/uapi/linux/{sched,mount,prctl,capability}.h. The numbers of mount calls are the same on every architecture (Linux 5.2 and newer).
"""

import ctypes
import errno
import os

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_REC, MS_PRIVATE, MS_BIND = 32, 16384, 1 << 18, 4096
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _MNT_DETACH = -100, 0x1000, 0x8000, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones; a new pid namespace is that of children only."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2): a new file system of `kind`, or a change of the mount at `target`."""
    arguments = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*arguments), f"mount {kind or 'again'} at {target}")


def tree(path: str) -> int:
    """A file descriptor of a copy of the mounts at `path` and below it, attached nowhere yet."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return _checked(_syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree {path}")


def restrict(descriptor: int, *attributes: int) -> None:
    """Set attributes (MOUNT_ATTR_...) of a tree's mounts, all of them; what is set already stays."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    values = (ctypes.c_uint64 * 4)(sum(attributes), 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(values))
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _checked(_syscall(_MOUNT_SETATTR, descriptor, b"", flags, ctypes.byref(values), size), "mount_setattr")


def attach(descriptor: int, target: str) -> None:
    """Mount a tree at `target`: a folder for a folder, a file for a file."""
    arguments = (descriptor, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _checked(_syscall(_MOVE_MOUNT, *arguments), f"move_mount to {target}")


def become_root(folder: str) -> None:
    """Make the mount point `folder` this mount namespace's root; what was there before is out of reach."""
    os.chdir(folder)
    # pivot_root(2), notes: with "." twice the old root lies over the new one and is detached from there.
    _checked(_syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", ctypes.c_int(_MNT_DETACH)), "umount2")
    os.chdir("/")


def die_with_parent(signal: int) -> None:
    """Get `signal` when the thread that started this process ends. A change of user or of namespaces forgets it."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def hide_memory() -> None:
    """Others of the same user may neither read this process's memory nor follow its links in /proc."""
    _prctl(_PR_SET_DUMPABLE, 0)


def gain_nothing() -> None:
    """Programs that are started from here on get no privilege from their files; seccomp(2) wants it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities() -> None:
    """No program that is started from here on has a capability, whoever its user is. Needs CAP_SETPCAP."""
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # past the last one that this kernel knows
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def drop_capabilities() -> None:
    """Give up this process's own."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(none)), "capset")


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _syscall(number: int, *arguments: object) -> int:
    plain = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *plain))
