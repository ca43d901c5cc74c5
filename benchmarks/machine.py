"""The machine that measurements run on: what it is, and how much of it others used meanwhile."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_OTHERS = 0.1
_ATTEMPTS = 3


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


def least_disturbed(name: str, measure: Callable[[int], dict[str, Any]], wait: float) -> dict[str, Any]:
    """A measurement while the machine is quiet: what `measure(attempt)` gives, again while others took too much, three times at most.

    Waits up to `wait` seconds for quiet before each. `measure` gives the share of others as "others". Says what it did.
    """
    runs: list[dict[str, Any]] = []
    for attempt in range(_ATTEMPTS):
        wait_until_quiet(wait)
        started = time.monotonic()
        runs.append(measure(attempt))
        others = "" if runs[-1]["others"] is None else f", others took {runs[-1]['others']:.0%} of the machine"
        print(f"  {name}: {time.monotonic() - started:.0f} s{others}", file=sys.stderr, flush=True)
        if (runs[-1]["others"] or 0.0) < MOST_OTHERS:
            break
    return min(runs, key=lambda run: run["others"] or 0.0)


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command; the JSON object in its last line, and "others": the share of the machine's processor time that others took.

    None where that is not known. What the command says on stderr is shown only if it fails. Raises CalledProcessError.
    """
    before, own_before = _processor_seconds(), _children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    after, own = _processor_seconds(), _children_seconds() - own_before
    others = None
    if before is not None and after is not None and after[1] > before[1]:
        others = max(0.0, (after[0] - before[0] - own) / (after[1] - before[1]))
    return {**json.loads(done.stdout.splitlines()[-1]), "others": others}


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


def wait_until_quiet(most_seconds: float) -> None:
    """Wait until others leave the machine alone for five seconds, for at most so long."""
    deadline = time.monotonic() + most_seconds
    while (before := _processor_seconds()) and time.monotonic() < deadline:
        time.sleep(5)
        after = _processor_seconds()
        if after and (after[0] - before[0]) / (after[1] - before[1]) < MOST_OTHERS:
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
