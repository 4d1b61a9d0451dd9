"""results/report.html: an evaluation as one page that loads nothing from elsewhere."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from evaluation.metrics import Written, spread
from evaluation.tables import make_sections
from evaluation.verdict import percent
from generate.copies import CopyCheck
from utils.files import atomic_write
from utils.plot_loss import BASELINE, TRAIN, VALIDATION, draw_bits, draw_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES_SHOWN = 30
MAX_BINS = 25  # of the length histogram, without the last one, which is open
TEMPLATE = Path(__file__).with_name("report_template.html")
# Colours of the drawings, each replaced by a variable of the page, so that they follow its light or dark scheme.
INK, LINE = "#5f5c55", "#e2ded5"
SAMPLES, REAL = TRAIN, VALIDATION
VARIABLES = {
    INK: "var(--faint)",
    LINE: "var(--line)",
    SAMPLES: "var(--samples)",
    REAL: "var(--real)",
    BASELINE: "var(--faint)",
    "#ffffff": "var(--card)",
}
STYLE: dict[Any, Any] = {  # of matplotlib: text as text, always the same ids, and no colour that is not in VARIABLES
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    "grid.color": INK,
}


@dataclass(frozen=True)
class Bin:
    """A bar pair of the length histogram: lengths from `first` on, and the share of samples and of real tweets."""

    first: int
    label: str
    samples: float
    real: float


@dataclass(frozen=True)
class SampleView:
    """A sample as the page shows it: parts of its text, each with whether it was copied, and remarks."""

    parts: list[tuple[str, bool]]
    remarks: list[str]


def write_report(
    path: Path,
    result: dict[str, Any],
    *,
    shown: Sequence[Written],
    samples: Sequence[Written],
    real: Sequence[Written],
    copies: CopyCheck,
    curves: list[dict[str, Any]],
) -> None:
    """Write the page. The template escapes everything that it puts in.

    Args:
        result: what `evaluation.evaluate.evaluate` found.
        shown: tweets of the model as people see them, some of which the page shows.
        samples, real: those whose lengths are compared: tweets of the model, and validation tweets.
        curves: the records of metrics.jsonl while this model was trained; none: they are not known.
    """
    bins = length_bins([len(tweet.ids) for tweet in samples], [len(tweet.ids) for tweet in real]) if samples else []
    measured = any("val/loss" in record for record in curves)
    same = [record | {"baseline/ngram": result["baselines"]["ngram"]} for record in curves]  # one figure on the page
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        model=result["model"],
        summary=result["summary"],
        verdict=result["verdict"],
        sections=make_sections(result),
        bins=bins,
        percent=percent,
        histogram=drawing("lengths", lambda axes: draw_histogram(bins, axes)) if bins else "",
        plots=[drawing(draw.__name__, partial(draw, same)) for draw in (draw_loss, draw_bits)] if measured else [],
        best_of=result["shown"]["best_of"],
        samples=[view(sample, copies) for sample in spread(shown, min(SAMPLES_SHOWN, len(shown)))],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def length_bins(samples: Sequence[int], real: Sequence[int]) -> list[Bin]:
    """The share of tweets in each range of lengths, in tokens; the last range is open and holds the longest 1%."""
    usual = int(np.quantile([*samples, *real], 0.99))
    width = usual // MAX_BINS + 1
    number = usual // width + 2
    shares = [
        np.bincount(np.minimum(np.asarray(lengths) // width, number - 1), minlength=number) / len(lengths)
        for lengths in (samples, real)
    ]
    bins = []
    for index, (of_samples, of_real) in enumerate(zip(*shares, strict=True)):
        first, last = index * width, (index + 1) * width - 1
        label = f"{first} or more" if index == number - 1 else f"{first} to {last}" if width > 1 else str(first)
        bins.append(Bin(first, label, float(of_samples), float(of_real)))
    return bins


def draw_histogram(bins: Sequence[Bin], axes: "Axes") -> None:
    """The share of tweets by length, samples beside real ones."""
    from matplotlib.ticker import PercentFormatter

    places = np.arange(len(bins))
    for side, colour, name in ((-0.21, SAMPLES, "samples"), (0.21, REAL, "real")):
        heights = [getattr(each, name) for each in bins]
        axes.bar(places + side, heights, width=0.42, color=colour, clip_on=False)
    step = max(1, len(bins) // 8)
    axes.set_xticks(places[::step], [str(each.first) for each in bins[::step]])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set(xlim=(-0.6, len(bins) - 0.4), xlabel="length in tokens", ylabel="share of the tweets")


def drawing(name: str, draw: "Callable[[Axes], None]") -> Markup:
    """An SVG element with what `draw` draws. Its colours are variables of the page; its ids begin with `name`."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")  # inches; on a phone its letters have 11 pixels
        draw(figure.subplots())
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(id="|#)(?=[A-Za-z])', rf"\1{name}_", svg[svg.index("<svg") :])  # a page has each id once
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))


def view(sample: Written, copies: CopyCheck) -> SampleView:
    """A sample with its copied spans marked, and remarks about it."""
    remarks = [f"{len(sample.ids)} tokens", *([] if sample.ended else ["cut at the length limit"])]
    if sample.text.strip() and copies.exact(sample.text):
        remarks.append("a training tweet word for word")
    return SampleView(copies.copied_parts(sample.text), remarks)
