"""docs/chat.md: its commands are typed, on tiny models under the names that the page uses."""

import io
import json
import re
import shlex
from pathlib import Path

import pytest
from tests.assistant.tiny_models import TEMPLATE, exported_run, saved_folder
from tests.conftest import ROOT

from finetune_cli.app import main

PAGE = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.removeprefix("$ finetune "), comments=True)
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ finetune ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's names are files and models."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "runs").mkdir()
    exported_run(folder / "runs" / "tiny")
    for name, template in (("org/base", None), ("your-name/my-assistant", TEMPLATE)):
        saved_folder(folder / name, chat_template=template)
        (folder / name / "generation_config.json").write_text('{"max_new_tokens": 4}')
    [prompt] = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "my-prompt.txt").write_text(prompt)
    (folder / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    return folder


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_works(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(arguments) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    if "--json" in arguments:
        assert json.loads(out)["question"] == "How do I sort a list?"
    if arguments[0] == "generate":
        rows = (folder / arguments[arguments.index("-o") + 1]).read_text().splitlines()
        assert len(rows) == (10 if "--samples" in arguments else 1)


def test_the_page_names_every_command_of_the_conversation() -> None:
    from finetune_cli.chat_commands import HELP

    for command in re.findall(r"^/[a-z]+", HELP, flags=re.MULTILINE):
        assert f"`{command}" in PAGE or f"{command}`" in PAGE
