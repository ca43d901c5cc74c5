"""The ranks of an attempt as processes of this machine: what Ray Train does for a cluster, without its minute of processes of its own.

On the CPU ranks are forked from a process that has imported what they all need (`warm`), so torch is imported once however many there
are. CUDA doesn't survive a fork: a rank that has a GPU is a fresh process. Each rank talks to the driver over a pair of sockets, which a
thread of the driver answers; what it prints goes to a file of its own.

The standard library's `multiprocessing` makes the processes. Neither Ctrl-C nor SIGTERM reaches them, though both may be sent to all that
the terminal started: the driver asks for a checkpoint first.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from finetune_api.bounded_text import shortened
from finetune_api.errors import FineTuneError
from finetune_api.training_run import TrainingRun
from finetune_trainer.launch.mailbox import Mailbox
from finetune_trainer.launch.process_group import cpu_share, free_port, join_process_group, leave_process_group
from finetune_trainer.launch.session import PREFIX, keep_logs, session
from finetune_trainer.launch.warm import WARM_ENV
from finetune_trainer.reporting.events import Event
from finetune_trainer.secrets import Secrets
from finetune_trainer.training.places import Placement
from finetune_trainer.training.surroundings import Position

Answer = TypeVar("Answer")

# How long the other ranks have to fail once one has: what that one says of it is that a connection was closed, when another died first.
SETTLING_SECONDS: Final = 2.0


class RankDied(Exception):
    """A rank's process ended without an error of Python's; `how` is what is known of it, in a few words."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class RankFailed(Exception):
    """An error that a rank raised, in its words."""


class RanksFailed(Exception):
    """Not all ranks got to their end; `worker_failures` says why, by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__(next(str(error) for _, error in sorted(failures.items())))
        self.worker_failures = failures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What a rank begins with; crosses processes."""

    run: str
    placement: Placement
    attempt: str
    position: Position
    log: str
    port: int
    threads: int
    environment: dict[str, str]
    """The driver's: the process that ranks are forked from began with an earlier one."""


@contextmanager
def local_workers(run: TrainingRun, placement: Placement, *, attempt: str, cpus: int, logs: Path) -> Iterator["LocalWorkers"]:
    """As many ranks as the run has, of which nothing is left after the block. Their logs are copied to `logs` if it ends with an error."""
    resource_tracker.ensure_running()  # of multiprocessing, which outlives the session
    folder = tempfile.mkdtemp(prefix=PREFIX)
    with session(folder):
        workers = LocalWorkers(run, placement, attempt=attempt, cpus=cpus, folder=Path(folder))
        try:
            yield workers
        except Exception:
            keep_logs(folder, logs)
            raise
        finally:
            workers.kill()


def warm(modules: Sequence[str]) -> None:
    """Begin to import what ranks on the CPU will need, in the process that they will be forked from, while this one does something else."""
    if not _FORKS:
        return
    os.environ[WARM_ENV] = ",".join(modules)
    _FORKING.set_forkserver_preload(["finetune_trainer.launch.warm"])
    with _deaf():
        forkserver.ensure_running()
    del os.environ[WARM_ENV]
    _WARMED.set()


def apart(call: Callable[[], Answer]) -> Answer:
    """What `call` gives, by a process that is forked where the imports of `warm` are; by this one where there is none.

    Raises what `call` raises. Call and answer cross processes.
    """
    if not _WARMED.is_set():
        return call()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _FORKING.Process(target=_answer_to, args=(call, theirs))
    with _deaf():
        process.start()
    theirs.close()
    with ours:
        try:
            answer, error = ours.recv()
        except EOFError:  # it was killed: a busy machine may have no memory for two
            return call()
        finally:
            process.join()
    if error is not None:
        raise error
    return cast(Answer, answer)


def _answer_to(call: Callable[[], object], line: Connection) -> None:
    try:
        answer: tuple[object, Exception | None] = call(), None
    except Exception as error:
        answer = None, error
    line.send(answer)


# macOS's own libraries don't survive a fork.
_FORKS: Final = sys.platform == "linux"
_WARMED: Final = threading.Event()
_FORKING: Final = multiprocessing.get_context("forkserver")
_FRESH: Final = multiprocessing.get_context("spawn")


def _how(code: int, log: Path) -> str:
    """How a process ended. Libraries that end one themselves, as gloo does, say why on stderr alone."""
    if code == -signal.SIGKILL:
        return "killed, or out of memory"
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if lines:
            said = Secrets().masked(lines[-1].encode()).decode()
            return f"exit code {code}: {shortened(said, 300)}"
    return f"exit code {code}"


class LocalWorkers:
    """One process a rank."""

    def __init__(self, run: TrainingRun, placement: Placement, *, attempt: str, cpus: int, folder: Path) -> None:
        self.mailbox = Mailbox()
        self._one_at_a_time, self._starting = threading.Lock(), threading.Lock()
        self._context: Any = _FORKING if _FORKS and run.plan.device == "cpu" else _FRESH
        workers, port = run.plan.world_size, free_port()
        self._starts = [
            _Start(
                run=run.to_json(),
                placement=placement,
                attempt=attempt,
                position=Position(rank=rank, node=0, worker=rank, workers=workers),
                log=str(folder / f"rank-{rank}.log"),
                port=port,
                threads=max(1, int(cpu_share(cpus, workers))),
                environment=dict(os.environ),
            )
            for rank in range(workers)
        ]
        self._processes: list[BaseProcess] = []
        self._killed = False
        self._raised: dict[int, Exception] = {}

    def fit(self) -> None:
        """Train. Raises RanksFailed; the ranks that are left then are killed."""
        answering = []
        try:
            for rank, start in enumerate(self._starts):
                ours, theirs = multiprocessing.Pipe()
                process = self._context.Process(target=_live, args=(start, theirs), name=f"rank-{rank}")
                with _deaf(), self._starting:
                    if self._killed:
                        return
                    process.start()
                    self._processes.append(process)
                theirs.close()
                answering.append(threading.Thread(target=self._answer, args=(rank, ours), daemon=True))
                answering[-1].start()
            failed = self._wait()
        finally:
            self.kill()
            for thread in answering:
                thread.join()
        if failed:
            raise RanksFailed(
                {rank: self._raised.get(rank) or RankDied(_how(code, Path(self._starts[rank].log))) for rank, code in failed.items()}
            )

    def ask(self, question: Callable[[], Any]) -> Any:
        """The mailbox's answer."""
        with self._one_at_a_time:
            return question()

    def gone(self) -> list[str]:
        """This machine is here."""
        return []

    def departed(self, failure: Exception) -> list[str]:
        """This machine is here."""
        return []

    def kill(self) -> None:
        """End every rank that lives, and start no other."""
        with self._starting:
            self._killed = True
            for process in self._processes:
                if process.is_alive():
                    process.kill()

    def _wait(self) -> dict[int, int]:
        """Until all ranks have ended, or one has failed and the others had a moment to fail too: exit codes of those that did, by rank."""
        left = {process.sentinel: process for process in self._processes}
        while left and not any(process.exitcode for process in self._processes):
            for ended in connection.wait([*left]):
                left.pop(cast(int, ended)).join()
        if left:
            deadline = time.monotonic() + SETTLING_SECONDS
            for process in left.values():
                process.join(max(0.0, deadline - time.monotonic()))
        return {rank: process.exitcode for rank, process in enumerate(self._processes) if process.exitcode}

    def _answer(self, rank: int, line: Connection) -> None:
        """Pass on what a rank tells, until it has ended."""
        with suppress(EOFError, OSError), line:
            while True:
                told, *arguments = line.recv()
                if told == _RAISED:
                    self._raised[rank] = RankFailed(*arguments)
                    continue
                with self._one_at_a_time:
                    answer = getattr(self.mailbox, told)(*arguments)
                line.send(answer)


_RAISED: Final = "raised"


class LineToDriver:
    """A rank's end of the pair of sockets (`training.surroundings.Driver`)."""

    def __init__(self, line: Connection) -> None:
        self._line, self._one_at_a_time = line, threading.Lock()

    def progress(self, what: str) -> None:
        """See the mailbox."""
        self._tell("progress", what)

    def record(self, event: Event) -> None:
        """See the mailbox."""
        self._tell("record", event)

    def fail(self, reason: str, message: str) -> None:
        """See the mailbox."""
        self._tell("fail", reason, message)

    def finish(self, steps_done: int) -> None:
        """See the mailbox."""
        self._tell("finish", steps_done)

    def stop_requested(self) -> bool:
        """See the mailbox."""
        return bool(self._tell("stop_requested"))

    def raised(self, text: str) -> None:
        """What ended this rank; not answered."""
        self._line.send((_RAISED, text))

    def _tell(self, what: str, *arguments: object) -> Any:
        with self._one_at_a_time:
            self._line.send((what, *arguments))
            return self._line.recv()


def _live(start: _Start, line: Connection) -> None:
    """A rank, in its own process."""
    position, driver = start.position, LineToDriver(line)
    _print_to(start.log)
    os.environ.clear()
    os.environ.update(start.environment)
    with suppress(OSError):  # how `ps` and `top` call it
        Path("/proc/self/comm").write_text(f"rank-{position.rank}", encoding="ascii")
    print(f"rank {position.rank} of {position.workers}, process {os.getpid()}")
    try:
        run = TrainingRun.from_json(start.run)
        timeout = run.job.spec.workers.collective_timeout_seconds
        join_process_group(run.plan.device, position, port=start.port, threads=start.threads, timeout_seconds=timeout)
        # The driver imports this file, and no torch.
        from finetune_trainer.training.rank import train_on_rank

        train_on_rank(run, start.placement, driver=driver, position=position, attempt=start.attempt)
        leave_process_group()
    except FineTuneError as error:
        driver.fail(error.reason, str(error))
        raise
    except Exception as error:
        driver.raised(traceback.format_exception_only(error)[-1])
        raise


def _print_to(log: str) -> None:
    """Let this process write what it prints to a file, line by line."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
        cast(Any, stream).reconfigure(line_buffering=True)
    os.close(file)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that this thread starts in the block are born deaf to SIGINT and SIGTERM, and so are theirs."""
    resource_tracker.ensure_running()  # which would end the deafness here (Python 3.11)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
