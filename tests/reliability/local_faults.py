"""What happens to a run on this machine: each fault comes at a moment that its seed draws; then the same command is typed again.

A fault strikes a command that runs, and says when it did. `local_runs` tells the rest, which is the same for all.
"""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.reliability.command import Command, Stuck
from tests.reliability.place import INTERVAL_STEPS, TOTAL_STEPS, Place
from tests.reliability.with_nan import NAN_ENV
from tests.trainer.faulty_proxy import Fault

# For how long S3, the Hub or the disk is away.
OUTAGE_SECONDS: Final = float(os.environ.get("OUTAGE_SECONDS", "60"))
_SLOW_BYTES_PER_SECOND: Final = 1e6
_ERRORS: Final = 0.05
_FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
# A step takes about so long; a moment is drawn within it.
_STEP_SECONDS: Final = 0.4
_EVER: Final = 1_000_000_000


class Unavailable(Exception):
    """This machine can't do that fault; says what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """What happened, and when; `check` says what of the bar was missed beside what is looked at after every fault."""

    moment: str
    at: float
    check: Callable[[], list[str]] = list


@contextmanager
def _nothing(_: Place) -> Iterator[None]:
    yield


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFault:
    """`does`: in a few words. `before`: around all commands. `trains_on`: no step waits for another command.

    `steps_lost`: the most that may be; an interval, and what is trained while a checkpoint is written, which is at most another.
    """

    does: str
    strike: Callable[[Place, Command], Struck]
    before: Callable[[Place], contextlib.AbstractContextManager[None]] = _nothing
    trains_on: bool = False
    steps_lost: int = 2 * INTERVAL_STEPS


def _at_step(place: Place, command: Command, first: int = 1) -> str:
    """Wait until some moment within a step."""
    step, seconds = place.chance.randint(first, TOTAL_STEPS - 1), place.chance.uniform(0, _STEP_SECONDS)
    _reach(command, "StepDone", step=step)
    time.sleep(seconds)
    return f"step {step} + {seconds:.2f} s"


def _reach(command: Command, kind: str, **fields: object) -> None:
    if not command.until(kind, **fields):
        raise Stuck(f"ended before the fault: {command.said()}")


def _anywhere(place: Place, command: Command) -> str:
    """Within a step, or in what follows the last one."""
    stage = place.chance.choice(["training", "training", "training", "export", "publication"])
    if stage == "training":
        return _at_step(place, command)
    seconds = place.chance.uniform(0, 1.0)
    _reach(command, "StageStarted", stage=stage)
    time.sleep(seconds)
    return f"{stage} + {seconds:.2f} s"


def _struck(moment: str) -> Struck:
    return Struck(moment=moment, at=time.monotonic())


# Processes


def _kill_worker(place: Place, command: Command) -> Struck:
    rank = place.chance.randrange(2)
    moment = _at_step(place, command)
    os.kill(command.rank(rank), signal.SIGKILL)
    return _struck(f"{moment}, rank {rank}")


def _kill_driver(place: Place, command: Command) -> Struck:
    moment = _anywhere(place, command)
    os.kill(command.process.pid, signal.SIGKILL)
    return _struck(moment)


def _kill_all(place: Place, command: Command) -> Struck:
    moment = _anywhere(place, command)
    command.signal_all(signal.SIGKILL)
    return _struck(moment)


@contextmanager
def _short_patience(place: Place) -> Iterator[None]:
    place.settings["workers.collectiveTimeoutSeconds"] = 30
    yield


def _stop_rank(place: Place, command: Command) -> Struck:
    rank = place.chance.randrange(2)
    moment = _at_step(place, command)
    os.kill(command.rank(rank), signal.SIGSTOP)
    return _struck(f"{moment}, rank {rank}")


def _freeze(place: Place, command: Command) -> Struck:
    """All of it is stopped, another takes over elsewhere, and then it wakes up."""
    moment = _at_step(place, command)
    command.signal_all(signal.SIGSTOP)
    with place.running(place.folder / "elsewhere") as other:
        code = other.end()
    storage = place.checkpoints().storage
    before = storage.versions("checkpoints/")
    command.signal_all(signal.SIGCONT)
    at = time.monotonic()

    def check() -> list[str]:
        after = storage.versions("checkpoints/")
        foreign = [key for key, _, _ in set(after) - set(before) if "/attempt-0001/" not in key or key.endswith("manifest.json")]
        return [
            *([f"the run that took over ended with exit code {code}: {other.said()}"] if code else []),
            *(["what had been replaced deleted"] if set(before) - set(after) else []),
            *(["what had been replaced committed"] if foreign else []),
        ]

    return Struck(moment=moment, at=at, check=check)


@contextmanager
def _spoilt(place: Place) -> Iterator[None]:
    step, rank = place.chance.randint(1, TOTAL_STEPS), place.chance.randrange(2)
    place.program = (sys.executable, "-m", "tests.reliability.with_nan")
    place.environment[NAN_ENV] = f"{step},{rank},{place.folder / 'happened'}"
    yield


def _nan(place: Place, command: Command) -> Struck:
    step, rank, _ = place.environment[NAN_ENV].split(",")
    if step != "1":
        _reach(command, "StepDone", step=int(step) - 1)
    return _struck(f"step {step}, rank {rank}")


# The disk


@contextmanager
def _small_disk(place: Place) -> Iterator[None]:
    """Run folder, checkpoints, caches and temporary files are on a disk of their own."""
    if os.geteuid() != 0:
        raise Unavailable("disk-full mounts a small tmpfs: run it as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(place.folder)], check=True)
    try:
        place.storage = str(place.folder / "storage")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place.folder)], check=True)


def _fill(place: Place, command: Command) -> Struck:
    moment = _at_step(place, command)
    ballast = place.folder / "ballast"
    at = time.monotonic()
    until = at + OUTAGE_SECONDS / 2
    with ballast.open("wb", buffering=0) as file:
        while time.monotonic() < until and command.process.poll() is None:
            try:
                file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                time.sleep(0.05)  # what is deleted meanwhile is taken, too
    ballast.unlink()
    return Struck(moment=moment, at=at)


# S3


def _for_a_while(command: Command) -> None:
    """As long as an outage lasts, or until the command ends."""
    deadline = time.monotonic() + OUTAGE_SECONDS
    while time.monotonic() < deadline and command.process.poll() is None:
        time.sleep(0.1)


def _s3_down(place: Place, command: Command) -> Struck:
    moment = _at_step(place, command)
    struck = _struck(moment)
    place.s3_line.is_down = True
    _for_a_while(command)
    place.s3_line.heal()
    return struck


def _s3_slow(place: Place, command: Command) -> Struck:
    moment = _at_step(place, command)
    place.s3_line.bytes_per_second = _SLOW_BYTES_PER_SECOND
    return _struck(f"from {moment} on")


def _some(chance: random.Random, share: float, match: str, **fault: object) -> list[Fault]:
    """Faults of a share of the next requests."""
    return [
        Fault(match=match, after=number, status=chance.choice([500, 503]), **fault)  # type: ignore[arg-type]
        for number in range(1000)
        if chance.random() < share
    ]


def _s3_errors(place: Place, command: Command) -> Struck:
    moment = _at_step(place, command)
    place.s3_proxy.faults.extend(_some(place.chance, _ERRORS, ".", action="refuse", code="InternalError"))
    return _struck(f"from {moment} on")


def _s3_full(place: Place, command: Command) -> Struck:
    moment = _at_step(place, command)
    struck = _struck(moment)
    place.s3_proxy.faults.append(Fault(match="^(PUT|POST)", action="refuse", times=_EVER, status=507, code="InsufficientStorage"))
    _for_a_while(command)
    place.s3_proxy.faults.clear()
    return struck


def _s3_cut_answers(place: Place, command: Command) -> Struck:
    struck = _kill_worker(place, command)
    place.s3_proxy.faults.extend(_some(place.chance, 0.3, r"^GET \S+\.(bin|json)", action="truncate"))
    return struck


def _damage(change: Callable[[bytearray, random.Random], bytes]) -> Callable[[Place, Command], Struck]:
    def strike(place: Place, command: Command) -> Struck:
        moment = _at_step(place, command, first=3 * INTERVAL_STEPS)  # there are two checkpoints by then
        command.signal_all(signal.SIGKILL)
        struck = _struck(moment)
        checkpoints = place.checkpoints()
        newest = checkpoints.newest_verified()
        assert newest is not None
        key = place.chance.choice(newest.objects).key
        checkpoints.storage.put(key, change(bytearray(checkpoints.storage.get(key)), place.chance))
        return Struck(moment=f"{struck.moment}, an object of step {newest.step}", at=struck.at)

    return strike


def _truncated(content: bytearray, chance: random.Random) -> bytes:
    return bytes(content[: chance.randrange(len(content))])


def _altered(content: bytearray, chance: random.Random) -> bytes:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


# The Hub


def _hub_down(place: Place, command: Command) -> Struck:
    seconds = place.chance.uniform(0, 2.0)
    if place.chance.random() < 0.5:
        time.sleep(seconds)
        moment = f"{seconds:.2f} s after the start"
    else:
        _reach(command, "StageStarted", stage="publication")
        time.sleep(seconds / 4)
        moment = f"publication + {seconds / 4:.2f} s"
    struck = _struck(moment)
    place.hub_line.is_down = True
    _for_a_while(command)
    place.hub_line.heal()
    return struck


@contextmanager
def _slow_hub(place: Place) -> Iterator[None]:
    place.hub_line.bytes_per_second = _SLOW_BYTES_PER_SECOND / 10
    yield


@contextmanager
def _cutting_hub(place: Place) -> Iterator[None]:
    place.hub_line.chance, place.hub_line.cuts = place.chance, 0.3
    yield


def _from_the_start(place: Place, command: Command) -> Struck:
    return _struck("from the start")


# Clocks


@contextmanager
def _false_clock(place: Place) -> Iterator[None]:
    if not _FAKETIME.exists():
        raise Unavailable("clock-jump needs libfaketime: apt-get install faketime")
    clock = place.folder / "clock"
    clock.write_text("+0\n")
    place.environment |= {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    yield


def _jump(place: Place, command: Command) -> Struck:
    hours = place.chance.choice([-1, 1]) * place.chance.randint(1, 48)
    moment = _at_step(place, command)
    struck = _struck(f"{moment}, by {hours:+d} h")
    (place.folder / "clock").write_text(f"{hours:+d}h\n")
    time.sleep(OUTAGE_SECONDS / 3)
    (place.folder / "clock").write_text("+0\n")
    return struck


LOCAL_FAULTS: Final[Mapping[str, LocalFault]] = {
    "worker-killed": LocalFault(does="`kill -9` of a worker", strike=_kill_worker),
    "driver-killed": LocalFault(does="`kill -9` of the command", strike=_kill_driver),
    "all-killed": LocalFault(does="`kill -9` of everything, as a reboot does", strike=_kill_all),
    "worker-stopped": LocalFault(
        does="SIGSTOP of a worker; others wait 30 s for its gradients (`collectiveTimeoutSeconds`), 600 s for any other word of it",
        strike=_stop_rank,
        before=_short_patience,
    ),
    "all-frozen": LocalFault(does="SIGSTOP of everything, another takes over, SIGCONT", strike=_freeze),
    "nan": LocalFault(does="a worker's loss is no number, once", strike=_nan, before=_spoilt),
    "disk-full": LocalFault(
        does=f"no room for {OUTAGE_SECONDS / 2:.0f} s: run folder, checkpoints and caches on one disk", strike=_fill, before=_small_disk
    ),
    "s3-down": LocalFault(does=f"S3 is down for {OUTAGE_SECONDS:.0f} s", strike=_s3_down, trains_on=True),
    "s3-slow": LocalFault(does="S3 at 1 MB/s", strike=_s3_slow, trains_on=True),
    "s3-errors": LocalFault(does="5 % of S3's answers are 500 or 503", strike=_s3_errors, trains_on=True),
    "s3-full": LocalFault(does=f"S3 has no room for {OUTAGE_SECONDS:.0f} s", strike=_s3_full, trains_on=True),
    "s3-cuts-answers": LocalFault(does="a worker is killed, and 30 % of what is read then ends in the middle", strike=_s3_cut_answers),
    "object-truncated": LocalFault(
        does="everything is killed, and the newest checkpoint lacks a part", strike=_damage(_truncated), steps_lost=3 * INTERVAL_STEPS
    ),
    "object-altered": LocalFault(
        does="everything is killed, and a bit of the newest checkpoint is another", strike=_damage(_altered), steps_lost=3 * INTERVAL_STEPS
    ),
    "hub-down": LocalFault(does=f"the Hub is down for {OUTAGE_SECONDS:.0f} s", strike=_hub_down),
    "hub-slow": LocalFault(does="the Hub at 100 kB/s", strike=_from_the_start, before=_slow_hub, trains_on=True),
    "hub-cuts": LocalFault(does="30 % of connections to the Hub end within 200 kB", strike=_from_the_start, before=_cutting_hub),
    "clock-jump": LocalFault(
        does=f"the clock jumps by hours, and back after {OUTAGE_SECONDS / 3:.0f} s (libfaketime)",
        strike=_jump,
        before=_false_clock,
        trains_on=True,
    ),
}
