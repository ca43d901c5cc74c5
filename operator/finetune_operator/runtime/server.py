"""/healthz, /readyz and /metrics over HTTP, for the kubelet and Prometheus.

Health is "a restart would help"; readiness is "caches are filled". Neither means leadership: a replica that only waits for the lease has
to be ready, or a rolling update would never end.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = structlog.get_logger()

REQUEST_SECONDS: Final = 10
Check = Callable[[], str | None]  # what is wrong; None: nothing


class ProbeServer(ThreadingHTTPServer):
    """Listens from construction on; answers inside `serving`."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, *, port: int, registry: CollectorRegistry, healthy: Mapping[str, Check], ready: Mapping[str, Check], host: str = ""
    ) -> None:
        """`port` 0 is any free one (see `.port`); an empty host is all addresses, of IPv6 too where the machine has it."""
        self.registry = registry
        self.checks: dict[str, Mapping[str, Check]] = {"/healthz": healthy, "/readyz": ready}
        dual = not host and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
        self._dual = dual
        super().__init__((host, port), _Answer)

    def server_bind(self) -> None:
        if self._dual:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @contextlib.contextmanager
    def serving(self) -> Iterator["ProbeServer"]:
        """Answer in a thread until the block ends."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="probes", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("probe connection broken", client=str(client_address))


class _Answer(BaseHTTPRequestHandler):
    """One request; a client that stalls is dropped."""

    server: ProbeServer
    timeout = REQUEST_SECONDS
    server_version = "finetune"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._send(200, encode(self.server.registry), content_type)
        elif path in self.server.checks:
            problems = {name: _asked(check) for name, check in self.server.checks[path].items()}
            lines = [f"[-]{name}: {problem}" if problem else f"[+]{name} ok" for name, problem in problems.items()]
            self._send(500 if any(problems.values()) else 200, "\n".join([*lines, ""]).encode(), "text/plain; charset=utf-8")
        else:
            self._send(404, b"/healthz, /readyz or /metrics\n", "text/plain; charset=utf-8")

    def _send(self, code: int, body: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Probes come every few seconds: no log."""


def _asked(check: Check) -> str | None:
    try:
        return check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
