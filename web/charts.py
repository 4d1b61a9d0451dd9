"""Line charts and histograms as inline SVG: crisp at any size, in the page's own colours, with no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from web.markup import Markup, joined, tag

WIDTH, HEIGHT = 560, 300  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40
COLOURS = 8  # --series-0 ... in playground.css


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), a name, its colour's number, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count`."""
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def axes(
    x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str, y_name: str
) -> Markup:
    """Grid lines with their numbers, already in drawing units."""
    parts = []
    for y, text in y_ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", text, x=LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    for x, text in x_ticks:
        parts.append(tag("text", text, x=f"{x:.1f}", y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", x_name, x=middle, y=HEIGHT - 4, text_anchor="middle", class_="name"))
    label = f"rotate(-90 10 {(TOP + HEIGHT - BOTTOM) / 2})"
    parts.append(
        tag(
            "text",
            y_name,
            x=10,
            y=(TOP + HEIGHT - BOTTOM) / 2 + 3,
            transform=label,
            text_anchor="middle",
            class_="name",
        )
    )
    return joined(parts)


def line_chart(lines: Sequence[Line], *, title: str, x_name: str, y_name: str) -> Markup:
    """Curves over a common x, with a legend; pointing at a dot says its numbers."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    (left, right), (low, high) = (min(xs), max(xs)), (min(ys), max(ys))
    pad = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    low, high, right = low - pad, high + pad, max(right, left + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / (right - left)
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low)

    x_ticks = [(place(x, low)[0], f"{x:g}") for x in ticks(left, right, 8)]
    y_ticks = [(place(left, y)[1], f"{y:g}") for y in ticks(low, high)]
    drawn = [axes(x_ticks, y_ticks, x_name, y_name)]
    for line in lines:
        spots = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts = [tag("polyline", points=path, class_="dashed" if line.dashed else None)]
        for (x, y), (at, value) in zip(spots, line.points, strict=True):
            said = tag("title", f"{line.name}: {value:.3f} at {x_name} {at:g}")
            parts.append(tag("circle", said, cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.5))
        drawn.append(tag("g", *parts, style=colour(line.colour)))
    return figure(title, joined(drawn), [(line.name, line.colour, line.dashed) for line in lines])


def histogram(bars: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], *, title: str, x_name: str) -> Markup:
    """Bars side by side, a share for each of `names` in every bin: (what the bin holds, shares)."""
    top = max(share for _, shares in bars for share in shares) or 1.0
    step, floor = (WIDTH - LEFT - RIGHT) / len(bars), HEIGHT - BOTTOM
    width = 0.84 * step / len(names)
    every = math.ceil(len(bars) / 9)
    x_ticks = [(LEFT + step * (i + 0.42), label) for i, (label, _) in enumerate(bars) if i % every == 0]
    y_ticks = [(floor - (floor - TOP) * share / top, f"{100 * share:g}%") for share in ticks(0.0, top, 4)]
    drawn = [axes(x_ticks, y_ticks, x_name, "share of tweets")]
    for series, name in enumerate(names):
        parts = []
        for i, (label, shares) in enumerate(bars):
            height = (floor - TOP) * shares[series] / top
            said = tag("title", f"{name}, {x_name} {label}: {100 * shares[series]:.1f}%")
            box = {"x": f"{LEFT + step * i + width * series:.1f}", "y": f"{floor - height:.1f}"}
            parts.append(tag("rect", said, **box, width=f"{width:.1f}", height=f"{height:.1f}"))
        drawn.append(tag("g", *parts, style=colour(series)))
    return figure(title, joined(drawn), [(name, i, False) for i, name in enumerate(names)])


def colour(number: int) -> str:
    """The style that gives an element and what is in it the colour of a series."""
    return f"--colour: var(--series-{number % COLOURS})"


def figure(title: str, drawn: Markup, keys: Sequence[tuple[str, int, bool]]) -> Markup:
    """A drawing with its title above and its legend below."""
    names = [
        tag("li", tag("i", class_="dashed" if dashed else None), name, style=colour(number))
        for name, number, dashed in keys
    ]
    picture = tag("svg", drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), picture, tag("ul", *names, class_="legend"), class_="chart")
