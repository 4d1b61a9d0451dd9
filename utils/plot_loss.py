"""results/metrics.jsonl -> results/loss_plot.png: losses, and bits per byte beside the baseline."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.cli import run_command
from config.schema import Config, UserError
from utils.files import atomic_write
from utils.run_log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, BASELINE = "#2a78b8", "#d1602a", "#6b6b6b"  # different also for colour-blind readers


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the curves of a metrics.jsonl to a PNG.

    Raises:
        UserError: there is no validation loss to draw yet.
    """
    figure = draw(records)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def draw(records: list[dict[str, Any]]) -> "Figure":
    """The curves of a metrics.jsonl.

    Raises:
        UserError: there is no validation loss to draw yet.
    """
    from matplotlib.figure import Figure

    if not any("val/loss" in record for record in records):
        raise UserError("there is nothing to plot yet: no epoch has ended")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_loss(records, left)
    draw_bits(records, right)
    return figure


def draw_loss(records: list[dict[str, Any]], axes: "Axes") -> None:
    """The losses by epoch."""
    measured = [record for record in records if "val/loss" in record]
    trained = [record for record in measured if "train/loss" in record]
    axes.plot(*series(trained, "train/loss"), color=TRAIN, marker=".", label="training (with dropout)")
    axes.plot(*series(measured, "val/loss"), color=VALIDATION, marker=".", label="validation")
    axes.set(title="Loss", xlabel="epoch", ylabel="nats per token")
    mark_best(measured, "val/loss", axes)


def draw_bits(records: list[dict[str, Any]], axes: "Axes") -> None:
    """Bits per byte by epoch, and those of the n-gram as a line."""
    measured = [record for record in records if "val/loss" in record]
    axes.plot(*series(measured, "val/bits_per_byte"), color=VALIDATION, marker=".", label="validation")
    axes.set(title="Bits per byte", xlabel="epoch", ylabel="bits per byte")
    if (baseline := ngram_of(records)) is not None:
        axes.axhline(baseline, color=BASELINE, linestyle="--", label=f"Kneser-Ney n-gram {baseline:.3f}")
    mark_best(measured, "val/bits_per_byte", axes)


def ngram_of(records: list[dict[str, Any]]) -> float | None:
    """The bits per byte of the n-gram, if it was measured."""
    return next((record["baseline/ngram"] for record in records if "baseline/ngram" in record), None)


def mark_best(measured: list[dict[str, Any]], key: str, axes: "Axes") -> None:
    """A star at the best epoch, and the legend."""
    best = min(measured, key=lambda record: record["val/loss"])
    found = f"best: {best[key]:.3f} at epoch {best['epoch']}"
    axes.plot(best["epoch"], best[key], "*", color=VALIDATION, markersize=14, markeredgecolor="white", label=found)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", fontsize="small")


def series(records: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of one measurement."""
    return [record["epoch"] for record in records], [record[key] for record in records]


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py plot`."""
    path = config.paths.results / "loss_plot.png"
    plot(read_log(config.paths.metrics), path)
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("plot", sys.argv[1:]))
