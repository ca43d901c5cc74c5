"""A port of this machine that leads to a port of a pod, through the API server, as `kubectl port-forward` does it."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Final

from kubernetes.client import CoreV1Api
from kubernetes.stream import portforward

from finetune_api.errors import InvalidCluster
from finetune_client.connection import Connection

_BLOCK: Final = 64 * 1024
_LISTEN: Final = "127.0.0.1"


@contextlib.contextmanager
def forwarded(connection: Connection, pod: str, port: int, *, local_port: int = 0) -> Iterator[int]:
    """The local port, while the block runs; 0 takes a free one. Raises InvalidCluster where the port is taken.

    Each connection has a stream of its own to the pod; one that breaks ends that connection alone.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LISTEN, local_port))
        except OSError as error:
            raise InvalidCluster(f"--port {local_port}: {error.strerror}; choose another, or 0 for a free one") from None
        listener.listen()
        over = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, over, connection, pod, port), name="port-forward", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(5)


def _accept(listener: socket.socket, over: threading.Event, connection: Connection, pod: str, port: int) -> None:
    while not over.is_set():
        if not select.select([listener], [], [], 0.2)[0]:
            continue
        near, _ = listener.accept()
        threading.Thread(target=_join, args=(near, over, connection, pod, port), name="port-forward-one", daemon=True).start()


def _join(near: socket.socket, over: threading.Event, connection: Connection, pod: str, port: int) -> None:
    """Copy both ways until either side ends."""
    with near, contextlib.suppress(Exception):  # who connected sees the end of the connection; `finetune dashboard` goes on
        stream = portforward(CoreV1Api(connection.api).connect_get_namespaced_pod_portforward, pod, connection.namespace, ports=str(port))
        far = stream.socket(port)
        try:
            other = {near: far, far: near}
            while not over.is_set():
                for ready in select.select([near, far], [], [], 0.5)[0]:
                    if not (block := ready.recv(_BLOCK)):
                        return
                    other[ready].sendall(block)
        finally:
            far.close()
            stream.close()
