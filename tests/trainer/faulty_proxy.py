"""A loopback HTTP proxy that lies on request: between the real S3 client and the real S3 server."""

import contextlib
import http.client
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next `times` requests whose `METHOD path?query` matches.

    refuse: answer with status and code; cut: the client's request ends in the middle; lose: the server does it, the answer is lost;
    truncate: the answer's body ends in the middle; hang: no answer until the client gives up; page: some web page, not S3.
    """

    match: str
    action: Literal["refuse", "cut", "lose", "truncate", "hang", "page"]
    times: int = 1
    after: int = 0  # matching requests that are let through first
    status: int = 503
    code: str = "SlowDown"
    seen: int = field(default=0, init=False)
    sent: int = field(default=0, init=False)  # bytes of answers


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy; add faults at any time."""

    endpoint: str
    faults: list[Fault]


@contextmanager
def faulty_proxy(target: str, certificate: Path | None = None, key: Path | None = None) -> Iterator[Proxy]:
    """A proxy in front of the server at `target`; with a certificate and its key it speaks TLS."""
    faults: list[Fault] = []
    stopping = threading.Event()
    lock = threading.Lock()

    def due(request: str) -> Fault | None:
        with lock:
            for fault in faults:
                if re.search(fault.match, request):
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        return fault
        return None

    def count(request: str, sent: int) -> None:
        with lock:
            for fault in faults:
                fault.sent += sent if re.search(fault.match, request) else 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its head

        def handle_one(self) -> None:
            fault = due(f"{self.command} {self.path}")
            length = int(self.headers.get("Content-Length", 0))
            if fault and fault.action == "cut":
                self.rfile.read(length // 2)
                self._hang_up()
                return
            body = self.rfile.read(length)
            if fault and fault.action == "hang":
                stopping.wait(30)
                self._hang_up()
                return
            if fault and fault.action in {"refuse", "page"}:
                xml = f"<Error><Code>{fault.code}</Code><Message>the proxy says so</Message></Error>"
                page = xml if fault.action == "refuse" else "<html><body>It works!</body>"
                self._answer(fault.status, [("Content-Type", "application/xml")], page.encode())
                return
            status, headers, answer = self._forward(body)
            count(f"{self.command} {self.path}", len(answer))
            if fault and fault.action == "lose":
                self._hang_up()
                return
            self._answer(status, headers, answer, sent=len(answer) // 2 if fault else None)

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            with contextlib.closing(http.client.HTTPConnection(urlsplit(target).netloc, timeout=30)) as connection:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in {"expect", "connection"}:
                        connection.putheader(name, value)
                connection.endheaders(body)
                with connection.getresponse() as response:
                    return response.status, response.getheaders(), response.read()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"transfer-encoding", "connection"} and (self.command == "HEAD" or name.lower() != "content-length"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            with contextlib.suppress(ConnectionError):  # a client that gave up
                self.end_headers()
                self.wfile.write(body[:sent])
            if sent is not None:
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Proxy(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", faults)
        finally:
            stopping.set()
            server.shutdown()
            thread.join()
