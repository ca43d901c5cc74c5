"""Scores as inline SVG: how often each score was given, two models side by side.

In: scores. Out: one `<svg>` element, whose colours the page has. Which judge gave the scores is unknown here.
"""

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from finetune_assistant.judging.readings import HIGHEST, LOWEST
from finetune_trainer.reporting.charts import Axis, ticks

_WIDTH, _HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 34


def score_histogram(scores: Sequence[Sequence[float]], names: Sequence[str], *, title: str) -> Markup:
    """Bars from 1 to 8 for each model, whose scores are one sequence each; a half counts for the higher score."""
    counts = [Counter(int(score + 0.5) for score in given) for given in scores]
    highest = max((number for count in counts for number in count.values()), default=0)
    if not highest:
        return Markup('<p class="nothing">{}: no score could be read.</p>').format(title)
    x_axis = Axis(low=LOWEST - 0.5, high=HIGHEST + 0.5, start=_LEFT, stop=_WIDTH - _RIGHT)
    y_axis = Axis(low=0, high=highest * 1.06, start=_HEIGHT - _BOTTOM, stop=_TOP)
    parts = [*_grid(x_axis, y_axis)]
    width = 0.8 / len(counts)
    for model, (count, name) in enumerate(zip(counts, names, strict=True)):
        for score in range(LOWEST, HIGHEST + 1):
            left, right = (x_axis(score - 0.4 + width * (model + side)) for side in (0, 1))
            parts.append(
                Markup(
                    '<rect class="bar-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}, score {}: {:,}</title></rect>'
                ).format(model, left, y_axis(count[score]), right - left - 1, y_axis(0) - y_axis(count[score]), name, score, count[score])
            )
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)
    return start + Markup("").join(parts) + Markup("</svg>")


def _grid(x_axis: Axis, y_axis: Axis) -> list[Markup]:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    number = Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:,.0f}</text>')
    rows = [
        line.format(_LEFT, _WIDTH - _RIGHT, y, y) + number.format(_LEFT - 8, y + 4, value)
        for value in ticks(y_axis.low, y_axis.high, most=4)
        if value == int(value)
        for y in [y_axis(value)]
    ]
    labels = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x_axis(score), _HEIGHT - _BOTTOM + 18, score)
        for score in range(LOWEST, HIGHEST + 1)
    ]
    axis = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">score</text>').format(_WIDTH - _RIGHT, _HEIGHT - 2)
    return [*rows, *labels, axis]
