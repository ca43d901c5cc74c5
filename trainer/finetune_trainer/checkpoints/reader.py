"""Reads ranges of a checkpoint's tensors, every byte checked against its digest, each chunk fetched as seldom as can be.

In: a manifest and the storage that it is in. Out: flat fp32 arrays. Who says beforehand what it will read (`expect`) gets each chunk
fetched once, shortly before its first use, and kept until its last: kind by kind that is a chunk of each column that it needs of
each object, besides a few that are ahead. Without that a range is fetched as it is asked for, and the last few chunks are kept.
Ranks of one node divide among them what several of them need (`share`), and each chunk is fetched once for all.
"""

import hashlib
import math
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from finetune_api.errors import InvalidStorage
from finetune_trainer.checkpoints.columns import Floats
from finetune_trainer.checkpoints.manifest import ITEM_BYTES, Extent, Manifest
from finetune_trainer.checkpoints.sharing import Chunk, SharedFolder, Task
from finetune_trainer.storage.errors import DamagedCheckpoint, MissingObject
from finetune_trainer.storage.protocol import Storage

# Kind, name, and the elements from start to before stop.
Range = tuple[str, str, int, int]

_PARALLEL = 4  # chunks fetched at a time, and so many ahead of their first use
_NODE_AHEAD = 16  # ahead on a node whose ranks share them: twice as many may lie in its folder
_CACHED = 2 * _PARALLEL  # chunks kept that nobody is known to need


class Reader:
    """Reads a checkpoint. For one thread."""

    def __init__(self, storage: Storage, checkpoint: Manifest) -> None:
        self._storage, self.manifest = storage, checkpoint
        self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="checkpoint")
        self._chunks: OrderedDict[Chunk, Future[bytes]] = OrderedDict()
        self._uses: Counter[Chunk] = Counter()  # that are to come
        self._coming: deque[Chunk] = deque()  # what this rank fetches, by first use
        self._ahead: set[Chunk] = set()  # fetched before anybody asked
        self._most_ahead = _PARALLEL
        self._folder: SharedFolder | None = None
        self._order: dict[Chunk, int] = {}  # in which all ranks of the node fetch
        self._takers: dict[Chunk, Sequence[int]] = {}  # ranks to leave a chunk for
        self._comes: set[Chunk] = set()  # what others leave

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back threads and memory."""
        self._threads.shutdown(cancel_futures=True)
        self._chunks.clear()

    def expect(self, ranges: Iterable[Range]) -> list[Chunk]:
        """What will be read from now on, in this order; the chunks that it is in, by first use. What isn't there is told by `read`."""
        self._uses.clear()
        for kind, name, start, stop in ranges:
            for chunk, _, _ in self._spans(self._extents(kind, name, start, stop) or (), start, stop):
                self._uses[chunk] += 1
        self._coming = deque(self._uses)
        return list(self._coming)

    def share(self, folder: SharedFolder, task: Task) -> None:
        """Fetch only what is this rank's task of what is expected, leave there what others need of it, and find the rest there."""
        self._folder, self._takers, self._comes = folder, dict(task.fetches), set(task.comes)
        self._order, self._coming = task.order, deque(task.fetches)
        self._most_ahead = max(1, min(_PARALLEL, _NODE_AHEAD // task.ranks))

    def read(self, kind: str, name: str, start: int, stop: int) -> Floats:
        """Elements [start, stop) of a flattened tensor, float32 (stop - start,).

        Raises DamagedCheckpoint if the objects are not what was written, InvalidStorage if the checkpoint has no such elements.
        """
        extents = self._extents(kind, name, start, stop)
        if extents is None:
            raise InvalidStorage(
                f"{self._storage.url}: step {self.manifest.step} has no elements {start} to {stop} of {kind} {name!r}; "
                "was it saved from another model?"
            )
        values = np.empty(stop - start, dtype="<f4")
        target = values.data.cast("B") if stop > start else memoryview(b"")
        spans = list(self._spans(extents, start, stop))
        for index, (chunk, begin, end) in enumerate(spans):
            for asked, _, _ in spans[index : index + _PARALLEL]:
                self._fetch_up_to(asked)
            self._fetch_ahead()
            target[: end - begin] = memoryview(self._taken(chunk))[begin:end]
            target = target[end - begin :]
            self._used(chunk)
        return values

    def verify(self) -> None:
        """Read every byte. Raises DamagedCheckpoint."""
        everything = [(index, chunk) for index, one in enumerate(self.manifest.objects) for chunk in range(len(one.digests))]
        for position, chunk in enumerate(everything):
            for ahead in everything[position : position + _PARALLEL]:
                self._fetch(ahead)
            self._taken(chunk)
            self._used(chunk)

    def _extents(self, kind: str, name: str, start: int, stop: int) -> tuple[Extent, ...] | None:
        tensor = self.manifest.tensors.get((kind, name))
        return tensor.extents if tensor is not None and 0 <= start <= stop <= math.prod(tensor.shape) else None

    def _spans(self, extents: Iterable[Extent], start: int, stop: int) -> Iterator[tuple[Chunk, int, int]]:
        """Where the elements [start, stop) are: chunk by chunk, from which of its bytes to which."""
        for extent in extents:
            bounds = self.manifest.objects[extent.object].bounds
            begin = extent.offset + (max(extent.start, start) - extent.start) * ITEM_BYTES
            end = extent.offset + (min(extent.stop, stop) - extent.start) * ITEM_BYTES
            while begin < end:
                chunk = bisect_right(bounds, begin) - 1
                reached = min(bounds[chunk + 1], end)
                yield (extent.object, chunk), begin - bounds[chunk], reached - bounds[chunk]
                begin = reached

    def _fetch_up_to(self, chunk: Chunk) -> None:
        """Fetch what is asked for now; before it all of this rank's task up to there, so that no two ranks wait for each other."""
        position = self._order.get(chunk, -1)
        while self._folder is not None and self._coming and self._order[self._coming[0]] <= position:
            self._fetch_next()
        self._fetch(chunk)

    def _fetch_ahead(self) -> None:
        """Fetch what is expected next, as far ahead as there are threads."""
        while self._coming and len(self._ahead) < self._most_ahead:
            self._fetch_next()

    def _fetch_next(self) -> None:
        chunk = self._coming.popleft()
        if self._uses[chunk] and chunk not in self._chunks:
            self._ahead.add(chunk)
            self._fetch(chunk)

    def _fetch(self, chunk: Chunk) -> None:
        if chunk in self._chunks:
            self._chunks.move_to_end(chunk)
        elif self._folder is not None and chunk in self._comes:
            self._comes.remove(chunk)
            self._chunks[chunk] = self._threads.submit(self._folder.take, chunk)
        else:
            self._chunks[chunk] = self._threads.submit(self._fetched, chunk, self._takers.pop(chunk, ()))

    def _taken(self, chunk: Chunk) -> bytes:
        self._ahead.discard(chunk)
        try:
            return self._chunks[chunk].result()
        except BaseException as error:
            del self._chunks[chunk]  # the next read tries again
            if self._folder is not None and isinstance(error, DamagedCheckpoint):
                self._folder.tell_damage(error)
            raise

    def _used(self, chunk: Chunk) -> None:
        """Forget it after its last use; of what nobody expected, what was asked for longest ago."""
        if self._uses[chunk] > 0:
            self._uses[chunk] -= 1
            if not self._uses[chunk]:
                del self._chunks[chunk]
            return
        spare = [one for one in self._chunks if not self._uses[one]]
        for one in spare[: max(0, len(spare) - _CACHED)]:
            self._chunks.pop(one).cancel()

    def _fetched(self, chunk: Chunk, takers: Sequence[int]) -> bytes:
        data = self._verified(*chunk)
        if self._folder is not None:
            self._folder.leave(chunk, data, takers)
        return data

    def _verified(self, index: int, chunk: int) -> bytes:
        one = self.manifest.objects[index]
        start, stop = one.bounds[chunk], one.bounds[chunk + 1]
        try:
            data = self._storage.get(one.key, start, stop)
        except MissingObject as error:
            raise DamagedCheckpoint(f"{self._storage.url}: step {self.manifest.step} is damaged: {one.key} is missing") from error
        if hashlib.sha256(data).hexdigest() != one.digests[chunk]:
            raise DamagedCheckpoint(
                f"{self._storage.url}: step {self.manifest.step} is damaged: {one.key} differs in bytes {start} to {stop}"
            )
        return data
