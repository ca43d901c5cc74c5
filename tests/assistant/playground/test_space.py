"""A Space on the loopback Hub: what is sent, what is refused, and that what was sent runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.assistant.playground.space_repository import WRITE, SpaceHub, space_hub
from tests.trainer.hub_server import Fault

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.playground.space import MARK, PublishedSpace, publish_space
from finetune_assistant.playground.start import Start
from finetune_assistant.serving.ports import bound
from finetune_trainer.publishing.hub_client import Patience

IMPATIENT = Patience(attempts=3, wait_seconds=0.01, timeout_seconds=30.0)
START = Start(model="org/assistant", sampling=Sampling(temperature=0.5))


@pytest.fixture
def hub() -> Iterator[SpaceHub]:
    with space_hub() as server:
        server.create("org/assistant", {"config.json": b"{}"})
        yield server


def publish(
    hub: SpaceHub, start: Start = START, repository: str = "org/demo", *, token: str | None = WRITE, private: bool = True
) -> PublishedSpace:
    return publish_space(start, repository, token, private=private, endpoint=hub.url, patience=IMPATIENT)


def test_a_space_is_made_with_what_the_hub_wants_to_know(hub: SpaceHub) -> None:
    published = publish(hub)
    assert published.created
    assert published.url == f"{hub.url}/spaces/org/demo"
    [made] = hub.made
    assert (made["type"], made["sdk"], made["visibility"]) == ("space", "gradio", "private")
    files = hub.files("org/demo")
    _, metadata, text = files["README.md"].decode().split("---\n", 2)
    described = yaml.safe_load(metadata)
    assert (described["sdk"], described["app_file"], described["models"]) == ("gradio", "app.py", ["org/assistant"])
    assert "may be wrong" in text
    assert b"torch==" in files["requirements.txt"]
    assert b"+cpu" not in files["requirements.txt"]
    assert not [name for name in files if "__pycache__" in name or name.startswith("finetune_cli")]
    assert b"temperature=0.5" in files["app.py"]


def test_publishing_again_replaces_our_files_and_no_others(hub: SpaceHub) -> None:
    publish(hub)
    repository = hub.repositories["org/demo"]
    files = dict(repository.at("main").files)  # type: ignore[union-attr]
    files |= {"finetune_api/old.py": files["app.py"], "notes.txt": files["app.py"]}
    repository.commit("main", "more", files)
    published = publish(hub, Start(model="org/assistant", system="Be brief."))
    assert not published.created
    after = hub.files("org/demo")
    assert "finetune_api/old.py" not in after
    assert "notes.txt" in after
    assert b"Be brief." in after["app.py"]


def test_private_models_need_a_secret(hub: SpaceHub) -> None:
    hub.create("org/base", {"config.json": b"{}"}, private=True)
    assert publish(hub, Start(model="org/assistant", base="org/base")).private_models == ("org/base",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": None}, "no token to publish to org/demo"),
        ({"token": "hf_read"}, "Space org/demo on .*: the token may not write there"),
        ({"token": "hf_wrong"}, "the Hub does not accept the token"),
        ({"repository": "eve/demo"}, "the token may not write there"),
        ({"repository": "a b/demo"}, "Space a b/demo is no name of a repository"),
        ({"start": Start(model="org/nothing")}, "org/nothing is no model on the Hub that this token may read"),
        ({"start": Start(model=".")}, r"\. is a folder of this machine; publish it with `finetune publish`"),
        ({"start": Start(model="org/assistant", prompt=__file__)}, "a Space takes general or coding"),
    ],
)
def test_what_cannot_be_published_is_refused_and_nothing_is_made(hub: SpaceHub, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidPublication, match=message) as caught:
        publish(hub, **changes)  # type: ignore[arg-type]
    assert "hf_" not in str(caught.value)
    assert set(hub.repositories) == {"org/assistant"}


def test_the_work_of_others_is_left_alone(hub: SpaceHub) -> None:
    hub.create("org/demo", {"README.md": b"# Mine"}, private=True)
    with pytest.raises(InvalidPublication, match="did not write; name another"):
        publish(hub)
    hub.create("org/open", {"README.md": MARK.encode()})
    with pytest.raises(InvalidPublication, match="org/open is public; say --public"):
        publish(hub, repository="org/open")
    publish(hub, repository="org/open", private=False)


def test_a_hub_that_fails_is_named(hub: SpaceHub) -> None:
    hub.faults.append(Fault("/commit/main", "status", times=100, status=500))
    with pytest.raises(PublicationFailed, match=r"Space org/demo on .* failed: .*; publish again when it answers"):
        publish(hub)


def test_a_fault_passes(hub: SpaceHub) -> None:
    hub.faults.append(Fault("/commit/main", "status", status=503))
    assert publish(hub).created


def test_what_was_sent_begins_by_itself(hub: SpaceHub, tmp_path: Path) -> None:
    """As far as the port, which is taken here: with its own packages, and without what a page doesn't need."""
    publish(hub, Start(model="org/assistant", base="org/assistant", prompt="coding", sampling=Sampling(temperature=0.5)))
    for name, content in hub.files("org/demo").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
        ran = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert f"InvalidInput: --port {port} on 127.0.0.1 can't be had" in ran.stderr
    assert str(tmp_path / "finetune_assistant/serving/ports.py") in ran.stderr
