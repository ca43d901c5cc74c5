"""report.html of a judge's folder: who won how often, what each score was given how often, how far the judge can be trusted, every reply.

In: runs of judges and their summaries. Out: one HTML file that loads nothing and runs nothing. All text in it is untrusted: answers are
models', replies are a judge's.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune_assistant.judging.folder import PairRun, ScoreRun
from finetune_assistant.judging.score_charts import score_histogram
from finetune_trainer.files.atomic import write_atomically

_MOST_TRANSCRIPTS = 1000  # in the page; pairs.jsonl has all
# What a reader wants to see first: where the judge is least to be trusted.
_ORDER = {"invalid": 0, "flip": 1, "b": 2, "tie": 3, "a": 4, "same": 5}


def write_pair_report(
    path: Path, run: PairRun, summary: Mapping[str, Any], against: Sequence[tuple[PairRun, Mapping[str, Any]]] = ()
) -> None:
    """`against`: other judges of the same pairs, each with the comparison."""
    charts = [_pair_chart(one) for one in (run, *(other for other, _ in against))]
    transcripts = sorted(run.pairs, key=lambda judged: _ORDER[judged.outcome])[:_MOST_TRANSCRIPTS]
    compared = [comparison for _, comparison in against]
    values = {"summary": summary, "run": run, "charts": charts, "compared": compared, "transcripts": transcripts}
    _write(path, "report.html.jinja", values)


def write_score_report(path: Path, run: ScoreRun, summary: Mapping[str, Any]) -> None:
    """Of single scores."""
    scores = [[judged.score for judged in answers if judged.score is not None] for answers in run.answers]
    charts = [(run.judge, score_histogram(scores, run.names, title=f"Scores of {run.judge}"))]
    transcripts = [(name, judged) for name, answers in zip(run.names, run.answers, strict=True) for judged in answers][:_MOST_TRANSCRIPTS]
    _write(path, "scores.html.jinja", {"summary": summary, "run": run, "charts": charts, "transcripts": transcripts})


def _pair_chart(run: PairRun) -> tuple[str, Markup]:
    readable = [judgement.scores for judged in run.pairs for judgement in judged.judgements if judgement.scores is not None]
    scores = [[a for a, _ in readable], [b for _, b in readable]]
    return run.judge, score_histogram(scores, run.names, title=f"Scores of {run.judge}")


def _write(path: Path, template: str, values: Mapping[str, Any]) -> None:
    page = _environment().get_template(template).render(**values)
    write_atomically(path, page.encode("utf-8", errors="replace"))


def percent(value: float | None) -> str:
    """A share for reading.

    >>> percent(110 / 115), percent(None)
    ('95.7 %', 'unknown')
    """
    return "unknown" if value is None else f"{100 * value:.1f} %"


def between(share: Mapping[str, Any]) -> str:
    """The interval of a share.

    >>> between({"low": 0.902, "high": 0.981})
    '90.2 to 98.1 %'
    """
    return "" if share["low"] is None else f"{100 * share['low']:.1f} to {100 * share['high']:.1f} %"


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "between": between}
    return environment
