"""A publication to the Hub that is killed at any of its requests: nobody sees half of a model, and the next one makes one commit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.trainer.hub_server import HubServer
from tests.trainer.publishing.test_hub import Place, exported, local

from finetune_trainer.publishing.model_folder import RECORD_NAME

SHARDS = {"model-00001-of-00002.safetensors": b"1" * 5000, "model-00002-of-00002.safetensors": b"2" * 300}


class Killed(BaseException):
    """The process ended here."""


class Killer:
    """Ends the process once it has had the answers to `left` more requests; never below 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        send = httpx2.Client.send

        def counted(client: httpx2.Client, *arguments: Any, **options: Any) -> httpx2.Response:
            self.left -= 1
            if self.left == -1:
                raise Killed
            return send(client, *arguments, **options)

        monkeypatch.setattr(httpx2.Client, "send", counted)


@pytest.fixture
def server() -> Iterator[HubServer]:
    server = HubServer(multipart_bytes=4096)
    yield server
    server.close()


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(monkeypatch)


@pytest.mark.parametrize("is_first", [True, False], ids=["a new repository", "over an older model"])
def test_killed_at_any_request_it_is_whole_or_not_there_and_is_made_once(
    server: HubServer, killer: Killer, tmp_path: Path, is_first: bool
) -> None:
    old, new = exported(tmp_path / "old", step=1), exported(tmp_path / "new", step=9, files=SHARDS)
    for number in range(100):
        name = f"org/demo-{number}"
        place = Place(server.url, "hf_write", name, "", server.files)
        if not is_first:
            place.publish(old, tag="v1")
        killer.left = number
        try:
            place.publish(new, tag="v2")
            break
        except Killed:
            visible = _model(server, name)
            assert visible in ({}, _without_record(local(new))) if is_first else visible in map(_without_record, (local(old), local(new)))
        killer.left = -1
        published = place.publish(new, tag="v2")
        repository = server.repositories[name]
        assert _model(server, name) == _without_record(local(new))
        messages = [commit.message for commit in repository.commits.values()]
        assert messages == ["initial commit", *([] if is_first else ["demo: step 1"]), "demo: step 9"], f"killed at request {number}"
        assert repository.tags == {"v2": published.revision} | ({} if is_first else {"v1": repository.commits[published.revision].parent})
    assert number > 10


def _model(server: HubServer, name: str) -> dict[str, bytes]:
    """What somebody sees who downloads the model; nothing where there is no repository."""
    files = server.files(name) if name in server.repositories else {}
    return _without_record({path: data for path, data in files.items() if path != ".gitattributes"})


def _without_record(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path != RECORD_NAME}
