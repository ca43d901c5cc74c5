"""A judge on loopback that speaks OpenAI's protocol: what it answers is a function of what it is asked."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789-secret"
_BLOCK = re.compile(r"----- (?P<fence>[0-9a-f]{8}) (?P<name>[a-z0-9 ]+) -----\n(?P<text>.*?)\n----- (?P=fence) end -----", re.DOTALL)


@dataclass(frozen=True)
class Raw:
    """An answer that is no completion: whatever a proxy or a server in trouble sends. `delay` in seconds.

    `drips`: in place of the body comes a space now and then, as from proxies that keep a connection alive, until the client leaves.
    """

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay: float = 0.0
    drips: bool = False


Answer = str | Raw | dict[str, Any]  # text of a reply; anything; a whole completion


def shown(messages: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What the first question shows, by name: request, answer of assistant 1, answer of assistant 2."""
    return {found["name"]: found["text"] for found in _BLOCK.finditer(messages[1]["content"])}


def first_wins(_messages: Sequence[Mapping[str, str]]) -> Answer:
    """A judge that looks at the position alone."""
    return "8 7\nThe first one is better."


def longer_wins(messages: Sequence[Mapping[str, str]]) -> Answer:
    """A judge that is consistent: more text is better, to the same amount in both orders."""
    parts = shown(messages)
    if "answer of the assistant" in parts:
        return str(min(8, 1 + len(parts["answer of the assistant"]) // 10))
    first, second = parts["answer of assistant 1"], parts["answer of assistant 2"]
    return "5 5\nNo difference." if len(first) == len(second) else "7 3\nClear." if len(first) > len(second) else "3 7\nClear."


def completion(text: str, *, finish_reason: str = "stop", prompt_tokens: int = 100, completion_tokens: int = 20) -> dict[str, Any]:
    """As servers answer."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


class JudgeServer:
    """`answer` may be exchanged at any time. `requests`: bodies in the order of arrival; `keys`: their Authorization."""

    def __init__(self, answer: Callable[[Sequence[Mapping[str, str]]], Answer] = longer_wins, *, host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.on_get: Answer = Raw(status=404, body="{}")  # it has no list of models
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(judge.on_get)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with judge._lock:
                    judge.requests.append(body)
                    judge.keys.append(self.headers["Authorization"])
                self._send(judge.answer(body["messages"]))

            def _send(self, answer: Answer) -> None:
                if not isinstance(answer, Raw):
                    answer = Raw(body=json.dumps(completion(answer) if isinstance(answer, str) else answer))
                time.sleep(answer.delay)
                data = answer.body.encode()
                try:
                    self.send_response(answer.status)
                    length = {} if answer.drips else {"Content-Length": str(len(data))}
                    for name, value in {**answer.headers, **length}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    while answer.drips:
                        self.wfile.write(b" ")
                        time.sleep(0.02)
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):  # the client waited no longer
                    self.close_connection = True

            def log_message(self, *_arguments: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """No one answers there any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def judge_server(
    answer: Callable[[Sequence[Mapping[str, str]]], Answer] = longer_wins, *, host: str = "127.0.0.1"
) -> Iterator[JudgeServer]:
    """A server for the life of a block; `host`: this machine's address that its clients reach."""
    server = JudgeServer(answer, host=host)
    try:
        yield server
    finally:
        server.close()


def scripted(*answers: Answer) -> Callable[[Sequence[Mapping[str, str]]], Answer]:
    """These answers one after another, then the last one for ever."""
    remaining = list(answers)

    def answer(_messages: Sequence[Mapping[str, str]]) -> Answer:
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return answer
