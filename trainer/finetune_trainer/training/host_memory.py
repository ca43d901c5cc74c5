"""How much memory this process may still take: what is free on the machine, and below the limit of its container."""

from pathlib import Path

_ROOT = Path("/")


def available_memory_bytes(root: Path = _ROOT) -> int | None:
    """The smaller of the two; None where the system tells neither. File caches that can be given up count as free."""
    found = [free for free in (_free_on_machine(root), _free_below_limit(root)) if free is not None]
    return min(found, default=None)


def _free_on_machine(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _free_below_limit(root: Path) -> int | None:
    """Of cgroup v2, as containers see their own: at the root of its file system."""
    group = root / "sys/fs/cgroup"
    limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if not limit or not used or limit[0] == "max":
        return None
    caches = {name: int(value) for name, _, value in (line.partition(" ") for line in _lines(group / "memory.stat"))}
    return max(0, int(limit[0]) - int(used[0]) + caches.get("inactive_file", 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
