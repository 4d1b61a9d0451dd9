"""The playground's charts: matplotlib draws them as SVG, whose colours are variables of the page's style sheet."""

import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from web.templates import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
SIZE = (5.6, 3.0)  # inches; the page scales it
MARGINS = {"left": 0.14, "right": 0.985, "bottom": 0.18, "top": 0.97}  # as parts of SIZE; larger text on a phone fits
TEXT, GRID = "#00f000", "#00f001"  # colours that stand for variables of the style sheet, see `variables`
SERIES_COLOURS = 8  # --series-0 to --series-7
DRAWING = threading.Lock()  # matplotlib's settings belong to the whole process


@dataclass(frozen=True)
class Curve:
    """One curve: points (x, y), a name, the number of its colour, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


def line_chart(curves: Sequence[Curve], *, title: str, x_name: str, y_name: str) -> Markup:
    """Curves over a common x, with a legend. Each point's numbers are shown when the pointer is on it."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_chart(x_name, y_name)
    labels: dict[str, list[str]] = {}
    for number, curve in enumerate(curves):
        (line,) = axes.plot(*zip(*curve.points, strict=True), color=placeholder(curve.colour), marker="o")
        line.set(markersize=2 if curve.dashed else 3.5, linestyle="--" if curve.dashed else "-")
        line.set(clip_on=False, gid=f"curve-{number}")
        labels[f"curve-{number}"] = [f"{curve.name}: {y:.3f} at {x_name} {x:g}" for x, y in curve.points]
    axes.margins(x=0.01, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = [(curve.name, variable(curve.colour), curve.dashed) for curve in curves]
    return render("chart.html", title=title, svg=to_svg(figure, title, labels), legend=legend)


def bar_chart(
    bins: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, title: str, x_name: str, y_name: str
) -> Markup:
    """Bars side by side, with a legend.

    Args:
        bins: the label of each bin.
        series: (name, a share of 1 for each bin).
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = new_chart(x_name, y_name)
    labels: dict[str, list[str]] = {}
    width = 0.84 / len(series)
    for number, (name, shares) in enumerate(series):
        places = [place + width * (number - (len(series) - 1) / 2) for place in range(len(bins))]
        bars = axes.bar(places, shares, width=width, color=placeholder(number))
        for place, (bar, label, share) in enumerate(zip(bars, bins, shares, strict=True)):
            bar.set_gid(f"bar-{number}-{place}")
            labels[f"bar-{number}-{place}"] = [f"{name}, {x_name} {label}: {100 * share:.1f}%"]
    every = math.ceil(len(bins) / 9)
    axes.set_xticks(range(0, len(bins), every), bins[::every])
    axes.set_xlim(-0.6, len(bins) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend = [(name, variable(number), False) for number, (name, _) in enumerate(series)]
    return render("chart.html", title=title, svg=to_svg(figure, title, labels), legend=legend)


def new_chart(x_name: str, y_name: str) -> "tuple[Figure, Axes]":
    """An empty chart with named axes and horizontal grid lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    axes = figure.subplots(gridspec_kw=MARGINS)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=TEXT)
    axes.set_xlabel(x_name, color=TEXT)
    axes.set_ylabel(y_name, color=TEXT)
    axes.xaxis.set_label_coords(0.5, -0.13)
    axes.yaxis.set_label_coords(-0.125, 0.5)
    return figure, axes


def variable(colour: int) -> str:
    """The CSS value of a series' colour; it differs between the light and the dark theme."""
    return f"var(--series-{colour % SERIES_COLOURS})"


def placeholder(colour: int) -> str:
    """The colour that stands for `variable(colour)` in the drawing."""
    return f"#00f1{colour % SERIES_COLOURS:02x}"


def to_svg(figure: "Figure", title: str, labels: dict[str, list[str]]) -> Markup:
    """A figure as an SVG element to stand in the page.

    Args:
        title: its accessible name.
        labels: by the id of a group of the drawing, what to show when the pointer is on each shape in it.
    """
    import matplotlib

    file = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with DRAWING, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "playground"}):  # text as text
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue().replace(TEXT, "var(--faint)").replace(GRID, "var(--line)")
    for colour in range(SERIES_COLOURS):
        text = text.replace(placeholder(colour), variable(colour))
    root = ElementTree.fromstring(text)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"viewBox": box, "role": "img", "aria-label": title}
    for group in root.iter(f"{SVG}g"):
        if texts := labels.get(group.attrib.pop("id", "")):  # the other ids would occur once in each chart
            shapes = [*group.iter(f"{SVG}use")] or [group]
            for shape, label in zip(shapes, texts, strict=True):
                ElementTree.SubElement(shape, f"{SVG}title").text = label
    ElementTree.register_namespace("", SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return Markup(ElementTree.tostring(root, encoding="unicode"))
