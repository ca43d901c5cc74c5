"""A rank's state as a checkpoint takes it: as it is now, or from a copy in host memory while training goes on."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from finetune_trainer.checkpoints.store import Piece


class Snapshot(Protocol):
    """A place for one copy of the state; the next one takes its memory again."""

    @property
    def nbytes(self) -> int:
        """Of the copy."""
        ...

    def live(self) -> Iterator[Piece]:
        """The pieces as they are now, by reference where they can be."""
        ...

    def take(self) -> None:
        """Copy the state as it is now."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """What was copied, also in another thread."""
        ...


class HostSnapshot:
    """Of a state that lies in host memory: it is copied while training waits. `live` gives the pieces."""

    def __init__(self, live: Callable[[], Iterator[Piece]]) -> None:
        self.live = live
        self._buffers: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self._pieces: list[Piece] = []

    @property
    def nbytes(self) -> int:
        """Of the copy."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self) -> None:
        """Copy what training will change; constants stay where they are."""
        self._pieces = [piece if piece.kind == "constant" else self._copied(piece) for piece in self.live()]

    def pieces(self) -> Iterator[Piece]:
        """What was copied."""
        yield from self._pieces

    def _copied(self, piece: Piece) -> Piece:
        buffer = self._buffers.get((piece.kind, piece.name))
        if buffer is None:
            buffer = self._buffers[piece.kind, piece.name] = np.empty_like(piece.data)
        np.copyto(buffer, piece.data)
        return replace(piece, data=buffer)
