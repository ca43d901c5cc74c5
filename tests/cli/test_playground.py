"""`finetune playground`: what is refused before a model is loaded, a real model in a browser, a Space; docs/playground.md typed."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.assistant.playground.browser import chromium, opened
from tests.assistant.playground.space_repository import WRITE, SpaceHub, space_hub
from tests.assistant.tiny_models import exported_run, saved_folder
from tests.cli.conftest import Finetune
from tests.conftest import ROOT

from finetune_assistant.serving.ports import bound


def documented(word: str) -> list[str]:
    """The arguments of the command in docs/playground.md that holds `word`."""
    text = (ROOT / "docs/playground.md").read_text()
    [command] = [line for line in re.findall(r"^\$ finetune (.*)$", text, re.MULTILINE) if word in line]
    return shlex.split(command)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders that pass for models until one is loaded."""
    for name in ("tiny", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all is no folder, and no name of a model on the Hub"),
        (["./tiny", "--base", "./nowhere"], "./nowhere is no folder"),
        (["./tiny", "--votes", "votes.jsonl"], "--votes is for two models; name the other with --base"),
        (["./tiny", "--base", "./tiny"], "--base ./tiny is MODEL itself; name another, or ask it by dialogue prompting with --prompt"),
        (["./tiny", "--base", "./base", "--votes", "no/votes.jsonl"], "--votes no/votes.jsonl: there is no folder no"),
        (["./tiny", "--base", "./base", "--votes", "tiny/config.json"], "tiny/config.json row 1 is no vote"),
        (["./tiny", "--host", "192.0.2.1", "--port", "0"], "--host 192.0.2.1 is no address of this machine"),
        (["./tiny", "--public"], "--public is for a Space"),
        (["./tiny", "--space", "org/demo", "--port", "0"], "--space serves nothing here"),
        (["./tiny", "--space", "demo"], "--space demo names no organisation or user; use name/space"),
        (["./tiny", "--space", "org/demo"], "./tiny is a folder of this machine; publish it with `finetune publish`"),
        (["./tiny", "--prompt", "nothing.txt", "--port", "0"], "--prompt nothing.txt: there is no such file"),
    ],
)
def test_what_is_wrong_is_refused_with_a_remedy(folder: Path, finetune: Finetune, arguments: list[str], message: str) -> None:
    code, out, err = finetune("playground", *arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert {path.name for path in folder.iterdir()} == {"tiny", "base"}


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(folder: Path, finetune: Finetune) -> None:
    with bound("127.0.0.1", 0) as taken:
        code, _, err = finetune("playground", "./tiny", "--port", taken.getsockname()[1])
    assert code == 2
    assert "perhaps for another of its kind; try --port 0 for any free one" in err


@pytest.mark.thorough
def test_two_real_models_in_a_browser_as_documented(tmp_path: Path, finetune: Finetune) -> None:
    exported_run(tmp_path / "runs" / "tiny")
    saved_folder(tmp_path / "base")
    command = [*documented("--base"), "--port", "0", "--json", "--greedy", "--max-new-tokens", "8"]
    with subprocess.Popen(
        [sys.executable, "-m", "finetune_cli.app", *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            with chromium() as browser, opened(browser, found["url"]) as page:
                page.get_by_label("Question").fill("Hello?")
                page.get_by_role("button", name="Send").click()
                expect(page.get_by_role("button", name="Right is better")).to_be_enabled()
                page.get_by_role("button", name="Right is better").click()
                expect(page.locator("#voted")).to_contain_text("Your vote is kept")
                base = "left" if "left is base" in page.locator("#voted").inner_text() else "right"
                expect(page.locator(f"#{base}-tokens")).to_contain_text("tokens of the prompt are its example dialogues")
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate()
    assert process.returncode == 130
    assert "base has no chat template, so it is asked as a base model" in " ".join(err.split())
    assert found["votes"] == "votes.jsonl"
    code, out, _ = finetune(*documented("human import"))
    assert code == 0
    assert out.startswith("1 votes of 1 people on 1 pairs\ntiny wins ")
    code, out, _ = finetune(*documented("data preferences"))
    assert code == 0
    assert json.loads((tmp_path / "preferences.jsonl").read_text())["prompt"] == [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SpaceHub]:
    """A Hub on loopback, at the address that huggingface_hub uses by itself, and a user who is logged in."""
    with space_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", WRITE)
        server.create("org/assistant", {"config.json": b"{}"}, private=True)
        yield server


def test_a_space_as_documented(hub: SpaceHub, finetune: Finetune) -> None:
    code, out, _ = finetune(*documented("--space"))
    assert code == 0
    first, second = out.splitlines()
    assert first.startswith(f"the page is published to {hub.url}/spaces/org/demo at ")
    assert second == "in the Space's settings add a secret HF_TOKEN, of a token that may read org/assistant"
    code, out, _ = finetune(*documented("--space"), "--json")
    assert code == 0
    assert json.loads(out)["privateModels"] == ["org/assistant"]
    assert WRITE not in out
