"""A loopback HTTP server in front of an API (in memory, or a real API server) that lies on request, over real sockets."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Protocol

import yaml
from tests.operator.runtime.fake_clock import eventually
from tests.operator.runtime.memory_api import Refusal

STATUS_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}


class Backend(Protocol):
    """Who answers when no fault is due."""

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]: ...

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]: ...


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next `times` requests whose `METHOD target` matches, with any Authorization or with `token`.

    refuse: a Status with this code; cut: no answer; lose: done, the answer is lost; page: a web page with status 200; hang: no answer
    until the server ends; and of watches: silent (headers, then nothing for ever), end (an empty watch), expired (410 as an event),
    garbage (a line that is no event), half (an event cut in the middle).
    """

    match: str
    action: Literal["refuse", "cut", "lose", "page", "hang", "silent", "end", "expired", "garbage", "half"]
    times: int = 1
    after: int = 0  # matching requests that are let through first
    status: int = 500
    retry_after: int | None = None
    token: str | None = None
    seen: int = field(default=0, init=False)


class FaultyApi(ThreadingHTTPServer):
    """Add faults at any time; `requests` has what was asked, `tokens` with which Authorization."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, backend: Backend, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"
        self.backend = backend
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.tokens: list[str | None] = []
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def due(self, request: str, token: str | None = None) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if re.search(fault.match, request) and fault.token in (None, token):
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        return fault
        return None

    def count(self, pattern: str) -> int:
        """Requests so far that match."""
        return sum(bool(re.search(pattern, request)) for request in list(self.requests))

    def drop_connections(self) -> None:
        """Every connection breaks now, as when the server is killed."""
        with self._lock:
            for connection in list(self.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self.connections.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in the middle here."""

    def kubeconfig(self, folder: Path, *, token: str = "first", certificate_authority: Path | None = None) -> Path:
        """A kubeconfig for this server."""
        cluster: dict[str, str] = {"server": self.url}
        if certificate_authority:
            cluster["certificate-authority"] = str(certificate_authority)
        path = folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its head
    server: FaultyApi

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization")
        fault = self.server.due(f"{self.command} {self.path}", token)
        self.server.tokens.append(token)
        self.server.bodies.append(body)
        if fault and fault.action in ("cut", "hang"):
            self._hang_up(wait=fault.action == "hang")
        elif fault and fault.action == "refuse":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._answer(fault.status, Refusal(fault.status, STATUS_REASONS.get(fault.status, "InternalError")).body, headers)
        elif fault and fault.action == "page":
            self._answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif "watch=1" in self.path or "watch=true" in self.path:
            self._watch(fault.action if fault else "")
        else:
            status, answer = self.server.backend.call(self.command, self.path, body)
            if fault and fault.action == "lose":
                self._hang_up()
            else:
                self._answer(status, answer, {})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, action: str) -> None:
        lines = {
            "end": [],
            "silent": [],
            "garbage": [b"<html>504 Gateway Timeout</html>\n"],
            "half": [b'{"type":"ADDED","object":{"metadata":{"na'],
            "expired": [b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'],
        }.get(action)
        try:
            events = iter(lines) if lines is not None else self.server.backend.watch(self.path, self.server.stopping)
            first = next(events, None)
        except Refusal as refusal:
            self._answer(refusal.code, refusal.body, {})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while first is not None:
            if first:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(first), first))
            elif self.server.stopping.is_set():
                break
            first = next(events, None)
        if action == "silent":
            self.server.stopping.wait()
        if action != "half":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _hang_up(self, wait: bool = False) -> None:
        if wait:
            self.server.stopping.wait()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def faulty_api(backend: Backend, tls: ssl.SSLContext | None = None) -> Iterator[FaultyApi]:
    """A running one."""
    server = FaultyApi(backend, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.drop_connections()
        eventually(lambda: not server.connections)
        server.server_close()
        thread.join(5)
