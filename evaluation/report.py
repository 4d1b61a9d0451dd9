"""results/report.html: an evaluation as one page that loads nothing from elsewhere."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from evaluation.metrics import Written, spread
from evaluation.tables import make_sections
from evaluation.verdict import percent
from generate.copies import CopyCheck
from utils.files import atomic_write

SAMPLES_SHOWN = 30
MAX_BINS = 25  # of the length histogram, without the last one, which is open
TEMPLATE = Path(__file__).with_name("report_template.html")
# Colours of the drawing, each replaced by a variable of the page, so that they follow its light or dark scheme.
INK, LINE = "#5f5c55", "#e2ded5"
SAMPLES, REAL = "#2a78b8", "#d1602a"
VARIABLES = {INK: "var(--faint)", LINE: "var(--line)", SAMPLES: "var(--samples)", REAL: "var(--real)"}


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
    samples: Sequence[Written],
    real: Sequence[Written],
    copies: CopyCheck,
    plot: Path | None,
) -> None:
    """Write the page. The template escapes everything that it puts in.

    Args:
        result: what `evaluation.evaluate.evaluate` found.
        samples, real: tweets of the model, and validation tweets.
        plot: a PNG of the losses while this model was trained; it is shown if the file exists.
    """
    bins = length_bins([len(tweet.ids) for tweet in samples], [len(tweet.ids) for tweet in real]) if samples else []
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"How good is {result['model']['name']}?",
        verdict=result["verdict"],
        sections=make_sections(result),
        bins=bins,
        percent=percent,
        histogram=Markup(draw_histogram(bins)) if bins else "",
        plot=base64.b64encode(plot.read_bytes()).decode() if plot and plot.is_file() else "",
        samples=[view(sample, copies) for sample in spread(samples, min(SAMPLES_SHOWN, len(samples)))],
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


def draw_histogram(bins: Sequence[Bin]) -> str:
    """The histogram as an SVG element. Its colours are variables of the page."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(bins))
    for side, colour, name in ((-0.21, SAMPLES, "samples"), (0.21, REAL, "real")):
        heights = [getattr(each, name) for each in bins]
        axes.bar(places + side, heights, width=0.42, color=colour, clip_on=False)
    step = max(1, len(bins) // 8)
    axes.set_xticks(places[::step], [str(each.first) for each in bins[::step]])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.set(xlim=(-0.6, len(bins) - 0.4))
    file = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):  # text as text; always the same ids
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg[svg.index("<svg") :]


def view(sample: Written, copies: CopyCheck) -> SampleView:
    """A sample with its copied spans marked, and remarks about it."""
    remarks = [f"{len(sample.ids)} tokens", *([] if sample.ended else ["cut at the length limit"])]
    if sample.text.strip() and copies.exact(sample.text):
        remarks.append("a training tweet word for word")
    return SampleView(copies.copied_parts(sample.text), remarks)
