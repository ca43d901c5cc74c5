"""A conversation as a file."""

import json
from pathlib import Path

import pytest

from finetune_api.errors import InvalidData
from finetune_assistant.inference.saved_talk import load_talk, save_talk
from finetune_trainer.data.dialogues import Message

TALK = [
    Message(role="system", content="Be kind."),
    Message(role="user", content="Grüße?\n<|end|>"),
    Message(role="assistant", content="🙂"),
]


@pytest.mark.parametrize("talk", [TALK, TALK[1:], TALK[:1], []])
def test_what_was_saved_is_loaded(talk: list[Message], tmp_path: Path) -> None:
    save_talk(tmp_path / "talk.jsonl", TALK, "old")
    save_talk(tmp_path / "talk.jsonl", talk, "org/model")
    assert load_talk(tmp_path / "talk.jsonl") == talk
    assert json.loads((tmp_path / "talk.jsonl").read_text())["model"] == "org/model"


def test_training_reads_a_saved_talk(tmp_path: Path) -> None:
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    save_talk(tmp_path / "talk.jsonl", TALK, "org/model")
    source = DataSource(path="./talk.jsonl")
    [dialogue] = parse(read(source, "train", base=tmp_path, secrets=Secrets({})), source)
    assert list(dialogue.messages) == TALK


def test_a_file_that_is_no_talk_is_neither_replaced_nor_loaded(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("import torch\n")
    with pytest.raises(InvalidData, match="is there and is no saved talk; give another name"):
        save_talk(file, TALK, "m")
    assert file.read_text() == "import torch\n"
    with pytest.raises(InvalidData, match="no saved talk; give a file that /save wrote"):
        load_talk(file)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "a"}], "two user turns in a row"),
        ([{"role": "poet", "content": "a"}], "poet"),
        ("Hello", "no saved talk"),
    ],
)
def test_a_talk_that_cant_go_on_is_refused(messages: object, reason: str, tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": messages}))
    with pytest.raises(InvalidData, match=reason):
        load_talk(tmp_path / "talk.jsonl")


def test_places_that_cant_be_written_or_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="can't be written"):
        save_talk(tmp_path / "none" / "talk.jsonl", TALK, "m")
    with pytest.raises(InvalidData, match="can't be read"):
        load_talk(tmp_path / "none.jsonl")
