"""Large objects a few pieces at a time: blocks joined to parts, and two maps over threads. Knows no storage."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from finetune_trainer.files.atomic import Bytes

A = TypeVar("A")
B = TypeVar("B")
# A part, and a range read. S3 wants parts of at least 5 MiB.
PART_BYTES = 8 * 2**20
# S3 takes 10,000 parts: after each thousand they grow by PART_BYTES, so that an object may have 430 GiB without knowing its size first.
_PARTS_OF_ONE_SIZE = 1000


def parts(blocks: Iterable[Bytes]) -> Iterator[Bytes]:
    """Blocks joined to parts of at least PART_BYTES, but for the last. A block of that size is passed on without a copy.

    >>> [len(part) // 2**20 for part in parts(bytes(3 * 2**20) for _ in range(7))]
    [9, 9, 3]
    """
    waiting: list[Bytes] = []
    size = count = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= PART_BYTES * (1 + count // _PARTS_OF_ONE_SIZE):
            yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, size, count = [], 0, count + 1
    if waiting:
        yield b"".join(waiting)


def in_order(action: Callable[[A], B], items: Iterable[A], parallel: int) -> Iterator[B]:
    """`map(action, items)` on threads, for large results: at most `parallel` are under way or wait to be taken. The first error ends it."""
    pending: deque[Future[B]] = deque()
    with ThreadPoolExecutor(parallel, thread_name_prefix="storage") as threads:
        try:
            for item in items:
                if len(pending) == parallel:
                    yield pending.popleft().result()
                pending.append(threads.submit(action, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()


def at_once(action: Callable[[A], B], items: Iterable[A], parallel: int) -> list[B]:
    """`map(action, items)` on threads, for large items: `parallel` are under way, and two more wait, so that no thread does.

    An item that takes long holds up none after it. The first error ends it.
    """
    room, failed = threading.Semaphore(parallel + 1), threading.Event()

    def run(item: A) -> B:
        try:
            return action(item)
        except BaseException:
            failed.set()
            raise
        finally:
            room.release()

    started: list[Future[B]] = []
    with ThreadPoolExecutor(parallel, thread_name_prefix="storage") as threads:
        try:
            for item in items:
                room.acquire()
                if failed.is_set():
                    break
                started.append(threads.submit(run, item))
            return [one.result() for one in started]
        finally:
            for one in started:
                one.cancel()
