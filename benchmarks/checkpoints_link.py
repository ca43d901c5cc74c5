"""A link of so many bytes a second to a server on this machine, in a process of its own: what storage is like that isn't beside its user.

    python -m benchmarks.checkpoints_link HOST:PORT BYTES_PER_SECOND

Prints the port that it listens on, and relays until its standard input ends. All connections share the rate, each way has its own. It
copies bytes and reads none of them, so that signatures and conditions reach the server as they were sent.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BLOCK_BYTES = 256 * 1024


class _Rate:
    """When the next block may pass."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second, self._free = bytes_per_second, 0.0

    async def passed(self, size: int) -> None:
        self._free = max(self._free, time.monotonic()) + size / self._bytes_per_second
        await asyncio.sleep(self._free - time.monotonic())


@contextmanager
def link(endpoint: str, bytes_per_second: float) -> Iterator[str]:
    """An endpoint behind such a link, as long as the block runs. `endpoint`: http://host:port."""
    command = [sys.executable, "-m", "benchmarks.checkpoints_link", endpoint.removeprefix("http://"), str(bytes_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


async def relay(target: str, bytes_per_second: float) -> None:
    host, _, port = target.partition(":")
    up, down = _Rate(bytes_per_second), _Rate(bytes_per_second)

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: _Rate) -> None:
        try:
            while block := await reader.read(_BLOCK_BYTES):
                await rate.passed(len(block))
                writer.write(block)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, int(port), limit=_BLOCK_BYTES)
        await asyncio.gather(copied(reader, server_writer, up), copied(server_reader, writer, down))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_BLOCK_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], float(sys.argv[2])))
