"""Signs of progress between two steps, from any rank to the driver: without one for long the driver gives the attempt up.

In: calls from the middle of something long. Out: now and then a word to the driver.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, overload

Item = TypeVar("Item")

_EVERY_SECONDS: Final = 10.0
_LEAST_BYTES: Final = 1 << 20


class Signs:
    """Calls it like a function: `signs("evaluation")`. Cheap; tells the driver at most every ten seconds."""

    def __init__(self, tell: Callable[[str], None], every_seconds: float = _EVERY_SECONDS) -> None:
        self._tell, self._every_seconds = tell, every_seconds
        self._next = 0.0

    def __call__(self, what: str) -> None:
        """Something was done just now: a micro-step of an evaluation, a piece of a checkpoint."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_seconds
            self._tell(what)

    def of_each(self, what: str, items: Sequence[Item]) -> Sequence[Item]:
        """The same items, with a sign whenever one is taken: the one before it is done.

        A step of hundreds of micro-batches takes longer than a driver waits for a sign.
        """
        return _Told(items, lambda: self(what))

    @contextmanager
    def while_reading(self, what: str) -> Iterator[None]:
        """For libraries that call nobody back: as long as this process reads or writes, it gets on."""
        done = threading.Event()

        def look() -> None:
            before = bytes_moved()
            while not done.wait(self._every_seconds):
                if (now := bytes_moved()) - before >= _LEAST_BYTES:
                    self(what)
                    before = now

        thread = threading.Thread(target=look, name="finetune-signs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self(what)


class _Told(Sequence[Item]):
    """A sequence that tells when one of its items is taken."""

    def __init__(self, items: Sequence[Item], tell: Callable[[], None]) -> None:
        self._items, self._tell = items, tell

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Any:
        self._tell()
        return self._items[index]


def bytes_moved(process: str = "self") -> int:
    """Bytes that a process has read and written through files, and from disks behind mapped ones. 0 where the system doesn't count.

    What a collective moves over sockets isn't in it: a rank that waits for another moves nothing.
    """
    try:
        lines = Path(f"/proc/{process}/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counted = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
    return sum(counted.get(name, 0) for name in ("rchar", "wchar", "read_bytes"))
