"""The API server of a measurement, to an administrator: many calls at once, and a watch that says when objects come.

Raw HTTP, because a client library would take more of a small machine than what is measured. Nothing is tried again: a call
that fails ends the measurement.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.testcluster.control_plane import ControlPlane

from finetune_operator.runtime.api import Resource

Json = dict[str, Any]
Item = TypeVar("Item")

THREADS = 8
# The API server closes connections that are idle for a minute and a half.
_IDLE_SECONDS = 30.0
_ONLY_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_ONLY_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Take(Protocol):
    """Is told of each event of a watch: when it came, its type and its object."""

    def __call__(self, moment: float, kind: str, item: Json) -> None: ...


class ApiServer:
    """Thread-safe: a thread has a connection of its own."""

    def __init__(self, address: str, port: int, keys: Path) -> None:
        """`keys`: the folder of the authority and of what it issued."""
        self._trust = ssl.create_default_context(cafile=keys / "ca.crt")
        self._trust.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        self.place = address, port, keys
        self._own = threading.local()

    @classmethod
    def of(cls, plane: ControlPlane) -> "ApiServer":
        """That of a control plane."""
        return cls(plane.address, plane.ports.api_server, plane.authority.folder)

    def get(self, path: str) -> Json:
        return self._send("GET", path)

    def wait_for(self, path: str, *, seconds: float = 60.0) -> None:
        """Until there is such a collection or object."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.get(path)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def create(self, resource: Resource, namespace: str | None, item: Json) -> Json:
        return self._send("POST", resource.path(namespace), item)

    def change(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        return self._send("PATCH", resource.path(namespace, name), patch)

    def write_status(self, resource: Resource, namespace: str, name: str, status: Json) -> Json:
        return self._send("PATCH", resource.path(namespace, name, "status"), {"status": status})

    def items(self, resource: Resource, namespace: str, *, whole: bool = True) -> list[Json]:
        """All objects of a kind, or their metadata."""
        path = resource.path(namespace)
        found: list[Json] = self._send("GET", path, accept="application/json" if whole else _ONLY_METADATA_LIST)["items"]
        return found

    def each(self, items: Iterable[Item], work: Callable[[Item], object], *, threads: int = THREADS) -> None:
        """Do the work for each item, several at once. What it raises is raised."""
        waiting, lock = iter(items), threading.Lock()

        def take() -> None:
            while True:
                with lock:
                    found = next(waiting, _NOTHING)
                if found is _NOTHING:
                    return
                work(found)  # type: ignore[arg-type]

        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(take) for _ in range(threads)]:
                done.result()

    @contextlib.contextmanager
    def following(self, resource: Resource, namespace: str, take: Take, *, whole: bool = False) -> Iterator[None]:
        """Tell `take` of everything that happens to objects of a kind from now on, in a thread, until the block ends."""
        path = resource.path(namespace)
        version = self._send("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
        connection = self._connection()
        accept = "application/json" if whole else _ONLY_METADATA
        connection.request("GET", f"{path}?watch=1&resourceVersion={version}", headers={"Accept": accept})
        answer = connection.getresponse()
        thread = threading.Thread(target=_read, args=(answer, take), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self.place[:2], context=self._trust, timeout=300)

    def _send(self, method: str, path: str, body: Json | None = None, *, accept: str = "application/json") -> Json:
        if not hasattr(self._own, "connection"):
            self._own.connection, self._own.used = self._connection(), 0.0
        connection: http.client.HTTPSConnection = self._own.connection
        if time.monotonic() - self._own.used > _IDLE_SECONDS:
            connection.close()  # the next request opens it again
        self._own.used = time.monotonic()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"Accept": accept} | ({"Content-Type": kind} if body is not None else {}))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        read: Json = json.loads(text)
        return read


_NOTHING = object()


def _read(answer: http.client.HTTPResponse, take: Take) -> None:
    """Events, until the other thread shuts the connection."""
    try:
        for line in answer:
            moment = time.monotonic()
            event = json.loads(line)
            take(moment, event["type"], event["object"])
    except (OSError, ValueError, http.client.HTTPException):
        pass


class Arrivals:
    """When objects were created, to be given to `ApiServer.following`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._moments: list[float] = []

    def __call__(self, moment: float, kind: str, item: Json) -> None:
        if kind == "ADDED":
            with self._changed:
                self._moments.append(moment)
                self._changed.notify_all()

    def wait(self, count: int, seconds: float) -> float:
        """The moment (of time.monotonic) when the object of that number came."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._moments) >= count, seconds):
                raise RuntimeError(f"only {len(self._moments)} of {count} objects came within {seconds:.0f} s")
            return self._moments[count - 1]
