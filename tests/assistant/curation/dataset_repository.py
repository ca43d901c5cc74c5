"""The loopback Hub of publications, for data sets: the Hub has the same pages for both kinds, under other paths."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.trainer.hub_server import HubServer

WRITE = "hf_write"


class DatasetHub(HubServer):
    """Answers for data sets what HubServer answers for models. A repository is known by its name alone."""

    def __init__(self) -> None:
        super().__init__()
        handler = self._server.RequestHandlerClass

        def serve(request: object) -> None:
            path: str = request.path  # type: ignore[attr-defined]
            if path.startswith("/api/datasets/"):
                path = "/api/models/" + path.removeprefix("/api/datasets/")
            request.path = path.removeprefix("/datasets")  # type: ignore[attr-defined]
            handler._serve(request)  # type: ignore[attr-defined]

        methods = dict.fromkeys(("do_GET", "do_HEAD", "do_POST", "do_PUT"), serve)
        self._server.RequestHandlerClass = type("DatasetHandler", (handler,), methods)


@contextmanager
def dataset_hub() -> Iterator[DatasetHub]:
    """Runs until the context ends."""
    server = DatasetHub()
    try:
        yield server
    finally:
        server.close()
