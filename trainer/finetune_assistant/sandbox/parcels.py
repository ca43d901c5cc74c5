"""What the process that wants a program run and the one that runs it tell each other: values and files through a pipe, and an exit status.

A parcel is a line of JSON, `[header, [[name, size], ...]]`, and the files' contents one after another. The receiving side says how
much it takes. Names are checked by whoever makes files of them.
"""

import json
import os
from collections.abc import Mapping

# Exit statuses of the watching process; with 0 there is a parcel that says how the program ended.
FAILED, WALL, MEMORY, ABANDONED = 10, 11, 12, 13
# The program's own disk: everything that it may write, in memory, gone with it.
DISK = "/tmp"
WORK = f"{DISK}/program"
HOME = f"{DISK}/home"

TYPE_CHECKING = False  # typing itself would be a tenth of a small program's time
if TYPE_CHECKING:
    from typing import IO, Any


def packed(header: Mapping[str, object], files: Mapping[str, bytes]) -> bytes:
    """One parcel."""
    line = json.dumps([header, [[name, len(content)] for name, content in files.items()]])
    return line.encode("ascii") + b"\n" + b"".join(files.values())


def received(stream: "IO[bytes]") -> "tuple[dict[str, Any], dict[str, bytes]]":
    """The parcel at the beginning of `stream`. ValueError where it is cut short.

    >>> import io
    >>> received(io.BytesIO(packed({"exit": 0}, {"a.txt": b"hello"})))
    ({'exit': 0}, {'a.txt': b'hello'})
    """
    header, entries = json.loads(stream.readline())
    files = {name: stream.read(size) for name, size in entries}
    if any(len(files[name]) != size for name, size in entries):
        raise ValueError("a parcel is cut short")
    return header, files


def send(descriptor: int, parcel: bytes) -> None:
    """Write all of it."""
    left = memoryview(parcel)
    while left:
        left = left[os.write(descriptor, left) :]
