"""A TCP line on the loopback that can be down, slow, or cut connections by chance: between a client and any server."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_BLOCK = 16 << 10
# Where a connection that is to be cut ends: after so many bytes at most, of both directions.
_LATEST_CUT = 200_000


@dataclass(slots=True, kw_only=True)
class Line:
    """What may happen to it; each may be set at any time.

    `bytes_per_second` is shared by all connections; `cuts`: the share of connections that is cut.
    """

    endpoint: str
    is_down: bool = False
    bytes_per_second: float | None = None
    cuts: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def heal(self) -> None:
        """As if nothing had been."""
        self.is_down, self.bytes_per_second, self.cuts = False, None, 0.0

    def wait(self, size: int) -> None:
        """As long as so many bytes take."""
        with self._lock:
            if self.bytes_per_second is None:
                return
            self._free_at = max(time.monotonic(), self._free_at) + size / self.bytes_per_second
            seconds = self._free_at - time.monotonic()
        time.sleep(max(0.0, seconds))

    def cut_after(self) -> float:
        """After how many bytes a new connection is cut."""
        with self._lock:
            return self.chance.uniform(0, _LATEST_CUT) if self.chance.random() < self.cuts else float("inf")


@contextmanager
def line_to(target: str) -> Iterator[Line]:
    """A line to the server at `target`, an HTTP address, while the block runs."""
    there = urlsplit(target)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = Line(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}")

        def accept() -> None:
            with contextlib.suppress(OSError):  # closed with the block
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=_connect, args=(line, client, (there.hostname, there.port)), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield line
        finally:
            line.is_down = True
            listening.shutdown(socket.SHUT_RDWR)


def _connect(line: Line, client: socket.socket, there: tuple[str | None, int | None]) -> None:
    with client, contextlib.suppress(OSError):
        if line.is_down:
            _reset(client)
            return
        with socket.create_connection((str(there[0]), int(there[1] or 80))) as server:
            left = [line.cut_after()]
            back = threading.Thread(target=_pump, args=(line, server, client, left), daemon=True)
            back.start()
            _pump(line, client, server, left)
            back.join()


def _pump(line: Line, source: socket.socket, target: socket.socket, left: list[float]) -> None:
    """Pass on what comes, until one side ends, the line is down, or the connection's bytes are used up."""
    source.settimeout(0.2)
    try:
        while True:
            try:
                block = source.recv(_BLOCK)
            except TimeoutError:
                block = None
            left[0] -= len(block or b"")
            if line.is_down or left[0] < 0:
                _reset(source)
                _reset(target)
                return
            if block == b"":
                break
            if block is not None:
                line.wait(len(block))
                target.sendall(block)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _reset(one: socket.socket) -> None:
    """End it as a host does that has gone: with a reset."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
        one.close()
