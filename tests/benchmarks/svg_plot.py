"""Plots of how a figure grows, as SVG, on logarithmic axes; no library is needed."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 56, 48
_COLORS = ("#1f5fa8", "#c2571a", "#3a7d44", "#7b3f99")

Points = Sequence[tuple[float, float]]


def growth_plot(
    title: str, x_label: str, y_label: str, series: Mapping[str, Points]
) -> str:
    """Draws points by name, joined in order of x, and what linear growth would be.

    Args:
        title: Above the plot.
        x_label: Below the plot.
        y_label: Of the other axis, said behind the title.
        series: Points with positive coordinates; at least one.

    Returns:
        The text of an SVG file; equal arguments give equal text.

    Raises:
        ValueError: There is no point, or one is not positive.
    """
    points = [point for named in series.values() for point in named]
    if not points or min(min(point) for point in points) <= 0:
        raise ValueError("a plot on logarithmic axes takes positive points")
    x_axis = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" font-size="13">{escape(title)}, '
        f"{escape(y_label)}</text>",
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 10}" '
        f'text-anchor="middle">{escape(x_label)}</text>',
    ]
    for tick in x_axis.ticks:
        at = x_axis.place(tick)
        lines.append(_rule(at, _TOP, at, _HEIGHT - _BOTTOM))
        lines.append(
            f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 15}" '
            f'text-anchor="middle">{_named(tick)}</text>'
        )
    for tick in y_axis.ticks:
        at = y_axis.place(tick)
        lines.append(_rule(_LEFT, at, _WIDTH - _RIGHT, at))
        lines.append(
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{_named(tick)}</text>"
        )
    for number, (name, named) in enumerate(series.items()):
        color = _COLORS[number % len(_COLORS)]
        placed = [(x_axis.place(x), y_axis.place(y)) for x, y in sorted(named)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        lines += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
            for x, y in placed
        ]
        at = _LEFT + 170 * number
        lines.append(f'<rect x="{at}" y="30" width="10" height="10" fill="{color}"/>')
        lines.append(f'<text x="{at + 15}" y="39">{escape(name)}</text>')
        lines += _linear(sorted(named)[-1:], color, x_axis, y_axis)
    return "\n".join([*lines, "</svg>"]) + "\n"


class _Axis:
    """A logarithmic axis that begins and ends at powers of ten.

    Attributes:
        ticks: These, and the powers of ten between them.
    """

    def __init__(self, values: Sequence[float], start: int, stop: int):
        low = math.floor(math.log10(min(values)))
        high = max(math.ceil(math.log10(max(values))), low + 1)
        self.ticks = [10.0**power for power in range(low, high + 1)]
        self._low, self._high, self._start, self._stop = low, high, start, stop

    def place(self, value: float) -> float:
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + part * (self._stop - self._start)


def _linear(last: Points, color: str, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """A dashed line through the last point along which y grows as x does."""
    ((x, y),) = last
    first = max(x_axis.ticks[0], y_axis.ticks[0] * x / y)
    start = x_axis.place(first), y_axis.place(first * y / x)
    stop = x_axis.place(x), y_axis.place(y)
    return [
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{stop[0]:.1f}" '
        f'y2="{stop[1]:.1f}" stroke="{color}" stroke-dasharray="3 4"/>'
    ]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        'stroke="#dddddd"/>'
    )


def _named(tick: float) -> str:
    return f"{tick:,.0f}" if tick >= 1 else f"{tick:g}"
