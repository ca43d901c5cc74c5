"""docs/serve.md: its options exist, what it shows is what is printed, and its manifest is there."""

import re
import shlex

import pytest
import typer
from tests.conftest import ROOT

from finetune_cli.app import app
from finetune_cli.serve import _tell

PAGE = (ROOT / "docs/serve.md").read_text(encoding="utf-8")


def test_what_it_prints_is_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    _tell("http://127.0.0.1:8000/v1", "tiny", "transformers", as_json=False)
    assert capsys.readouterr().out in PAGE


def test_its_options_are_those_of_the_command() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    described = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert known <= described | {"--help"}
    for line in re.findall(r"^\$ finetune serve (.+)$", PAGE, re.MULTILINE):
        command.make_context("serve", shlex.split(line))


def test_files_that_it_names_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for name in re.findall(r"kubectl apply -f (\S+)", PAGE):
        assert (ROOT / name).is_file(), name
