"""A proxy between an operator and the API server that sees every request, and can say what becomes of it.

It speaks plain HTTP on loopback to the operator and TLS with the operator's client certificate to the API server. `before` is asked
before a request is passed on, `after` before its answer is; either may kill the operator, whose connection then just breaks.
"""

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

READS = ("GET", "HEAD")


class KillingProxy(ThreadingHTTPServer):
    """`writes` are the requests that change something, leases not counted, as `POST /api/v1/.../name`, in order."""

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
    server: KillingProxy
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {self.path.partition('?')[0]}{_name(body) if self.command == 'POST' else ''}"
        write = self.command not in READS and "/leases" not in self.path
        if write:
            if not self.server.before(request):
                self.close_connection = True
                return
            self.server.writes.append(request)
        upstream = http.client.HTTPSConnection(
            self.server.upstream.hostname or "", self.server.upstream.port, context=self.server.trust, timeout=300
        )
        with contextlib.closing(upstream), contextlib.suppress(OSError, http.client.HTTPException):
            headers = {key: value for key, value in self.headers.items() if key.lower() in ("content-type", "accept", "user-agent")}
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            if write and not self.server.after(request):
                self.close_connection = True
                return
            self._pass_on(answer)
            return
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _pass_on(self, answer: http.client.HTTPResponse) -> None:
        """The answer, piece by piece: a watch never ends."""
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if value := answer.headers.get(name):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        """Silent."""


def _name(body: bytes) -> str:
    """The name of the object that a POST makes."""
    return f"/{json.loads(body)['metadata']['name']}"


@contextmanager
def killing_proxy(url: str, trust: ssl.SSLContext) -> Iterator[KillingProxy]:
    """A running one."""
    proxy = KillingProxy(url, trust)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
