"""The line is down, slow and cut as it is told, and whole otherwise."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from tests.reliability.line import Line, line_to

CONTENT = bytes(range(256)) * 1000  # more than any cut lets through


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)


@pytest.fixture
def line() -> Iterator[Line]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with line_to(f"http://127.0.0.1:{server.server_port}") as found:
            yield found
        server.shutdown()


def _read(line: Line) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(line.endpoint).netloc, timeout=30)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_what_is_down_answers_nothing_until_it_is_healed(line: Line) -> None:
    assert _read(line) == CONTENT
    line.is_down = True
    with pytest.raises((OSError, http.client.HTTPException)):
        _read(line)
    line.heal()
    assert _read(line) == CONTENT


def test_what_is_slow_takes_its_time(line: Line) -> None:
    line.bytes_per_second = 4 * len(CONTENT)
    began = time.monotonic()
    assert _read(line) == CONTENT
    assert time.monotonic() - began > 0.2


def test_what_is_cut_ends_in_the_middle(line: Line) -> None:
    line.chance, line.cuts = random.Random(1), 1.0
    with pytest.raises((OSError, http.client.HTTPException)):
        _read(line)
