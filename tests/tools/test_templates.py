"""The tool that tries a folder of templates, on templates that were written for it: one of each kind that public models have."""

import json
import subprocess
import sys

import pytest
from tests.tools.small_tokenizers import ROOT
from tests.tools.templates import Verdict, judged

FOLDER = ROOT / "tests/data/templates"
REFUSED = {
    "never_ends.jinja": "closes an answer with white space alone, so the model would never stop",
    "thinks_unless_told.jinja": "the prompt is no beginning of the training text: where the prompt has '<think>",
}
ONE_A_TURN = {"think_in_last.jinja", "channel.jinja"}


def verdict(name: str, **variables: object) -> Verdict:
    return judged(name, (FOLDER / name).read_text(encoding="utf-8"), variables or None)


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.iterdir()))
def test_ids_are_those_of_apply_chat_template_and_labels_those_of_answers(name: str) -> None:
    """W1 to W4, N1, marks, dates, tool calls, systems in odd places: each kind with tokenizers of four kinds."""
    found = verdict(name)
    assert found.wrong == []
    if name in REFUSED:
        assert REFUSED[name] in found.reason
    else:
        assert found.supported, found.reason
        assert found.answers > 40
    assert found.examples_a_turn == (name in ONE_A_TURN)


def test_a_variable_makes_a_template_usable() -> None:
    assert verdict("thinks_unless_told.jinja", enable_thinking=False).supported


def test_rows_that_a_template_can_not_take_are_refused_one_by_one() -> None:
    refused = verdict("space_before_answer.jinja").refused
    assert set(refused) == {
        "system: only users and assistants speak here",
        "tools: the row has tool calls or tools, and the template writes none",
    }


def test_as_a_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tools.templates", str(FOLDER), "--json"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lines) == len(list(FOLDER.iterdir()))
    assert f"{len(lines) - len(REFUSED)} of {len(lines)} supported" in ended.stderr
