"""A folder of this pod that is kept in the job's storage while it grows, so that another pod goes on with it.

In: a storage and a prefix of its keys. Out: the folder's files under that prefix; summaries last, and what vouches for a file before it.
What is in the files is unknown here.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from finetune_api.errors import StorageFailed
from finetune_api.evaluation_summary import SUMMARY_FILE
from finetune_trainer.files.atomic import make_folder
from finetune_trainer.storage.protocol import Storage

COPY_SECONDS: Final = 10.0
# More than any evaluation writes. What is fetched was written by whoever may write to the storage.
_MOST_FILES: Final = 100_000
_MOST_BYTES: Final = 4 * 2**30
_State = tuple[int, int]  # size and time of a file


class KeptFolder:
    """One pod at a time: two that write one prefix would mix what they found."""

    def __init__(self, storage: Storage, prefix: str, folder: Path) -> None:
        """Touches nothing yet."""
        self._storage, self._prefix, self._folder = storage, prefix, folder
        self._copied: dict[Path, _State] = {}
        self._one_at_a_time = threading.Lock()

    def fetch(self) -> None:
        """Bring what an earlier pod left. Raises StorageFailed for what no evaluation of ours has written."""
        listed = [(key, size) for key, size in self._storage.list(f"{self._prefix}/")]
        if len(listed) > _MOST_FILES or sum(size for _, size in listed) > _MOST_BYTES:
            raise StorageFailed(
                f"{self._storage.url}/{self._prefix} holds more than an evaluation writes; delete it, and it is measured anew"
            )
        for key, _ in listed:
            name = PurePosixPath(key.removeprefix(f"{self._prefix}/"))
            if name.is_absolute() or ".." in name.parts:
                raise StorageFailed(f"{self._storage.url}/{key} is no file of an evaluation; delete it")
            path = self._folder / name
            make_folder(path.parent)
            self._storage.get_file(key, path)
            self._copied[path] = _state(path)

    def copy(self) -> None:
        """Copy what is new or has changed. Raises what storage raises."""
        with self._one_at_a_time:
            for path in self._changed():
                state = _state(path)
                self._storage.put_file(f"{self._prefix}/{path.relative_to(self._folder).as_posix()}", path)
                self._copied[path] = state

    def _changed(self) -> list[Path]:
        """Files to copy. Settings go before the answers that were made with them, and summaries at the end."""
        found = [path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith(".") and path.name != "lock"]
        changed = [path for path in found if self._copied.get(path) != _state(path)]
        return sorted(changed, key=lambda path: (path.name == SUMMARY_FILE, not path.name.endswith(".settings.json"), str(path)))

    @contextmanager
    def followed(self, every_seconds: float = COPY_SECONDS) -> Iterator[None]:
        """While the block runs, copy once in a while, in a thread; what fails is copied later. However it ends, copy once more."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(every_seconds):
                self._copied_if_possible()

        thread = threading.Thread(target=follow, name="kept-folder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._copied_if_possible()

    def _copied_if_possible(self) -> None:
        try:
            self.copy()
        except (OSError, StorageFailed):
            return


def _state(path: Path) -> _State:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
