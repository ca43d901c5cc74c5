"""The limits of a sandboxed program, and what to say where a machine doesn't hold one to them.

In: what a probe saw from inside (`probe.py`). Out: what isn't enforced, and the remedy. Nothing is run here.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Settings that forbid user namespaces: where, the value that does, what to do.
_FORBIDDING = (
    ("kernel/unprivileged_userns_clone", "0", "set it with `sysctl -w kernel.unprivileged_userns_clone=1`"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "set it with `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run as root",
    ),
    ("user/max_user_namespaces", "0", "set it with `sysctl -w user.max_user_namespaces=10000`"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program, with all that it starts, may use.

    `memory_bytes`: address space of each process, and memory of all together. `cpu_seconds`: of each process. `disk_bytes`: all
    files, which are in memory; `file_bytes`: each. `num_processes`: also threads. `output_bytes`: of standard output and of standard
    error; a program that says more is ended.
    """

    wall_seconds: float = 20.0
    cpu_seconds: int = 15
    memory_bytes: int = 2 << 30
    disk_bytes: int = 64 << 20
    file_bytes: int = 32 << 20
    num_open_files: int = 128
    num_processes: int = 32
    output_bytes: int = 256 << 10

    def order(self) -> dict[str, object]:
        """As the watching process reads it."""
        resources = {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.num_open_files,
            "RLIMIT_NPROC": self.num_processes,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        return {
            "wall_seconds": self.wall_seconds,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "resources": resources,
        }


def not_enforced(seen: Mapping[str, Any], limits: Limits, visible: frozenset[str]) -> list[str]:
    """What the probe could do although it mustn't; empty where all limits hold.

    `visible`: what may be in the file system's root.
    """
    checks = {
        "network": bool(seen["socket_refused"]) and bool(seen["filtered"]),
        "privileges": not seen["capabilities"],
        "other processes": seen["parent"] == 1,
        "files outside": set(seen["root"]) <= visible and bool(seen["write_refused"]) and not seen["writable"],
        "environment": not seen["unexpected_environment"],
        "memory": bool(seen["memory_refused"]),
        "disk": seen["disk_bytes"] <= limits.disk_bytes,
        "number of processes (of root the kernel counts none: run as another user)": seen["num_processes"] <= limits.num_processes,
        "time": 0 < seen["cpu_seconds"] <= limits.cpu_seconds,
    }
    return [name for name, holds in checks.items() if not holds]


def refusal(problem: str, *, platform: str = sys.platform, settings: Path = Path("/proc/sys")) -> str:
    """Why a model's code isn't run here, and the remedy. `problem`: what was tried and failed.

    >>> print(refusal("", platform="darwin"))
    code isn't run: the sandbox needs Linux, and this is darwin; run the same command on a Linux machine or in a Linux virtual machine
    """
    if platform != "linux":
        remedy = "run the same command on a Linux machine or in a Linux virtual machine"
        return f"code isn't run: the sandbox needs Linux, and this is {platform}; {remedy}"
    remedies = [f"{name.replace('/', '.')} is {value}: {remedy}" for name, value, remedy in _FORBIDDING if _is(settings / name, value)]
    if not remedies:
        remedies = [
            "it needs Linux 5.14 or newer on x86_64 or aarch64 with user namespaces; a container needs a seccomp and an AppArmor "
            "profile that allow unshare and mount (Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
            "a pod: securityContext with seccompProfile and appArmorProfile of type Unconfined; a FineTuneJob's: trainer.sandboxProfile "
            "of the chart); or run the same command on a virtual machine"
        ]
    return f"code isn't run: {problem}; {'; '.join(remedies)}"


def _is(path: Path, value: str) -> bool:
    try:
        return path.read_text(encoding="ascii").strip() == value
    except OSError:
        return False
