"""Dialogue prompting: the published form, our two files, and what a message can and can't do to it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny

from finetune_api.errors import InvalidData
from finetune_assistant.inference.dialogue_prompting import OURS, DialoguePrompter, parse_prompt, read_prompt
from finetune_trainer.data.dialogues import Message

FILE = "Two people talk.\n\n-----\n\nHuman: Hi\n\nAssistant: Hello.\n\n-----\n"
TALK = [
    Message(role="user", content="Why? "),
    Message(role="assistant", content="Because.\n"),
    Message(role="user", content="Really?"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Tiny().model)


def test_a_talk_is_the_last_dialogue_of_the_file() -> None:
    text, _ = parse_prompt(FILE, "x").text(TALK)
    assert text == f"{FILE}\nHuman: Why?\n\nAssistant: Because.\n\nHuman: Really?\n\nAssistant:"


def test_a_system_message_takes_the_descriptions_place() -> None:
    text, _ = parse_prompt(FILE, "x").text([Message(role="system", content="A poet."), *TALK[:1]])
    assert text.startswith("A poet.\n\n-----\n\nHuman: Hi")
    assert "Two people" not in text


@pytest.mark.parametrize(
    ("file", "ending"),
    [
        (FILE, "\n\n-----\n\nHuman: Q\n\nAssistant:"),
        (FILE.removesuffix("\n-----\n"), "Hello.\n\n-----\n\nHuman: Q\n\nAssistant:"),
        (FILE + "\nHuman:", "\n\n-----\n\nHuman: Q\n\nAssistant:"),
        (FILE.replace("\n", "\r\n"), "\n\n-----\n\nHuman: Q\n\nAssistant:"),
        ("A talk\n-----\nHuman: a\nAssistant: b\n-----\nHuman: c\nAssistant: d", "d\n-----\nHuman: Q\nAssistant:"),
        ("Human: a\n\nAssistant: b", "b\n\n-----\n\nHuman: Q\n\nAssistant:"),
    ],
    ids=["whole", "no last line", "an open turn", "Windows", "no empty lines", "nothing but a dialogue"],
)
def test_files_are_read_as_people_write_them(file: str, ending: str) -> None:
    text, _ = parse_prompt(file, "x").text([Message(role="user", content="Q")])
    assert text.endswith(ending)
    assert "\r" not in text


@pytest.mark.parametrize("text", ["", "Hello", "Human: a\n", "User: a\n\nBot: b", "They said Human: and Assistant: often."])
def test_a_file_without_a_dialogue_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match=r"--prompt mine\.txt: no dialogue is in it; write a description"):
        parse_prompt(text, "mine.txt")


def test_files_that_cant_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"Human: \xe9")
    for name, reason in ((tmp_path / "none", "no such file"), (tmp_path / "latin", "not UTF-8"), (tmp_path, "can't be read")):
        with pytest.raises(InvalidData, match=reason):
            read_prompt(str(name))


def test_no_message_writes_a_control_token(tokenizer: Any) -> None:
    prompter = DialoguePrompter(tokenizer, parse_prompt(FILE, "x"), "tiny")
    ids = prompter.encode([Message(role="user", content="x<|endoftext|>y")])
    assert tokenizer.eos_token_id not in ids
    assert prompter.decode(ids).endswith("Human: x<|endoftext|>y\n\nAssistant:")


def test_a_message_of_a_tool_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidData, match="message 1 is of role tool; dialogue prompting knows system, user and assistant"):
        DialoguePrompter(tokenizer, parse_prompt(FILE, "x"), "tiny").encode([Message(role="tool", content="1")])


@pytest.mark.parametrize("name", OURS)
def test_what_a_turn_costs_is_told_beside_the_fine_tuned_model(name: str, tokenizer: Any) -> None:
    prompter = DialoguePrompter(tokenizer, read_prompt(name), "tiny")
    question = [Message(role="user", content="Why?")]
    asked = len(prompter.encode(question))
    assert prompter.preamble_tokens < asked < prompter.preamble_tokens + 20
    assert prompter.tuned_tokens(question) < asked / 10


@pytest.mark.parametrize("name", OURS)
def test_our_files_are_of_the_form(name: str) -> None:
    prompt = read_prompt(name)
    dialogues = [part.strip() for part in re.split(r"^-----$", prompt.examples, flags=re.MULTILINE) if part.strip()]
    assert prompt.description.startswith("What follows are talks between")
    assert len(dialogues) >= 3
    for dialogue in dialogues:
        turns = re.findall(r"^(Human|Assistant): \S", dialogue, flags=re.MULTILINE)
        assert turns == ["Human", "Assistant"] * (len(turns) // 2)
        assert "\nHuman:" not in dialogue.replace("\n\nHuman: ", "")
    assert any(dialogue.count("Human:") > 1 for dialogue in dialogues)


def test_the_code_of_the_coding_prompt_works_and_passes_its_own_tests(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", read_prompt("coding").examples, flags=re.DOTALL)
    pieces, tests, filled, wrong, right = blocks
    # The tests of the first version hold for the second, as the dialogue says.
    more = '\n\ndef test_fill():\n    assert pieces("abc", 2, "-") == [["a", "b"], ["c", "-"]]\n    assert pieces([], 2, 0) == []\n'
    (tmp_path / "test_first.py").write_text(pieces + tests)
    (tmp_path / "test_second.py").write_text(filled + tests + more)
    shared = f"{wrong}\n\nassert [list(add(1)), list(add(2))] == [[1], [1, 2]]\n\n{right}\n\nassert [add(1), add(2)] == [[1], [2]]\n"
    (tmp_path / "test_third.py").write_text(f"{shared}\n\ndef test_it():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
