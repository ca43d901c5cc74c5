"""A proxy between an operator and the API server that sees every request, and can say what becomes of it.

It speaks plain HTTP on loopback to the operator and TLS with the administrator's certificate to the API server. `before` is asked
before a write is passed on, `after` before its answer is; either may kill the operator, whose connection then just breaks. `fault`
is asked about every request, reads and watches included, and says what goes wrong with it.
"""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import yaml

READS = ("GET", "HEAD")
DRY_RUN = "dryRun=All"
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What becomes of one request.

    pass: nothing goes wrong; refuse: a Status with this code; cut: the connection breaks, nothing is passed on; lose: it is done, its
    answer is lost; late: it is passed on only after `seconds`. And of watches: drop: the connection breaks in the middle of an event,
    after the first; expired: 410 as an event; silent: half-open, nothing comes for ever.
    """

    action: Literal["pass", "refuse", "cut", "lose", "late", "drop", "expired", "silent"]
    status: int = 500
    retry_after: int | None = None
    seconds: float = 0.0


class Script:
    """Faults for the first requests of each kind, in order; `left` has those that haven't happened."""

    def __init__(self, faults: Mapping[str, Sequence[Fault]]) -> None:
        self._lock = threading.Lock()
        self._left = {kind: deque(found) for kind, found in faults.items()}

    def __call__(self, kind: str) -> Fault | None:
        with self._lock:
            found = self._left.get(kind)
            return found.popleft() if found else None

    @property
    def left(self) -> dict[str, int]:
        with self._lock:
            return {kind: len(found) for kind, found in self._left.items() if found}


class Proxy(ThreadingHTTPServer):
    """`writes` are the requests that change something, leases and dry runs not counted, as `POST /api/v1/.../name`, in order.

    `fault` is asked with a request's kind: `LIST pods`, `WATCH pods`, `GET configmaps`, `POST jobs`, `DRY-RUN jobs`,
    `PATCH finetunejobs/status`.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, url: str, trust: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(url)
        self.trust = trust
        self.writes: list[str] = []
        self.before: Callable[[str], bool] = lambda request: True
        self.after: Callable[[str], bool] = lambda request: True
        self.fault: Callable[[str], Fault | None] = lambda kind: None
        self.ending = threading.Event()

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that leads here."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_address[1]}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def handle_error(self, request: object, client_address: object) -> None:
        """Operators hang up in the middle here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its head
    server: Proxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        request = f"{self.command} {path}{_name(body) if self.command == 'POST' else ''}"
        write = self.command not in READS and "/leases" not in self.path and DRY_RUN not in query
        fault = self.server.fault(_kind(self.command, path, query)) or Fault(action="pass")
        if write:
            if not self.server.before(request):
                self.close_connection = True
                return
            self.server.writes.append(request)
        if self._answered(fault):
            return
        upstream = http.client.HTTPSConnection(
            self.server.upstream.hostname or "", self.server.upstream.port, context=self.server.trust, timeout=300
        )
        with contextlib.closing(upstream), contextlib.suppress(OSError, http.client.HTTPException):
            headers = {key: value for key, value in self.headers.items() if key.lower() in ("content-type", "accept", "user-agent")}
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            with upstream.getresponse() as answer:
                if fault.action == "lose" or (write and not self.server.after(request)):
                    self.close_connection = True
                    return
                self._pass_on(answer, pieces=1 if fault.action == "drop" else None)
                return
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _answered(self, fault: Fault) -> bool:
        """Whether the fault is all that comes of the request."""
        if fault.action == "late":
            time.sleep(fault.seconds)
        elif fault.action == "cut":
            self.close_connection = True
        elif fault.action == "refuse":
            self._say(fault.status, _status(fault.status), {"Retry-After": str(fault.retry_after)} if fault.retry_after else {})
        elif fault.action == "expired":
            self._say(200, json.dumps({"type": "ERROR", "object": json.loads(_status(410))}).encode() + b"\n", {})
        elif fault.action == "silent":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.server.ending.wait()
            self.close_connection = True
        return fault.action in ("cut", "refuse", "expired", "silent")

    def _say(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, answer: http.client.HTTPResponse, *, pieces: int | None = None) -> None:
        """The answer, piece by piece: a watch never ends. The connection breaks in the middle of what comes after `pieces`."""
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if value := answer.headers.get(name):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        passed = 0
        while piece := answer.read1(65536):
            if passed == pieces:
                self.wfile.write(b"%x\r\n%s" % (len(piece), piece[: len(piece) // 2]))
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            passed += 1
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        """Silent."""


def _name(body: bytes) -> str:
    """The name of the object that a POST makes."""
    return f"/{json.loads(body)['metadata']['name']}"


def _kind(method: str, path: str, query: str) -> str:
    """A request without the names in it.

    >>> _kind("PATCH", "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunejobs/starchat/status", "")
    'PATCH finetunejobs/status'
    >>> _kind("GET", "/api/v1/namespaces/ml/pods", "watch=1&resourceVersion=7")
    'WATCH pods'
    >>> _kind("POST", "/apis/batch/v1/namespaces/ml/jobs", "fieldValidation=Strict&dryRun=All")
    'DRY-RUN jobs'
    """
    _, _, rest = path.partition("/namespaces/")
    _, plural, *named = rest.split("/")
    if method == "GET" and not named:
        method = "WATCH" if "watch=1" in query and "sendInitialEvents" not in query else "LIST"
    if DRY_RUN in query:
        method = "DRY-RUN"
    return f"{method} {'/'.join([plural, *named[1:]])}"


def _status(code: int) -> bytes:
    """A Status object as the API server would send it."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": REASONS[code],
        "message": "so the test says",
    }
    return json.dumps(status).encode()


@contextmanager
def proxy_to(url: str, trust: ssl.SSLContext) -> Iterator[Proxy]:
    """A running one."""
    proxy = Proxy(url, trust)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ending.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
