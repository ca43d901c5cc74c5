"""The Python in an answer."""

import pytest

from finetune_assistant.sandbox.notebook import Program, missing_imports, program, without_magics


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("~~~py\nx = 1\n~~~", "x = 1\n"),
        ("```Python3\nx = 1\n```", "x = 1\n"),
        ("``` python title=a.py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nand\n```python\ny = x\n```", "x = 1\n\ny = x\n"),
        ("```\nthe output\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("1. First\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\nx = 1\nwhile x:", "x = 1\nwhile x:\n"),
        ("import os\nprint(os.name)", "import os\nprint(os.name)"),
        ("```python\r\nx = 1\r\n```", "x = 1\n"),
    ],
)
def test_the_program_of_an_answer(answer: str, code: str) -> None:
    found = program(answer)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "I can't write that.",
        "```bash\nls\n```",
        "```python\n```",
        "```python\n%%bash\nls\n```",
        "```console\n$ ls\n```\nIt lists.",
    ],
)
def test_answers_without_a_program(answer: str) -> None:
    assert program(answer) is None


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("%matplotlib inline\nx = 1", ["%matplotlib inline"]),
        ("import os\n%load_ext autoreload\n%autoreload 2\nx = 1", ["%load_ext autoreload", "%autoreload 2"]),
        ("%%time\nx = 1", ["%%time"]),
        ("!pip install 'seaborn>=0.13'\nimport os", ["!pip install 'seaborn>=0.13'"]),
        ("if True:\n    !ls\n    x = 1", ["!ls"]),
        ("x = 1\nx.bit_length?\n?x\nx??", ["x.bit_length?", "?x", "x??"]),
        ("files = !ls\nx = 1", ["files = !ls"]),
    ],
)
def test_what_only_a_notebook_understands_is_left_out_line_for_line(code: str, left_out: list[str]) -> None:
    found = without_magics(code)
    assert list(found.left_out) == left_out
    assert found.code.count("\n") == code.count("\n")
    compile(found.code, "answer", "exec")


@pytest.mark.parametrize(
    "code",
    [
        "x = (5\n     % 3)",
        "text = '''\n%matplotlib inline\n!ls\nwhat?\n'''",
        "print('100 %')\nx = '?'",
        "pattern = '\\d'",
        "def f(:\n",
        "x = 1\n$ y",
        "\0",
    ],
)
def test_everything_else_is_left_as_it_is(code: str) -> None:
    assert without_magics(code) == Program(code=code)


def test_code_that_is_too_deep_or_too_long_to_be_understood_is_left_as_it_is() -> None:
    for code in ("(" * 300, "[" * 100 + "]" * 99 + "\n", "x = 1\n" * 20_000 + "%magic\n"):
        assert without_magics(code).code == code


def test_imports_that_are_missing_are_named_once() -> None:
    code = "import os, json, __main__\nimport absent.part as a\nfrom absent import b\nfrom . import c\nif a:\n    import gone\n"
    assert missing_imports(code) == ["absent", "gone"]
    assert missing_imports("def f(:") == []
