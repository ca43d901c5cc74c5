"""Publication over HTTP with the real client: to the loopback Hub always, to the real one when FINETUNE_TEST_HUB_TOKEN is set."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.hub_server import Fault, HubServer

from finetune_api.errors import FineTuneError, InvalidPublication, PublicationFailed, RunConflict
from finetune_api.finetunejob import DirectoryPublication, Gate, HubPublication, Maximum
from finetune_trainer.publishing.changes import Changes, RemoteFile, changes, refused_by_gate
from finetune_trainer.publishing.directory import publication_directory, publish_to_directory
from finetune_trainer.publishing.hub import check_hub, publish_to_hub
from finetune_trainer.publishing.hub_client import Patience
from finetune_trainer.publishing.model_folder import RECORD_NAME, ExportRecord, digest_of, digest_of_file, folder_files, folder_put_in_place

IMPATIENT = Patience(attempts=3, wait_seconds=0.01, timeout_seconds=30.0)
CARD = b"---\nlicense: apache-2.0\n---\n# Demo\n"
WEIGHTS = {"model.safetensors": bytes(range(256)) * 40}


def exported(folder: Path, *, job: str = "demo", step: int = 3, files: dict[str, bytes] | None = None) -> Path:
    """An exported folder, as `export` leaves it."""
    folder.mkdir(parents=True)
    for path, data in {**(WEIGHTS if files is None else files), "config.json": b"{}", "README.md": CARD}.items():
        (folder / path).write_bytes(data)
    return recorded(folder, job=job, step=step)


def recorded(folder: Path, *, job: str = "demo", step: int = 3) -> Path:
    digests = {path: digest_of_file(folder / path) for path in folder_files(folder)}
    record = ExportRecord(job=job, identity="i" * 64, step=step, dtype="float32", files=digests)
    (folder / RECORD_NAME).write_text(record.to_json())
    return folder


@dataclass(frozen=True)
class Place:
    """A Hub, a token that may write there, and a repository that doesn't exist yet."""

    endpoint: str
    token: str
    repository: str
    foreign: str
    files: Callable[[str, str], dict[str, bytes]]

    def hub(self, **fields: Any) -> HubPublication:
        return HubPublication(**{"repository": self.repository, **fields})

    def publish(self, folder: Path, **fields: Any) -> Any:
        return publish_to_hub(folder, self.hub(**fields), self.token, endpoint=self.endpoint, patience=IMPATIENT)


@pytest.fixture
def server() -> Iterator[HubServer]:
    server = HubServer(multipart_bytes=4096, page=3)
    server.create("eve/theirs", {"model.safetensors": b"theirs"})
    yield server
    server.close()


REAL_TOKEN = os.environ.get("FINETUNE_TEST_HUB_TOKEN")


@pytest.fixture(params=["loopback", "real"] if REAL_TOKEN else ["loopback"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "loopback":
        server: HubServer = request.getfixturevalue("server")
        yield Place(server.url, "hf_write", "org/demo", "eve/theirs", server.files)
        return
    from huggingface_hub import HfApi

    api = HfApi(token=REAL_TOKEN)
    repository = f"{api.whoami()['name']}/finetune-test-{uuid.uuid4().hex[:12]}"

    def files(repository: str, revision: str) -> dict[str, bytes]:
        paths = api.list_repo_files(repository, revision=revision)
        return {path: Path(api.hf_hub_download(repository, path, revision=revision)).read_bytes() for path in paths}

    yield Place(api.endpoint, str(REAL_TOKEN), repository, "openai-community/gpt2", files)
    api.delete_repo(repository, missing_ok=True)


def local(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in [*folder_files(folder), RECORD_NAME]}


def remote(place: Place, revision: str = "main") -> dict[str, bytes]:
    files = place.files(place.repository, revision)
    files.pop(".gitattributes", None)
    return files


# Both Hubs


def test_every_file_arrives_and_the_commit_is_named(place: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    publication = place.publish(folder)
    assert remote(place, publication.revision) == local(folder) == remote(place)
    assert publication.repository == place.repository
    assert publication.url == f"{place.endpoint}/{place.repository}"
    assert publication.created
    assert set(publication.sent) == set(local(folder))


def test_publishing_the_same_again_sends_nothing_and_keeps_the_commit(place: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    first, second = place.publish(folder), place.publish(folder)
    assert second.revision == first.revision
    assert second.sent == ()
    assert not second.created


def test_old_shards_of_ours_go_and_files_of_others_stay(place: Place, tmp_path: Path) -> None:
    place.publish(exported(tmp_path / "a", files={"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}))
    from huggingface_hub import HfApi

    HfApi(endpoint=place.endpoint, token=place.token).upload_file(
        path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=place.repository
    )
    publication = place.publish(exported(tmp_path / "b", step=9))
    assert publication.deleted == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert remote(place) == local(tmp_path / "b") | {"notes.txt": b"mine"}


def test_a_card_that_was_edited_at_the_remote_stays(place: Place, tmp_path: Path) -> None:
    place.publish(exported(tmp_path / "a"))
    from huggingface_hub import HfApi

    edited = CARD.replace(b"Demo", b"Mine")
    HfApi(endpoint=place.endpoint, token=place.token).upload_file(
        path_or_fileobj=edited, path_in_repo="README.md", repo_id=place.repository
    )
    exported(tmp_path / "b", step=9)
    (tmp_path / "b" / "README.md").write_bytes(CARD + b"loss 1.0\n")
    publication = place.publish(recorded(tmp_path / "b", step=9))
    assert publication.kept == ("README.md",)
    assert remote(place)["README.md"] == edited


def test_a_branch_is_created_and_main_is_left_alone(place: Place, tmp_path: Path) -> None:
    place.publish(exported(tmp_path / "a", files={"model.safetensors": b"a", "old.txt": b"x"}))
    before = remote(place)
    publication = place.publish(exported(tmp_path / "b", job="other"), revision="v2")
    assert publication.url.endswith("/tree/v2")
    assert remote(place, "v2") == local(tmp_path / "b")
    assert remote(place) == before


def test_a_repository_with_another_model_is_refused_untouched(place: Place, tmp_path: Path) -> None:
    place.publish(exported(tmp_path / "a"))
    before = remote(place)
    with pytest.raises(InvalidPublication, match="holds the model of job demo, not of other; publish to another repository"):
        place.publish(exported(tmp_path / "b", job="other", step=9))
    assert remote(place) == before


def test_a_wrong_token_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidPublication, match="does not accept the token") as refusal:
        publish_to_hub(exported(tmp_path / "model"), place.hub(), "hf_wrongwrongwrong", endpoint=place.endpoint, patience=IMPATIENT)
    assert "hf_wrong" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_repository_of_others_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidPublication, match=r"may not write there|can't be created"):
        place.publish(exported(tmp_path / "model"), repository=place.foreign)


def test_a_namespace_of_others_is_refused_before_training(place: Place) -> None:
    with pytest.raises(InvalidPublication, match=r"can't be created with the token of .*; publish under one of: "):
        check_hub(
            place.hub(repository=f"{place.foreign.split('/')[0]}/not-there-{uuid.uuid4().hex[:8]}"), place.token, endpoint=place.endpoint
        )


def test_what_may_be_published_passes_the_check_and_creates_nothing(place: Place) -> None:
    from huggingface_hub import HfApi

    check_hub(place.hub(), place.token, endpoint=place.endpoint)
    assert not HfApi(endpoint=place.endpoint, token=place.token).repo_exists(place.repository)


@pytest.mark.skipif(not REAL_TOKEN, reason="the cases above against the real Hub: set FINETUNE_TEST_HUB_TOKEN to run them")
def test_the_real_hub_knows_the_token() -> None:
    from huggingface_hub import HfApi

    assert HfApi(token=REAL_TOKEN).whoami()["name"]


# The loopback Hub alone: faults, and accounts that a tester of the real one doesn't have


@pytest.fixture
def loopback(server: HubServer) -> Place:
    return Place(server.url, "hf_write", "org/demo", "eve/theirs", server.files)


def test_a_token_that_may_only_read_is_refused(loopback: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidPublication, match="the token of ann may only read"):
        publish_to_hub(exported(tmp_path / "model"), loopback.hub(), "hf_read", endpoint=loopback.endpoint, patience=IMPATIENT)


def test_no_token_at_all_is_refused(loopback: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidPublication, match=r"no token to publish to org/demo; set spec\.publish\.hub\.tokenSecret or HF_TOKEN"):
        publish_to_hub(exported(tmp_path / "model"), loopback.hub(), None, endpoint=loopback.endpoint, patience=IMPATIENT)


def test_a_private_repository_is_created_private(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    loopback.publish(exported(tmp_path / "a"))
    loopback.publish(exported(tmp_path / "b"), repository="org/open", private=False)
    assert server.repositories["org/demo"].private
    assert not server.repositories["org/open"].private


@pytest.mark.parametrize(("message", "expected"), [(None, "demo: step 3"), ("a better one", "a better one")])
def test_the_commit_carries_the_message(server: HubServer, loopback: Place, tmp_path: Path, message: str | None, expected: str) -> None:
    revision = loopback.publish(exported(tmp_path / "model"), message=message).revision
    assert server.repositories["org/demo"].commits[revision].message == expected


def test_private_is_true_and_the_repository_exists_and_is_public(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    """Refused before anything is sent; each remedy of the message helps."""
    server.create("org/demo", {"README.md": b"soon"})
    folder = exported(tmp_path / "model")
    before = len(server.requests)
    refused = r"org/demo is public, and spec\.publish\.hub\.private is true; make the repository private .* or say private: false"
    with pytest.raises(InvalidPublication, match=refused):
        check_hub(loopback.hub(), loopback.token, endpoint=loopback.endpoint)
    with pytest.raises(InvalidPublication, match=refused):
        loopback.publish(folder)
    assert [request for request in server.requests[before:] if not request.startswith(("GET", "HEAD"))] == []
    assert server.files("org/demo").keys() == {".gitattributes", "README.md"}
    assert not server.uploaded_bytes
    server.repositories["org/demo"].private = True
    loopback.publish(folder)
    server.create("org/demo")
    loopback.publish(folder, private=False)
    assert "model.safetensors" in server.files("org/demo")
    loopback.publish(folder, repository="org/another")


def test_a_tag_names_the_commit_and_never_moves(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    first = loopback.publish(folder, tag="v1.0")
    assert server.repositories["org/demo"].tags == {"v1.0": first.revision}
    assert loopback.publish(folder, tag="v1.0").revision == first.revision, "the same again is no other model"
    later = exported(tmp_path / "later", step=9)
    with pytest.raises(InvalidPublication, match=r"org/demo has a tag v1\.0 already, at .*; choose another spec\.publish\.hub\.tag"):
        loopback.publish(later, tag="v1.0")
    assert server.repositories["org/demo"].branches["main"] == first.revision, "nothing was sent"
    second = loopback.publish(later, tag="v1.1")
    assert server.repositories["org/demo"].tags == {"v1.0": first.revision, "v1.1": second.revision}


def test_a_tag_whose_answer_was_lost_is_there_once(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    server.faults.append(Fault("POST .*/tag/", "lost"))
    published = loopback.publish(exported(tmp_path / "model"), tag="v1.0")
    assert server.repositories["org/demo"].tags == {"v1.0": published.revision}


def test_a_repository_that_becomes_public_by_its_organisations_rule_gets_no_weights(
    server: HubServer, loopback: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = server.create
    monkeypatch.setattr(server, "create", lambda name, **_asked: create(name, private=False))
    with pytest.raises(InvalidPublication, match="org/demo is public"):
        loopback.publish(exported(tmp_path / "model"))
    assert server.files("org/demo").keys() == {".gitattributes"}


def test_another_model_without_a_record_is_refused_and_an_empty_repository_is_not(
    server: HubServer, loopback: Place, tmp_path: Path
) -> None:
    server.create("org/weights", {"pytorch_model.bin": b"x", "config.json": b"{}"}, private=True)
    server.create("org/card", {"README.md": b"soon", "LICENSE": b"free"}, private=True)
    folder = exported(tmp_path / "model")
    with pytest.raises(InvalidPublication, match=r"org/weights holds another model \(pytorch_model.bin\)"):
        loopback.publish(folder, repository="org/weights")
    loopback.publish(folder, repository="org/card")
    assert server.files("org/card")["README.md"] == CARD
    assert server.files("org/card")["LICENSE"] == b"free"


def test_large_files_go_by_lfs_in_parts_and_never_by_xet(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    loopback.publish(exported(tmp_path / "model"))
    assert len(server.asked(r"PUT /lfs/.*/\d+$")) == 3  # 10,240 bytes in parts of 4,096
    assert not server.asked("xet")
    assert server.repositories["org/demo"].at("main").files["model.safetensors"].lfs  # type: ignore[union-attr]


def test_a_connection_cut_in_the_middle_of_an_upload_is_mended(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    server.faults = [Fault(r"PUT /lfs/.*/2$", "cut")]
    loopback.publish(exported(tmp_path / "model"))
    assert server.files("org/demo")["model.safetensors"] == WEIGHTS["model.safetensors"]
    assert len(server.asked(r"PUT /lfs/.*/2$")) == 2


def test_what_arrived_before_it_gave_up_is_not_sent_again(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    server.faults = [Fault("POST .*/commit/", "status", times=3)]
    with pytest.raises(PublicationFailed, match=r"org/demo on .* failed in the middle: .*; the exported model is kept, publish again"):
        loopback.publish(folder)
    sent = server.uploaded_bytes
    loopback.publish(folder)
    assert server.uploaded_bytes == sent == len(WEIGHTS["model.safetensors"])
    assert server.files("org/demo")["model.safetensors"] == WEIGHTS["model.safetensors"]


def test_a_commit_whose_answer_was_lost_is_not_made_twice(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    server.faults = [Fault("POST .*/commit/", "lost")]
    publication = loopback.publish(exported(tmp_path / "model"))
    assert server.repositories["org/demo"].branches["main"] == publication.revision
    assert len(server.repositories["org/demo"].commits) == 2


@pytest.mark.parametrize(
    "request_pattern", ["whoami", "repos/create", "/refs", "/tree/", "/preupload/", "objects/batch", "validate-yaml", "/verify"]
)
def test_a_server_error_anywhere_is_tried_again(server: HubServer, loopback: Place, tmp_path: Path, request_pattern: str) -> None:
    server.faults = [Fault(request_pattern, "status", status=502)]
    folder = exported(tmp_path / "model")
    loopback.publish(folder)
    assert remote(loopback) == local(folder)


def test_a_server_that_does_not_answer_is_left(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    server.faults = [Fault("/refs", "hang", times=9)]
    patience = Patience(attempts=2, wait_seconds=0.01, timeout_seconds=0.3)
    with pytest.raises(PublicationFailed, match=r"failed in the middle: .*timed out"):
        publish_to_hub(exported(tmp_path / "model"), loopback.hub(), "hf_write", endpoint=server.url, patience=patience)


def test_a_check_of_an_unreachable_hub_promises_no_exported_model(loopback: Place) -> None:
    with pytest.raises(PublicationFailed, match=r"org/demo on http://127\.0\.0\.1:1 can't be reached: .*; nothing was sent to it"):
        check_hub(loopback.hub(), "hf_write", endpoint="http://127.0.0.1:1")


def test_an_unreachable_hub_fails_with_its_address(loopback: Place, tmp_path: Path) -> None:
    with pytest.raises(PublicationFailed, match=r"org/demo on http://127\.0\.0\.1:1 failed"):
        publish_to_hub(exported(tmp_path / "model"), loopback.hub(), "hf_write", endpoint="http://127.0.0.1:1", patience=IMPATIENT)


def test_a_remote_that_altered_a_file_is_noticed(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    from tests.trainer.hub_server import Blob

    def alter(sent: int, total: int) -> None:
        if sent == total:
            repository = server.repositories["org/demo"]
            newest = repository.commits[repository.branches["main"]]
            if "config.json" in newest.files:
                newest.files["config.json"] = Blob(b"altered", False)

    with pytest.raises(PublicationFailed, match=r"org/demo at \w{12} differs from the exported model in config.json"):
        publish_to_hub(exported(tmp_path / "model"), loopback.hub(), "hf_write", endpoint=server.url, progress=alter, patience=IMPATIENT)


def test_progress_ends_at_the_total_and_never_goes_back(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    server.faults = [Fault(r"PUT /lfs/.*/2$", "cut")]
    folder, seen = exported(tmp_path / "model"), []
    publish_to_hub(
        folder,
        loopback.hub(),
        "hf_write",
        endpoint=server.url,
        progress=lambda sent, total: seen.append((sent, total)),
        patience=IMPATIENT,
    )
    total = sum((folder / path).stat().st_size for path in folder_files(folder))
    assert seen[-1] == (total, total)
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)


def test_a_card_with_broken_metadata_is_refused_by_name(loopback: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: x\n")
    with pytest.raises(InvalidPublication, match=r"mend the metadata at the head of README\.md"):
        loopback.publish(folder)


def test_the_token_is_in_no_message(server: HubServer, loopback: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    for pattern, status in [("repos/create", 400), ("commit", 403), ("commit", 500), ("whoami", 401)]:
        server.faults = [Fault(pattern, "status", times=9, status=status)]
        with pytest.raises(FineTuneError) as failure:
            loopback.publish(folder)
        assert "hf_write" not in repr(failure.getrepr(chain=True))


# The exported folder


def test_altered_and_missing_weights_are_refused(loopback: Place, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"altered")
    with pytest.raises(InvalidPublication, match=r"model\.safetensors has changed since it was exported; export the model again"):
        loopback.publish(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidPublication, match=r"model\.safetensors is missing"):
        publish_to_directory(folder, tmp_path / "out")


def test_any_file_of_the_export_that_is_missing_is_refused_and_an_edited_one_is_not(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", files={**WEIGHTS, "tokenizer.json": b"{}"})
    (folder / "README.md").write_bytes(CARD + b"edited")
    publish_to_directory(folder, tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidPublication, match=r"tokenizer\.json is missing; export the model again"):
        publish_to_directory(folder, tmp_path / "out")


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPublication, match="holds no exported model"):
        publish_to_directory(tmp_path, tmp_path / "out")


# What may be published, and where


@pytest.mark.parametrize(("loss", "passes"), [(1.5, True), (1.51, False), (float("nan"), False), (None, False)])
def test_the_gate_passes_only_what_was_measured_below_it(loss: float | None, passes: bool) -> None:
    assert (refused_by_gate(Gate(evaluation_loss=Maximum(max=1.5)), loss, 8) is None) == passes
    assert refused_by_gate(Gate(), loss, 8) is None


def test_the_directory_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = [publication_directory(DirectoryPublication(path=path), tmp_path / "job") for path in ("~/out", "../out", str(tmp_path))]
    assert found == [tmp_path / "home/out", tmp_path / "out", tmp_path]
    with pytest.raises(InvalidPublication, match="there is no such home; write a whole path"):
        publication_directory(DirectoryPublication(path="~no-such-user-here/out"), tmp_path)


# What a commit has to do


def _remote(data: bytes, lfs: bool = False) -> RemoteFile:
    digest = digest_of(data)
    return RemoteFile(size=len(data), sha256=digest.sha256 if lfs else None, blob_sha1="" if lfs else str(digest.blob_sha1))


@pytest.mark.parametrize(
    ("local", "remote", "previous", "expected"),
    [
        ({"a": b"1"}, {}, {}, Changes(send=("a",), delete=(), kept=())),
        ({"a": b"1"}, {"a": b"1"}, {}, Changes(send=(), delete=(), kept=())),
        ({"a": b"1"}, {"a": b"2", "theirs": b"x"}, {}, Changes(send=("a",), delete=(), kept=())),
        ({"a": b"1"}, {"a": b"1", "old": b"x"}, {"old": b"x"}, Changes(send=(), delete=("old",), kept=())),
        ({"a": b"1"}, {"a": b"1", "old": b"replaced"}, {"old": b"x"}, Changes(send=(), delete=(), kept=())),
        ({"README.md": b"new"}, {"README.md": b"own"}, {"README.md": b"old"}, Changes(send=(), delete=(), kept=("README.md",))),
        ({"README.md": b"new"}, {"README.md": b"old"}, {"README.md": b"old"}, Changes(send=("README.md",), delete=(), kept=())),
        ({"README.md": b"new"}, {"README.md": b"web"}, {}, Changes(send=("README.md",), delete=(), kept=())),
    ],
)
def test_changes(local: dict[str, bytes], remote: dict[str, bytes], previous: dict[str, bytes], expected: Changes) -> None:
    digests = {path: digest_of(data) for path, data in previous.items()}
    record = ExportRecord(job="demo", identity="", step=0, dtype="float32", files=digests) if previous else None
    for lfs in (False, True):
        there = {path: _remote(data, lfs) for path, data in remote.items()}
        assert changes({path: digest_of(data) for path, data in local.items()}, there, record) == expected


def test_a_branch_without_a_commit_of_its_own_is_made_ours() -> None:
    there = {".gitattributes": _remote(b"lfs"), "model.safetensors": _remote(b"theirs"), "a": _remote(b"1")}
    todo = changes({"a": digest_of(b"1"), "b": digest_of(b"2")}, there, None, inherited=True)
    assert todo == Changes(send=("b",), delete=("model.safetensors",), kept=())


# To a directory


def test_a_directory_gets_every_file(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    publication = publish_to_directory(folder, tmp_path / "shared" / "demo")
    assert local(tmp_path / "shared" / "demo") == local(folder)
    assert publication.url == (tmp_path / "shared" / "demo").as_uri()
    assert re.fullmatch("[0-9a-f]{64}", publication.revision)
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["demo"]


def test_a_directory_of_the_same_job_is_replaced_and_of_another_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish_to_directory(exported(tmp_path / "a", files={"model-00001-of-00001.safetensors": b"1"}), out)
    publish_to_directory(exported(tmp_path / "b", step=9), out)
    assert local(out) == local(tmp_path / "b")
    with pytest.raises(InvalidPublication, match="holds the model of job demo, not of other"):
        publish_to_directory(exported(tmp_path / "c", job="other"), out)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidPublication, match="exists and holds no model of ours"):
        publish_to_directory(tmp_path / "a", tmp_path / "own")
    assert (tmp_path / "own" / "thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    import resource

    out = tmp_path / "out"
    publish_to_directory(exported(tmp_path / "a"), out)
    before = local(out)
    large = exported(tmp_path / "b", files={"model.safetensors": bytes(300_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(PublicationFailed, match="can't be written: File too large"):
            publish_to_directory(large, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert local(out) == before


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    target, aside = tmp_path / "model", tmp_path / ".model.old"
    aside.mkdir()
    (aside / "old").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), folder_put_in_place(target):
        raise RuntimeError("stop")
    assert (target / "old").read_text() == "old"
    assert not aside.exists()


def test_two_writers_of_one_folder_are_kept_apart(tmp_path: Path) -> None:
    with (
        folder_put_in_place(tmp_path / "model"),
        pytest.raises(RunConflict, match="another process is writing"),
        folder_put_in_place(tmp_path / "model"),
    ):
        raise AssertionError


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    text = (exported(tmp_path / "model") / RECORD_NAME).read_text()
    assert ExportRecord.from_json(text).to_json() == text
    for wrong in ("[]", "{}", "null", json.dumps({"files": {"a": 1}, "job": "", "identity": "", "step": 0, "dtype": ""})):
        with pytest.raises(ValueError, match="not an export record"):
            ExportRecord.from_json(wrong)
