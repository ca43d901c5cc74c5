"""How far files have been sent: each tells a meter how far it has been read."""

from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with (bytes sent, bytes to send)."""


class Meter:
    """Adds up how far each file has been read; a file that is sent a second time does not count twice."""

    def __init__(self, *, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._positions: dict[Path, int] = {}

    def at(self, path: Path, position: int) -> None:
        self._positions[path] = max(position, self._positions.get(path, 0))
        self._progress(min(sum(self._positions.values()), self._total), self._total)

    def finish(self) -> None:
        """Files that the LFS store held already were never read."""
        self._progress(self._total, self._total)


class MeteredFile(BufferedReader):
    """A file that tells the meter how far it has been read. huggingface_hub sends open files over HTTP."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(FileIO(path))
        self._path = path
        self._meter = meter

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._meter.at(self._path, self.tell())
        return data
