"""docs/python.md, word for word: its blocks are one program, which is run as a user would run it."""

import ast
import os
import re
import subprocess
import sys

import pytest
from tests.conftest import ROOT

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
FIRST, *OTHERS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines of standard output."""
    place = tmp_path_factory.mktemp("page")
    light = 'import sys\nassert not {"torch", "transformers"} & sys.modules.keys()\n'
    (place / "page.py").write_text("\n".join([FIRST, light, *OTHERS]))
    done = subprocess.run(
        [sys.executable, str(place / "page.py")],
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(place / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_takes_ten_statements() -> None:
    body = ast.parse(FIRST).body
    assert sum(not isinstance(statement, ast.Import | ast.ImportFrom) for statement in body) == 10


def test_a_dialogue_becomes_text_ids_and_labels(printed: list[str]) -> None:
    from finetune_trainer.templates.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(ROOT / "examples/tiny").tokenizer
    tokenizer.add_special_tokens(["<|system|>", "<|assistant|>", "<|user|>", "<|end|>"])
    text = "<|system|>\n<|end|>\n<|user|>\nHello, can you help me?<|end|>\n<|assistant|>\nSure, what can I do for you?<|end|>\n"
    assert "\n".join(printed).startswith(text)
    ids, labels = (ast.literal_eval(line) for line in printed[text.count("\n") + 1 :][:2])
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    learnt = [token_id for token_id, label in zip(ids, labels, strict=True) if label != -100]
    assert learnt == [label for label in labels if label != -100]
    assert tokenizer.decode(learnt, skip_special_tokens=False) == "Sure, what can I do for you?<|end|>"


def test_a_datasets_map_gives_the_same_kind_of_rows(printed: list[str]) -> None:
    ids, labels = ast.literal_eval(printed[-1].replace("] [", "], ["))
    assert len(ids) == len(labels)
    assert 0 < sum(label != -100 for label in labels) < len(labels)
    assert all(label in (-100, token_id) for token_id, label in zip(ids, labels, strict=True))
