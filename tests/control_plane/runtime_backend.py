"""The real API server as the one behind the server that lies: the runtime's cases run against both."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import urllib3
from kubernetes import config
from tests.operator.runtime.memory_api import Refusal

CONTENT_TYPES = {"PATCH": "application/merge-patch+json"}
READ_SECONDS = 0.2


class RealApi:
    """Passes on what it is asked, as the administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        client = config.new_client_from_config(str(kubeconfig))
        self._url = client.configuration.host
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of one exchange."""
        headers = {"Content-Type": CONTENT_TYPES.get(method, "application/json")} if body else {}
        answer = self._pool.request(method, self._url + target, body=body or None, headers=headers, retries=False)
        return answer.status, answer.data

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        """What comes, as it comes; b"" when nothing does for a moment."""
        answer = self._pool.request("GET", self._url + target, preload_content=False, retries=False, timeout=urllib3.Timeout(read=None))
        try:
            if answer.status != 200:
                raise Refused(answer.status, answer.read())
            ended = threading.Event()
            threading.Thread(target=_end, args=(answer, stop, ended), daemon=True).start()
            try:
                yield b""
                while data := answer.read1():
                    yield data
            except (urllib3.exceptions.HTTPError, ValueError):
                return  # stopped
            finally:
                ended.set()
        finally:
            answer.close()

    def close(self) -> None:
        self._pool.clear()


class Refused(Refusal):
    """The API server's own answer."""

    def __init__(self, code: int, body: bytes) -> None:
        super().__init__(code, "")
        self.body = body


def _end(answer: urllib3.BaseHTTPResponse, stop: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(READ_SECONDS):
        if stop.is_set():
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                answer.shutdown()
            return
