"""Our 115 prompts: how many of what, none twice, and code that holds the mistake it is meant to hold; files of others."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from finetune_api.errors import InvalidData
from finetune_assistant.prompts.code_prompts import Prompt, code_prompts, read_prompts

LANGUAGES = {"python", "javascript", "typescript", "go", "rust", "java", "c", "cpp", "sql", "bash", "html/css", "r"}
SYNTAX_ERRORS = {"review-009", "review-017"}  # their prompts say that Python refuses the code
REVIEWS = [prompt for prompt in code_prompts() if prompt.kind == "review"]


def code(prompt: Prompt) -> str:
    (found,) = re.findall(r"```[a-z]+\n(.*?)```", prompt.prompt, re.DOTALL)
    return str(found)


def test_three_quarters_write_and_one_quarter_reviews() -> None:
    assert Counter(prompt.kind for prompt in code_prompts()) == {"write": 86, "review": 29}


def test_most_are_about_python_and_every_language_is_there() -> None:
    languages = Counter(prompt.language for prompt in code_prompts())
    assert set(languages) == LANGUAGES
    assert languages["python"] > 115 / 2


def test_no_prompt_is_there_twice() -> None:
    assert len({prompt.id for prompt in code_prompts()}) == 115
    assert len({" ".join(re.findall(r"\w+", prompt.prompt.lower())) for prompt in code_prompts()}) == 115


def test_reviews_show_code_and_requests_to_write_do_not() -> None:
    for prompt in code_prompts():
        assert ("```" in prompt.prompt) == (prompt.kind == "review"), prompt.id
        assert len(prompt.prompt) > 40


@pytest.mark.parametrize("prompt", [one for one in REVIEWS if one.language == "python"], ids=lambda prompt: prompt.id)
def test_python_under_review_parses_unless_that_is_its_mistake(prompt: Prompt) -> None:
    if prompt.id in SYNTAX_ERRORS:
        with pytest.raises(SyntaxError):
            ast.parse(code(prompt))
    else:
        ast.parse(code(prompt))


def test_files_of_others_need_nothing_but_prompts(tmp_path: Path) -> None:
    file = tmp_path / "hub.jsonl"
    file.write_text('{"prompt": "Sort a list.", "source": 3}\n\n{"prompt": "Why\u2028?", "id": "x", "kind": "write", "language": "go"}\n')
    assert read_prompts(file) == [Prompt(id="1", prompt="Sort a list."), Prompt(id="x", prompt="Why\u2028?", kind="write", language="go")]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no prompts"), ("{\n", "row 1 is no JSON"), ('{"text": "x"}\n', "row 1 has no text `prompt`"), ("7\n", "row 1")],
)
def test_files_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidData, match=said):
        read_prompts(file)
