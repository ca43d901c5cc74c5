"""An API in memory behind a server that lies on request, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.operator.runtime.faulty_api import FaultyApi, faulty_api
from tests.operator.runtime.memory_api import MemoryApi

from finetune_operator.runtime.api import Api


@pytest.fixture
def memory() -> MemoryApi:
    """The objects behind `server`."""
    return MemoryApi()


@pytest.fixture
def server(memory: MemoryApi) -> Iterator[FaultyApi]:
    """The server in front of `memory`."""
    with faulty_api(memory) as running:
        yield running


@pytest.fixture
def api(server: FaultyApi, tmp_path: Path) -> Iterator[Api]:
    """A client of `server`; a call that gets no answer gives up after 1 s."""
    client = Api.connect(server.kubeconfig(tmp_path), user_agent="tests", timeout_seconds=1)
    yield client
    client.close()
