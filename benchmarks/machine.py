"""The machine that measurements run on: what it is, and how much of it others used meanwhile."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def describe() -> dict[str, str | int]:
    """Processor, cores and memory, without names that belong to this machine alone."""
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _field(file: Path, name: str) -> str | None:
    """The first value of a field in a file of `name : value` lines; None where there is none."""
    if not file.is_file():
        return None
    found = (line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith(name))
    return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a command printed, and the share of the machine's processor time that others took while it ran (None: not known here)."""

    output: str
    others: float | None


def watched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command and keep its output; what it says on stderr is shown only if it fails. Raises CalledProcessError."""
    before, own_before = _processor_seconds(), _children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    after, own = _processor_seconds(), _children_seconds() - own_before
    if before is None or after is None or after[1] == before[1]:
        return Watched(output=done.stdout, others=None)
    busy, total = after[0] - before[0], after[1] - before[1]
    return Watched(output=done.stdout, others=max(0.0, (busy - own) / total))


class Clock:
    """Time and processor time since it was made, and the memory that this process has needed at most so far."""

    def __init__(self) -> None:
        self._started, self._processor = time.perf_counter(), self._used()

    def read(self) -> dict[str, float | int]:
        """Of this process and of children that have ended. Memory in MiB; of the children that of the largest one."""
        seconds, processor = time.perf_counter() - self._started, self._used() - self._processor
        own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(processor, 2),
            "peak_memory_mib": own // 1024,
            "largest_child_mib": children // 1024,
        }

    def _used(self) -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def wait_until_quiet(most_seconds: float, share: float = 0.1) -> None:
    """Wait until others take less than `share` of the machine over five seconds, for at most so long."""
    deadline = time.monotonic() + most_seconds
    while (before := _processor_seconds()) and time.monotonic() < deadline:
        time.sleep(5)
        after = _processor_seconds()
        if after and (after[0] - before[0]) / (after[1] - before[1]) < share:
            return


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor_seconds() -> tuple[float, float] | None:
    """(busy, all) processor seconds of the whole machine since it started; what a hypervisor took away counts as busy."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    ticks = [int(value) for value in stat.read_text().split("\n", 1)[0].split()[1:9]]  # user nice system idle iowait irq softirq steal
    idle, total = ticks[3] + ticks[4], sum(ticks)
    frequency = os.sysconf("SC_CLK_TCK")
    return (total - idle) / frequency, total / frequency
