"""Charts as inline SVG: numbers in, one `<svg>` element out, with no script and nothing to load.

Colours are CSS classes (`series-0`, `series-1`, ...) that the page defines, so one chart serves light and dark.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 34
# More points than pixels only make the file large.
_MOST_POINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: `points` by rising x. `dots` marks each point, for few and precious ones; `faint` draws it in the back."""

    label: str
    points: Sequence[Point]
    color: int = 0
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A linear axis from `low` to `high`, drawn between the pixels `start` and `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most` of them; steps are 1, 2, 2.5 or 5 times a power of ten.

    >>> ticks(0, 85)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    >>> ticks(0.4, 1.9)
    [0.5, 1.0, 1.5]
    """
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most about `most` points with the same outline: of each stretch its lowest and its highest survive."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(len(points) / (most / 2))
    kept: list[Point] = [points[0]]
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return sorted({*kept, points[-1]})


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """The mean over a centred window that gets narrower at both ends, so that the ends aren't bent."""
    half = window // 2
    result = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        part = points[i - reach : i + reach + 1]
        result.append((x, sum(y for _, y in part) / len(part)))
    return result


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    number: Callable[[float], str] = lambda value: f"{value:g}",
    width: int = 480,
    height: int = 220,
    from_zero: bool = False,
) -> Markup:
    """Lines over a common x. Points that are not finite are left out; with none left, a line of text says so."""
    finite = [Series(label=s.label, points=_finite(s.points), color=s.color, dots=s.dots, faint=s.faint) for s in series]
    everything = [point for s in finite for point in s.points]
    if not everything:
        return Markup('<p class="nothing">{}: nothing was measured.</p>').format(title)
    x_axis = _axis([x for x, _ in everything], start=_LEFT, stop=width - _RIGHT)
    y_axis = _axis([y for _, y in everything] + ([0.0] if from_zero else []), start=height - _BOTTOM, stop=_TOP, padding=0.06)
    lines = [part for s in finite for part in _line(s, x_axis, y_axis, number)]
    return _svg([*_grid(x_axis, y_axis, number, x_label, width=width, height=height), *lines], title=title, width=width, height=height)


def histogram(bins: Sequence[tuple[float, float, int]], *, title: str, x_label: str, width: int = 480, height: int = 220) -> Markup:
    """Bars for (lower, upper, count), adjoining bins in rising order."""
    if not any(count for _, _, count in bins):
        return Markup('<p class="nothing">{}: nothing was counted.</p>').format(title)
    x_axis = Axis(low=bins[0][0], high=bins[-1][1], start=_LEFT, stop=width - _RIGHT)
    y_axis = Axis(low=0, high=max(count for _, _, count in bins) * 1.06, start=height - _BOTTOM, stop=_TOP)
    bars = [
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{:g} to {:g}: {:,}</title></rect>').format(
            x_axis(low) + 0.5, y_axis(count), max(x_axis(high) - x_axis(low) - 1, 0.5), y_axis(0) - y_axis(count), low, high, count
        )
        for low, high, count in bins
    ]
    grid = _grid(x_axis, y_axis, lambda value: f"{value:,.0f}", x_label, width=width, height=height)
    return _svg([*grid, *bars], title=title, width=width, height=height)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]


def _axis(values: Sequence[float], *, start: float, stop: float, padding: float = 0.0) -> Axis:
    """An axis over all values; one that would have no length gets some."""
    low, high = min(values), max(values)
    room = (high - low) * padding if high > low else abs(high) * 0.5 or 0.5
    low_padded = max(0.0, low - room) if low >= 0 else low - room
    return Axis(low=low_padded, high=high + room, start=start, stop=stop)


def _grid(x_axis: Axis, y_axis: Axis, number: Callable[[float], str], x_label: str, *, width: int, height: int) -> Iterator[Markup]:
    for value in ticks(y_axis.low, y_axis.high, most=max(3, height // 60)):
        y = y_axis(value)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, width - _RIGHT, y, y)
        yield Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 4, number(value))
    for value in ticks(x_axis.low, x_axis.high, most=max(4, width // 90)):
        x, y = x_axis(value), height - _BOTTOM + 18
        yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:,g}</text>').format(x, y, value)
    yield Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(width - _RIGHT, height - 2, x_label)


def _line(series: Series, x_axis: Axis, y_axis: Axis, number: Callable[[float], str]) -> Iterator[Markup]:
    points = thinned(series.points)
    path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
    faint = " faint" if series.faint else ""
    yield Markup('<polyline class="line series-{}{}" points="{}"/>').format(series.color, faint, path)
    if series.dots or len(points) == 1:
        for x, y in points:
            yield Markup('<circle class="dot series-{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}, {:g}: {}</title></circle>').format(
                series.color, x_axis(x), y_axis(y), series.label, x, number(y)
            )


def _svg(parts: Sequence[Markup], *, title: str, width: int, height: int) -> Markup:
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, escape(title))
    return start + Markup("").join(parts) + Markup("</svg>")
