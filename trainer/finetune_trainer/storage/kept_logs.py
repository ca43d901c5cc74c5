"""Logs that outlive their pods: what a process prints, as objects beside the checkpoints.

    logs/preparation/<pod>/main/000000000000.log                 one object a piece, named by its first byte
    logs/training/<time>-<RayCluster>/driver/000000000000.log    one folder an attempt
    logs/training/<time>-<RayCluster>/rank-0/000000000000.log
    logs/training/<time>-<RayCluster>/rank-0-stderr/000000000000.log

Nothing is written twice and nothing is appended to, so that any storage can keep it. Pieces end with a line, or where no secret is cut.
A log that can't be kept is told once and fails nothing.
"""

import os
import re
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

from finetune_api.errors import FineTuneError
from finetune_trainer.storage.protocol import Storage

LOGS: Final = "logs"
# Added to the name of who printed it, where stderr is another file than stdout.
STDERR: Final = "-stderr"
COPY_SECONDS: Final = 15.0
PIECE_BYTES: Final = 4 * 2**20
# Of one process; what comes after is in its pod alone. A step's line has some 300 bytes: 200,000 of them.
MOST_BYTES: Final = 64 * 2**20
# As long as a Secret may be.
LONGEST_SECRET_BYTES: Final = 2**20
_CUT: Final = b"(this log goes on in the pod; only its first 64 MiB are kept)\n"


def attempt_name(environment: Mapping[str, str] = os.environ) -> str:
    """The folder of an attempt that begins now: sorted by time, and with its RayCluster's name, where KubeRay runs it."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{now}-{environment.get('RAY_CLUSTER_NAME') or 'here'}"


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
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in saved:
        os.dup2(child.stdin.fileno(), number)
    child.stdin.close()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        # A process of ours that lives on may hold the pipe.
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)


@dataclass(slots=True)
class LogPlace:
    """Where a log is kept, once that is known to be the job's own: what was printed before goes there too."""

    storage: Storage | None = None


class _Followed:
    """A file and how much of it is kept."""

    def __init__(self, path: Path, folder: str) -> None:
        self.path, self.folder = path, folder
        self.kept = 0
        self.is_full = False

    def next_piece(self, masked: Callable[[bytes], bytes], *, whole: bool) -> bytes:
        """What comes next, up to the end of a line, or a part of a longer one; `whole`: also a last line without an end."""
        with self.path.open("rb") as file:
            file.seek(self.kept)
            data = file.read(PIECE_BYTES + LONGEST_SECRET_BYTES)
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
    folders: Mapping[str, Sequence[Path]],
    *,
    masked: Callable[[bytes], bytes],
    warn: Callable[[str], None],
    every_seconds: float = COPY_SECONDS,
) -> Iterator[None]:
    """While the block runs and once at its end: copy what files get to the place, by folder below `logs/`.

    Of each folder the files are stdout and, if it is another, stderr.

    `masked`: takes secrets out of what was printed. `warn`: is told once when a log can't be kept.
    """
    followed = [_Followed(path, folder + STDERR * n) for folder, paths in folders.items() for n, path in enumerate(paths)]
    over, keeper = threading.Event(), _Keeper(place, followed, masked, warn)

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
            sys.stdout.flush()
            sys.stderr.flush()
            keeper.copy(whole=True)


class _Keeper:
    """Copies what followed files have got; one thread at a time."""

    def __init__(
        self, place: LogPlace, followed: Sequence[_Followed], masked: Callable[[bytes], bytes], warn: Callable[[str], None]
    ) -> None:
        self._place, self._followed, self._masked, self._warn = place, followed, masked, warn
        self._told = False

    def copy(self, *, whole: bool) -> None:
        """What is new in each file."""
        for log in self._followed:
            try:
                if (storage := self._place.storage) is None:
                    return
                while not log.is_full and (piece := log.next_piece(self._masked, whole=whole)):
                    self._put(storage, log, piece)
            except (OSError, FineTuneError) as error:
                if not self._told:
                    self._told = True
                    self._warn(f"the log is not kept in storage for now: {error}")
                return

    def _put(self, storage: Storage, log: _Followed, piece: bytes) -> None:
        log.is_full = log.kept + len(piece) > MOST_BYTES
        content = _CUT if log.is_full else self._masked(piece)
        storage.put(f"{LOGS}/{log.folder}/{log.kept:012d}.log", content)
        log.kept += len(piece)


_KEY: Final = re.compile(rf"{LOGS}/(?P<stage>[^/]+)/(?P<run>[^/]+)/(?P<who>[^/]+)/(?P<start>\d{{12}})\.log")


def kept_logs(storage: Storage, stage: str) -> dict[str, dict[str, list[str]]]:
    """Keys of the pieces of a stage's logs, in order: by attempt or pod, the oldest first, and by who printed them."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, _ in storage.list(f"{LOGS}/{stage}/"):
        if match := _KEY.fullmatch(key):
            found.setdefault(match["run"], {}).setdefault(match["who"], []).append(key)
    return {run: {who: sorted(keys) for who, keys in of.items()} for run, of in sorted(found.items())}
