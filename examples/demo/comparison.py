"""The demo's comparison: the same questions to the base model, to the base model with a prompt, and to the assistant.

In: questions, and the answers of each. Out: a table for the terminal, and the report with a section more. Answers are what models wrote,
and are escaped.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One side. `prompt_tokens`: what was read for each question, the prompt's own text included."""

    title: str
    answers: Sequence[str]
    prompt_tokens: Sequence[int]

    @property
    def cost(self) -> str:
        """Tokens read for a question, on average."""
        return f"{mean(self.prompt_tokens):,.0f} tokens a question"


def table(questions: Sequence[str], sides: Sequence[Answered]) -> Table:
    """Side by side, as the terminal shows it."""
    found = Table(show_lines=True)
    found.add_column("question", ratio=1)
    for side in sides:
        found.add_column(f"{side.title}\n[dim]{side.cost}[/]", ratio=2)
    for question, *answers in zip(questions, *(side.answers for side in sides), strict=True):
        found.add_row(question, *map(Text, answers))
    return found


def with_comparison(report: str, questions: Sequence[str], sides: Sequence[Answered]) -> str:
    """The report's HTML with the table at its end."""
    titles = "".join(f"<th>{html.escape(side.title)}<br>{html.escape(side.cost)}</th>" for side in sides)
    rows = "\n".join(
        "<tr>" + "".join(f'<td style="white-space: pre-wrap">{html.escape(cell)}</td>' for cell in cells) + "</tr>"
        for cells in zip(questions, *(side.answers for side in sides), strict=True)
    )
    whole = f"<table>\n<tr><th>question</th>{titles}</tr>\n{rows}\n</table>"
    section = f'<h2>The same questions</h2>\n<section class="card scroll">\n{whole}\n</section>\n'
    assert report.count("</main>") == 1
    return report.replace("</main>", f"{section}</main>")
