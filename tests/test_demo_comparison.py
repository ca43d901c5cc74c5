"""examples/demo/comparison.py"""

import io

import pytest
from examples.demo.comparison import Answered, table, with_comparison
from rich.console import Console

QUESTIONS = ["Who?", "How?"]
SIDES = [
    Answered(title="base", answers=["I'm a model.", "<b>\nx"], prompt_tokens=[10, 20]),
    Answered(title="with a prompt", answers=["[red]A", "B"], prompt_tokens=[1010, 1020]),
    Answered(title="Fennel", answers=["Fennel.", "```python\nprint(1)\n```"], prompt_tokens=[12, 13]),
]


def test_the_terminal_shows_answers_as_they_are_and_what_they_cost() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(table(QUESTIONS, SIDES))
    shown = out.getvalue()
    assert all(word in shown for word in ("Who?", "I'm a model.", "[red]A", "print(1)", "15 tokens a question", "1,015 tokens a question"))


def test_the_report_holds_every_answer_escaped() -> None:
    page = with_comparison("<main>\n<p>before</p>\n</main>\n</body>", QUESTIONS, SIDES)
    assert page.startswith("<main>\n<p>before</p>\n<h2>The same questions</h2>")
    assert page.endswith("</section>\n</main>\n</body>")
    assert page.count("<tr>") == 3
    assert "&lt;b&gt;\nx" in page
    assert "<b>" not in page


def test_an_answer_that_is_missing_is_no_short_table() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(QUESTIONS, [*SIDES, Answered(title="late", answers=["only one"], prompt_tokens=[1])])
