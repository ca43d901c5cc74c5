"""Logs that outlive their pods: what a process prints, as objects beside the checkpoints; `kept_runs.py` reads them.

    logs/preparation/<time>-<pod>/main/000000000000.log          one object a piece, named by its first byte
    logs/training/<time>-<RayCluster>/driver/000000000000.log    one folder an attempt
    logs/training/<time>-<RayCluster>/driver/began.json          when it began, and how it ended: of one that was killed, the first alone
    logs/training/<time>-<RayCluster>/driver/ended.json
    logs/training/<time>-<RayCluster>/rank-0/000000000000.log
    logs/training/<time>-<RayCluster>/rank-0-stderr/000000000000.log
    logs/training/<time>-<RayCluster>/rank-0.2/000000000000.log  of the workers that followed those in the same attempt

Nothing is written twice and nothing is appended to, so that any storage can keep it. Pieces end with a line, or where no secret is cut.
A log that can't be kept is told once and fails nothing.
"""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

from finetune_api.errors import FineTuneError, Interrupted
from finetune_trainer.storage.protocol import Storage

LOGS: Final = "logs"
# Added to the name of who printed it, where stderr is another file than stdout.
STDERR: Final = "-stderr"
COPY_SECONDS: Final = 15.0
PIECE_BYTES: Final = 4 * 2**20
# Of one process; what comes after is in its pod alone. A step's line has some 300 bytes: 200,000 of them.
MOST_BYTES: Final = 64 * 2**20
# Of a log of another program.
MOST_BYTES_OF_OTHERS: Final = 16 * 2**20
BEGAN: Final = "began.json"
ENDED: Final = "ended.json"
# As long as a Secret may be.
LONGEST_SECRET_BYTES: Final = 2**20


def attempt_name(environment: Mapping[str, str] = os.environ) -> str:
    """The folder of an attempt that begins now, with its RayCluster's name, where KubeRay runs it."""
    return begun_now(environment.get("RAY_CLUSTER_NAME") or "here")


def begun_now(name: str) -> str:
    """The folder of what begins now: names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}"


def log_name(rank: int, start: int) -> str:
    """Whose log it is: of a rank among the attempt's first workers, its second and so on.

    >>> log_name(0, 1), log_name(0, 2)
    ('rank-0', 'rank-0.2')
    """
    return f"rank-{rank}" + (f".{start}" if start > 1 else "")


def printed_to() -> list[Path]:
    """The files that this process's stdout and stderr are, as Ray makes them; none where they are no files."""
    found = []
    for number in (1, 2):
        with suppress(OSError):
            if stat.S_ISREG(os.fstat(number).st_mode):
                found.append(Path(os.readlink(f"/proc/self/fd/{number}")))
    return list(dict.fromkeys(path for path in found if path.exists()))


@contextmanager
def teed(path: Path) -> Iterator[None]:
    """While the block runs, what this process prints goes to a file too. `tee` does it: nothing is lost when the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        child = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE, start_new_session=True)
    except OSError:  # no tee: the log is where it always was
        yield
        return
    assert child.stdin is not None
    _flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in saved:
        os.dup2(child.stdin.fileno(), number)
    child.stdin.close()
    try:
        yield
    finally:
        _flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        # A process of ours that lives on may hold the pipe.
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a process ended: Done, Stopped or Failed. `reason`: the class of what went wrong. `exit_code`: of a process that has one."""

    outcome: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> "End":
        """The end that an error is."""
        if isinstance(error, Interrupted):
            return cls(outcome="Stopped", message=str(error))
        reason = error.reason if isinstance(error, FineTuneError) else type(error).__name__
        return cls(outcome="Failed", reason=reason, message=str(error))


@dataclass(slots=True)
class LogPlace:
    """Where a log is kept, once that is known to be the job's own: what was printed before goes there too. `end`: once it has ended."""

    storage: Storage | None = None
    end: End | None = None


class _Followed:
    """A file and how much of it is kept."""

    def __init__(self, path: Path, folder: str, most_bytes: int) -> None:
        self.path, self.folder, self._most_bytes = path, folder, most_bytes
        self.kept = 0
        self.is_full = False

    def put(self, storage: Storage, piece: bytes, masked: Callable[[bytes], bytes]) -> None:
        """Keep a piece, or, in place of the first one that is too much, a line that says so."""
        self.is_full = self.kept + len(piece) > self._most_bytes
        cut = f"(this log goes on in the pod; only its first {self._most_bytes >> 20} MiB are kept)\n".encode()
        storage.put(f"{LOGS}/{self.folder}/{self.kept:012d}.log", cut if self.is_full else masked(piece))
        self.kept += len(piece)

    def next_piece(self, masked: Callable[[bytes], bytes], *, whole: bool) -> bytes:
        """What comes next, up to the end of a line, or a part of a longer one; `whole`: also a last line without an end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.kept)
                data = file.read(PIECE_BYTES + LONGEST_SECRET_BYTES)
        except FileNotFoundError:  # who wrote it has taken it away
            return b""
        if whole and len(data) <= PIECE_BYTES:
            return data
        if end := max(data.rfind(end, 0, PIECE_BYTES) for end in (b"\n", b"\r")) + 1:
            return data[:end]
        # A secret that begins within the piece has to be there as a whole.
        is_enough = whole or len(data) == PIECE_BYTES + LONGEST_SECRET_BYTES
        return data[: _between_secrets(data, masked)] if is_enough else b""


def _between_secrets(data: bytes, masked: Callable[[bytes], bytes]) -> int:
    """Where to cut a line, at PIECE_BYTES or a secret's length before: both parts are masked as the whole is."""
    # As far back as a secret reaches that the earliest cut would meet.
    first = max(PIECE_BYTES - 2 * LONGEST_SECRET_BYTES, 0)
    part, furthest = data[first:], min(LONGEST_SECRET_BYTES, PIECE_BYTES - 1)
    as_one = masked(part)
    leaps = (1 << n for n in range(furthest.bit_length()))
    for back in chain([0], leaps, range(furthest + 1)):
        cut = PIECE_BYTES - back - first
        if masked(part[:cut]) + masked(part[cut:]) == as_one:
            return first + cut
    return PIECE_BYTES


@contextmanager
def kept(
    place: LogPlace,
    folder: str,
    files: Sequence[Path],
    *,
    masked: Callable[[bytes], bytes],
    warn: Callable[[str], None],
    others: Callable[[], Mapping[str, Path]] = dict,
    every_seconds: float = COPY_SECONDS,
) -> Iterator[None]:
    """While the block runs and once at its end: copy what the files get to the place, below `logs/<folder>/`; then how the process ended.

    The files are stdout and, if it is another, stderr. `others`: logs of other programs, by folder, asked for anew each time.
    `masked`: takes secrets out of what was printed. `warn`: is told once when a log can't be kept.
    """
    over, keeper = threading.Event(), _Keeper(place, folder, files, others, masked, warn)

    def follow() -> None:
        while not over.wait(every_seconds):
            keeper.copy(whole=False)

    thread = threading.Thread(target=follow, name="kept-logs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
        if not thread.is_alive():
            _flush()
            keeper.copy(whole=True)


class _Keeper:
    """Copies what followed files have got; one thread at a time."""

    def __init__(
        self,
        place: LogPlace,
        folder: str,
        files: Sequence[Path],
        others: Callable[[], Mapping[str, Path]],
        masked: Callable[[bytes], bytes],
        warn: Callable[[str], None],
    ) -> None:
        self._place, self._folder, self._others, self._masked, self._warn = place, folder, others, masked, warn
        self._followed = {folder + STDERR * n: _Followed(path, folder + STDERR * n, MOST_BYTES) for n, path in enumerate(files)}
        self._began: str | None = _now()
        self._told = False

    def copy(self, *, whole: bool) -> None:
        """What is new in each file; `whole`: for the last time, and then how the process ended."""
        try:
            if (storage := self._place.storage) is None:
                return
            if self._began is not None:
                self._record(storage, BEGAN, {"time": self._began})
                self._began = None
            for folder, path in self._others().items():
                self._followed.setdefault(folder, _Followed(path, folder, MOST_BYTES_OF_OTHERS))
            for log in self._followed.values():
                while not log.is_full and (piece := log.next_piece(self._masked, whole=whole)):
                    log.put(storage, piece, self._masked)
            if whole and (end := self._place.end) is not None:
                told = {"outcome": end.outcome, "reason": end.reason, "message": end.message, "exitCode": end.exit_code}
                self._record(storage, ENDED, {"time": _now()} | {name: value for name, value in told.items() if value not in ("", None)})
        except (OSError, FineTuneError) as error:
            if not self._told:
                self._told = True
                self._warn(f"the log is not kept in storage for now: {error}")

    def _record(self, storage: Storage, name: str, record: Mapping[str, object]) -> None:
        storage.put(f"{LOGS}/{self._folder}/{name}", self._masked(json.dumps(record, ensure_ascii=False).encode(errors="replace")))


def _flush() -> None:
    """Let what this process has printed leave its buffers. On a full disk it can't, which is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
