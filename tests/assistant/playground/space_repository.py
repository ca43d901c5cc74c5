"""The loopback Hub of publications, for Spaces: the Hub has the same pages for all kinds of repositories, under other paths."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.trainer.hub_server import HubServer

WRITE = "hf_write"


class SpaceHub(HubServer):
    """Answers for Spaces what HubServer answers for models. `made`: what was asked for when repositories were made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[dict[str, Any]] = []
        handler: Any = self._server.RequestHandlerClass
        hub = self

        def serve(request: Any) -> None:
            if request.path.startswith("/api/spaces/"):
                request.path = "/api/models/" + request.path.removeprefix("/api/spaces/")
            request.path = request.path.removeprefix("/spaces")
            handler._serve(request)
            if request.path == "/api/repos/create":
                hub.made.append(json.loads(request.body))

        self._server.RequestHandlerClass = type(
            "SpaceHandler", (handler,), dict.fromkeys(("do_GET", "do_HEAD", "do_POST", "do_PUT"), serve)
        )


@contextmanager
def space_hub() -> Iterator[SpaceHub]:
    """Runs until the context ends."""
    server = SpaceHub()
    try:
        yield server
    finally:
        server.close()
