"""A Hub on the loopback with one data set: the part of the Hub's HTTP API with which `datasets` 5.2 reads one.

The real clients talk to it over the wire. `org/chats` has the branch main, two configs, and is open; `org/private` wants the token
`hf_reader`; nothing else exists. Nothing here knows our code.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = """---
license: [cc-by-4.0, mit]
configs:
- config_name: english
  data_files:
  - {split: train_ift, path: english/train.jsonl}
  - {split: test_ift, path: english/test.jsonl}
- config_name: german
  data_files:
  - {split: train, path: german.jsonl}
---
"""


def lines(*questions: str) -> bytes:
    """Rows of one question each."""
    return "".join(json.dumps({"prompt": question, "completion": "A"}) + "\n" for question in questions).encode()


FILES = {
    "README.md": README.encode(),
    "english/train.jsonl": lines("one", "two", "three"),
    "english/test.jsonl": lines("four"),
    "german.jsonl": lines("eins"),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its head

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = re.match(r"(?:/api)?/datasets/(org/\w+)", path)
        if name is None or name[1] not in ("org/chats", "org/private"):
            return self._refuse(401, "RepoNotFound")
        if name[1] == "org/private" and self.headers.get("Authorization") != "Bearer hf_reader":
            return self._refuse(401, "RepoNotFound")
        rest = path[name.end() :]
        if found := re.fullmatch(
            r"(?:/revision/(?P<info>[^/]+)|/tree/(?P<tree>[^/]+)(?P<folder>/.*)?|/resolve/(?P<file>[^/]+)/(?P<path>.+))?", rest
        ):
            revision = found["info"] or found["tree"] or found["file"]
            if revision not in (None, "main", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            if found["tree"]:
                return self._send_json(self._tree((found["folder"] or "").strip("/")))
            if found["file"]:
                return self._send_file(found["path"])
            siblings = [{"rfilename": file} for file in FILES]
            return self._send_json({"id": name[1], "sha": COMMIT, "private": False, "siblings": siblings, "tags": [], "downloads": 0})
        return self._refuse(404, "EntryNotFound")

    do_HEAD = do_POST = do_GET

    def _tree(self, folder: str) -> list[dict[str, object]]:
        inside = [file for file in FILES if file.startswith(f"{folder}/" if folder else "")]
        folders = {file.rpartition("/")[0] for file in inside} - {"", folder}
        entries: list[dict[str, object]] = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders]
        return entries + [{"type": "file", "path": file, "size": len(FILES[file]), "oid": _etag(file)} for file in inside]

    def _send_file(self, path: str) -> None:
        if path not in FILES:
            return self._refuse(404, "EntryNotFound")
        return self._send(200, FILES[path], {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT})

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


def _etag(path: str) -> str:
    return hashlib.sha1(FILES[path]).hexdigest()


@contextmanager
def dataset_hub() -> Iterator[str]:
    """The URL of a Hub that runs until the context ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
