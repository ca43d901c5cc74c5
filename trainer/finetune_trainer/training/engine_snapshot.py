"""An engine's state as the pieces of a checkpoint; that on a GPU is copied beside training, which costs the loop no more than the asking.

A stream of its own copies, beside the next forward and backward pass, into memory that the GPU writes itself (page-locked). Before the
optimizer changes the state the device waits for the copy, and the host doesn't (`Engine.before_update`); who writes the checkpoint waits
for it too. It has never run on a GPU: the order of all this is tried on the CPU, with a stream that copies as late as it may.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune_trainer.checkpoints.store import Piece as StoredPiece
from finetune_trainer.training.engine import Engine, Piece
from finetune_trainer.training.snapshot import HostSnapshot, Snapshot


def snapshot_of(engine: Engine, notice: Callable[[str], None]) -> Snapshot:
    """A copy of what an engine trains: beside training where it lies on a GPU."""

    def constants() -> Iterator[StoredPiece]:
        return constant_pieces(engine.constants)

    def live() -> Iterator[StoredPiece]:
        for piece in engine.local_state():
            yield stored(piece, piece.tensor.detach().cpu().float())
        yield from constants()

    if engine.device.type == "cuda":
        return DeviceSnapshot(engine, CudaCopyStream(engine.device, notice), live=live, constants=constants)
    return HostSnapshot(live)


class CopyStream(Protocol):
    """Copies in the order in which they were asked for, some time later."""

    def memory(self, elements: int) -> Tensor:
        """Host memory for so many fp32 elements, flat."""
        ...

    def begin(self) -> None:
        """What is asked for from now on sees all that the device has been asked to compute by now."""
        ...

    def copy(self, into: Tensor, source: Tensor) -> None:
        """Ask for a copy."""
        ...

    def end(self) -> None:
        """What `hold` and `wait` wait for has been asked for."""
        ...

    def hold(self) -> None:
        """What the device is asked to compute from now on waits for the copies."""
        ...

    def wait(self) -> None:
        """Return when the copies are whole; from any thread."""
        ...


class DeviceSnapshot:
    """A copy of an engine's state. `constants` stay where they are; `live` gives the pieces through host memory, as they are now."""

    def __init__(
        self,
        engine: Engine,
        stream: CopyStream,
        *,
        live: Callable[[], Iterator[StoredPiece]],
        constants: Callable[[], Iterator[StoredPiece]],
    ) -> None:
        self.live = live
        self._engine, self._stream = engine, stream
        self._constants = list(constants())
        self._memory: Tensor | None = None
        self._pieces: list[StoredPiece] = []
        self._copying = False
        engine.before_update = self._before_update

    @property
    def nbytes(self) -> int:
        """Of the copy."""
        return 0 if self._memory is None else self._memory.nbytes

    def take(self) -> None:
        """Ask for a copy of the state as it is now."""
        pieces = list(self._engine.local_state())
        if self._memory is None:
            self._memory = self._stream.memory(sum(piece.tensor.numel() for piece in pieces))
        self._stream.begin()
        buffers = torch.split(self._memory, [piece.tensor.numel() for piece in pieces])
        for piece, buffer in zip(pieces, buffers, strict=True):
            self._stream.copy(buffer, piece.tensor.detach())
        self._stream.end()
        self._copying = True
        self._pieces = [stored(piece, buffer) for piece, buffer in zip(pieces, buffers, strict=True)]

    def pieces(self) -> Iterator[StoredPiece]:
        """What was copied, once it is whole."""
        self._stream.wait()
        yield from self._pieces
        yield from self._constants

    def _before_update(self) -> None:
        if self._copying:
            self._stream.hold()
            self._copying = False


class CudaCopyStream:
    """A stream of a GPU. `notice` hears where memory can't be page-locked: copies are slower then, and the loop waits for them."""

    def __init__(self, device: torch.device, notice: Callable[[str], None]) -> None:
        self._device, self._notice = device, notice
        cuda: Any = torch.cuda  # has no types here
        self._stream, self._done = cuda.Stream(device), cuda.Event()

    def memory(self, elements: int) -> Tensor:
        """Page-locked where that is granted. Torch's own page-locked memory comes in powers of two, up to twice of what is asked for."""
        memory = torch.empty(elements, dtype=torch.float32)
        failed = int(_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)) if elements else 0
        if failed:
            what = f"{memory.nbytes / 2**30:.1f} GiB can't be page-locked (CUDA error {failed})"
            self._notice(f"{what}: training waits while a checkpoint is copied to host memory")
        elif elements:
            weakref.finalize(self, _unlock, memory)
        return memory

    def begin(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, into: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            into.copy_(source, non_blocking=True)

    def end(self) -> None:
        self._done.record(self._stream)

    def hold(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._done)

    def wait(self) -> None:
        self._done.synchronize()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _unlock(memory: Tensor) -> None:
    """With the memory as argument, so that it isn't given back before."""
    _runtime().cudaHostUnregister(memory.data_ptr())


def stored(piece: Piece, values: Tensor) -> StoredPiece:
    """An engine's piece as a checkpoint's, of values on the CPU in fp32."""
    return StoredPiece(kind=piece.kind, name=piece.name, shape=piece.shape, start=piece.start, stop=piece.stop, data=values.numpy())


def constant_pieces(tensors: Mapping[str, Any]) -> Iterator[StoredPiece]:
    """What is saved and not trained, whole, as fp32: also whole numbers, which are small."""
    for name, tensor in tensors.items():
        data = tensor.reshape(-1).float().numpy()
        yield StoredPiece(kind="constant", name=name, shape=tuple(tensor.shape), start=0, stop=data.size, data=data)
