"""Data sets of the Hub through the real clients, over the wire to a small Hub on the loopback, and through `load_dataset` on a folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from tests.trainer.dataset_hub import COMMIT, dataset_hub, lines

from finetune_api.errors import InvalidData
from finetune_trainer.data.hub import HubRows, library_rows

ROOT = Path(__file__).resolve().parents[3]
# In a process of its own: huggingface_hub reads HF_ENDPOINT once, when it is imported.
READ = """
import json, sys
from pathlib import Path
from finetune_api.errors import FineTuneError
from finetune_api.finetunejob import DataSource
from finetune_trainer.secrets import Secrets
from finetune_trainer.data.sources import read

notices = []
answers = []
for split, source in json.loads(sys.argv[1]):
    try:
        rows = read(DataSource.model_validate(source), split, base=Path(), secrets=Secrets(), notice=notices.append)
        found = [[where, row, data["prompt"]] for where, row, data in rows]
        answers.append({"rows": found, "split": rows.split, "identity": rows.identity(), "shown": repr(rows),
            "readme": rows.readme()[:40]})
    except FineTuneError as error:
        answers.append({"error": type(error).__name__ + " " + str(error)})
print(json.dumps({"answers": answers, "notices": notices}))
"""


def ask(endpoint: str, folder: Path, questions: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What a fresh process reads: for each (split, source) its rows or its error, and the notices."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ours = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "FINETUNE_SECRETS": str(folder),
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("operator", "trainer")),
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-c", READ, json.dumps(list(questions.values()))]
    done = subprocess.run(command, env=kept | ours, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "hf_reader" not in done.stdout + done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return dict(zip(questions, answer["answers"], strict=True)) | {"notices": answer["notices"]}


ENGLISH = {"path": "org/chats", "config": "english"}
GERMAN = {"path": "org/chats", "config": "german"}
PRIVATE = {"path": "org/private", "config": "german"}
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("train", ENGLISH),
    "test": ("test", ENGLISH),
    "commit": ("train", GERMAN | {"revision": COMMIT}),
    "private": ("train", PRIVATE | {"tokenSecret": {"name": "right"}}),
    "wrong token": ("train", PRIVATE | {"tokenSecret": {"name": "wrong"}}),
    "no token": ("train", PRIVATE),
    "no such name": ("train", {"path": "org/nothing"}),
    "no such revision": ("train", ENGLISH | {"revision": "v9"}),
    "no config": ("train", {"path": "org/chats"}),
    "no such config": ("train", {"path": "org/chats", "config": "french"}),
    "no such split": ("validation", ENGLISH),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers to QUESTIONS: of one process, because the clients take long to import."""
    folder = tmp_path_factory.mktemp("hub")
    for name, token in (("right", "hf_reader"), ("wrong", "hf_wrong")):
        (folder / name).mkdir()
        (folder / name / "token").write_text(token)
    with dataset_hub() as url:
        return ask(url, folder, QUESTIONS)


def test_rows_at_the_commit_of_a_branch(answers: dict[str, Any]) -> None:
    assert answers["train"]["rows"] == [["org/chats", 1, "one"], ["org/chats", 2, "two"], ["org/chats", 3, "three"]]
    assert answers["train"]["identity"] == f"hub:org/chats:english:train_ift@{COMMIT}"
    assert answers["commit"]["rows"] == [["org/chats", 1, "eins"]]


def test_the_card_of_the_commit_is_read_with_the_token_of_the_rows(answers: dict[str, Any]) -> None:
    for question in ("train", "commit", "private"):
        assert answers[question]["readme"].startswith("---\nlicense: [cc-by-4.0, mit]\n"), question


def test_a_card_that_can_not_be_had_is_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> None:
    """Without a network, which `huggingface_hub` learns when it is imported: here from the library's own switch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert HubRows(name="org/chats", config=None, commit=COMMIT, split="train", token=None).readme() == ""


def test_the_splits_of_instruction_data_are_fallbacks_and_told(answers: dict[str, Any]) -> None:
    assert (answers["test"]["rows"], answers["test"]["split"]) == ([["org/chats", 1, "four"]], "test_ift")
    assert answers["notices"] == [
        "org/chats: there is no split 'train'; 'train_ift' is read",
        "org/chats: there is no split 'test'; 'test_ift' is read",
    ]


def test_a_private_data_set_is_read_with_its_token(answers: dict[str, Any]) -> None:
    assert answers["private"]["rows"] == [["org/private", 1, "eins"]]


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("no such name", ["org/nothing: no such data set on the Hub, or it is private; check the name, or set tokenSecret"]),
        ("wrong token", ["org/private: no such data set on the Hub, or it is private"]),
        ("no token", ["org/private: no such data set on the Hub, or it is private"]),
        ("no such revision", ["org/chats: no revision 'v9'; give a branch, a tag or a full commit"]),
        ("no config", ["org/chats: Config name is missing", "['english', 'german']"]),
        ("no such config", ["org/chats: BuilderConfig 'french' not found", "['english', 'german']"]),
        ("no such split", ["org/chats: no split 'validation'; it has 'train_ift', 'test_ift'"]),
    ],
)
def test_what_is_not_on_the_hub(answers: dict[str, Any], question: str, parts: list[str]) -> None:
    assert answers[question]["error"].startswith("InvalidData ")
    for part in parts:
        assert part in answers[question]["error"]


def test_a_hub_that_can_not_be_reached(tmp_path: Path) -> None:
    with socket.socket() as free:  # bound and not listening: a connection is refused
        free.bind(("127.0.0.1", 0))
        found = ask(f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path, {"train": ("train", ENGLISH)})
    assert found["train"]["error"].startswith("DataUnreachable org/chats: can't reach the Hub (")
    assert "check the network, or give a local folder (./name) or s3:// instead" in found["train"]["error"]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` converts out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "chats").mkdir()


@pytest.mark.usefixtures("own_cache")
def test_the_library_on_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "chats" / "train.jsonl").write_bytes(lines("one", "two"))
    rows = library_rows(str(tmp_path / "chats"), None, None, "train", None, lambda text: None)
    expected = [(1, {"prompt": "one", "completion": "A"}), (2, {"prompt": "two", "completion": "A"})]
    assert [(row, data) for _, row, data in rows] == expected
    assert [(row, data) for _, row, data in rows] == expected  # again, from the start


@pytest.mark.usefixtures("own_cache")
def test_data_that_the_library_can_not_read(tmp_path: Path) -> None:
    (tmp_path / "chats" / "train.jsonl").write_text('{"a": 1}\n{"a": 2\n')
    with pytest.raises(InvalidData, match="JSON parse error"):
        list(library_rows(str(tmp_path / "chats"), None, None, "train", None, lambda text: None))


def test_a_token_is_never_shown() -> None:
    assert "hf_reader" not in repr(HubRows(name="org/chats", config=None, commit=COMMIT, split="train", token="hf_reader"))


def test_rows_of_mixed_types_which_the_library_keeps_as_json_text(tmp_path: Path) -> None:
    """`datasets` 5 gives a column of mixed types the type arrow.json; its values come as text, which is not what the row holds."""
    calls: list[dict[str, Any]] = [{"function": {"name": name, "arguments": {name: 1}}} for name in "fg"]
    data = [
        {
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A", "tool_calls": [call]}],
            "tools": [{"name": name, "parameters": {"type": "object", "properties": {name: {"type": "integer"}}}}],
        }
        for content, call, name in zip(["Q", [{"type": "text", "text": "Q"}]], calls, "fg", strict=True)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    rows = library_rows(str(tmp_path), None, None, "train", None, lambda text: None)
    assert [row for _, _, row in rows] == data
