"""The events of one watch: lines of JSON on a connection that may break, fall silent or turn to garbage.

In: an open answer. Out: events, or an error that says how it ended. Knows nothing of what is watched or why.
"""

import contextlib
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import urllib3

from finetune_operator.runtime.errors import Unreachable, Unreadable, error_of_status
from finetune_operator.runtime.transport import BROKEN

EVENT_BYTES: Final = 64 * 2**20  # etcd holds objects of up to 1.5 MiB; a longer line is no event


class WatchEvent(NamedTuple):
    """ADDED, MODIFIED or DELETED with the object, or BOOKMARK, whose object has only a resourceVersion."""

    type: str
    object: dict[str, Any]

    @property
    def is_all(self) -> bool:
        """Whether all objects that there were when the watch began have come by now."""
        annotations = self.object["metadata"].get("annotations") or {}
        return self.type == "BOOKMARK" and annotations.get("k8s.io/initial-events-end") == "true"


class Watch:
    """The events of one watch, to be iterated once inside `with`.

    Ends when the server closes it, when it is silent for the read timeout, or when any thread calls `stop`. Raises Gone when the
    version is too old, Unreachable when the connection breaks, Unreadable on a line that is no event.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, request: str) -> None:
        self._response = response
        self._request = request
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._response.close()

    def stop(self) -> None:
        """End it from another thread: wakes the one that reads."""
        self._stopped = True
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended already
            self._response.shutdown()

    def __iter__(self) -> Iterator[WatchEvent]:
        pieces: list[bytes] = []
        size = 0
        while chunk := self._read():
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                line = b"".join([*pieces, line])
                pieces, size = [], 0
                if line.strip():
                    yield self._event(line)
            pieces.append(rest)
            size += len(rest)
            if size > EVENT_BYTES:
                raise Unreadable(f"a line of more than {EVENT_BYTES} bytes ({self._request})", reason="Unreadable")
        if any(pieces) and not self._stopped:
            raise Unreadable(f"the watch ends in the middle of an event ({self._request})", reason="Unreadable")

    def _read(self) -> bytes:
        """What has come; b"" at the end."""
        try:
            return self._response.read1(decode_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            return b""
        except (*BROKEN, ValueError) as error:
            if self._stopped:
                return b""
            raise Unreachable(f"{type(error).__name__}: {error} ({self._request})", reason="Unreachable") from error

    def _event(self, line: bytes) -> WatchEvent:
        try:
            read = json.loads(line)
            event = WatchEvent(read["type"], read["object"])
            if event.type == "ERROR":
                raise error_of_status(event.object, int(event.object.get("code") or 500), self._request)
            if event.type not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not event.object["metadata"]["resourceVersion"]:
                raise ValueError(f"type {str(event.type)[:20]!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unreadable(f"not an event: {line[:80]!r} ({self._request})", reason="Unreadable") from error
        return event
