"""What came of a distillation: a table, a picture, and a verdict in plain words."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.verdict import percent, signed
from utils.files import atomic_write

WHO = {
    "teacher": "teacher",
    "student": "student",
    "usual": "made by `train`",  # with its n-gram; not there where train.ngram_weight is 0
    "control": "without a teacher",
}
WIDTH = 100  # columns of the table
COLOURS = {"teacher": "#6b6b6b", "student": "#d1602a", "usual": "#3a8a5f", "control": "#2a78b8"}


def verdict(result: dict[str, Any]) -> list[str]:
    """Sentences on what the student gained, how much of the teacher's lead that is, and what it copies."""
    teacher, student, control = (result[who] for who in ("teacher", "student", "control"))
    found, lead = student["against_control"], teacher["against_control"]
    figures = f"{student['bits_per_byte']:.3f} bits per byte against {control['bits_per_byte']:.3f} without a teacher"
    if found["high"] < 0:
        sentences = [f"A gain: {figures}, {signed(found)}."]
    elif found["low"] > 0:
        sentences = [f"No gain, but a loss: {figures}, {signed(found)}."]
    else:
        sentences = [f"No gain: {figures}, {signed(found)}, which may be chance."]
    if lead["high"] < 0:
        kept = f"{max(0.0, found['difference'] / lead['difference']):.0%}"
        sentences.append(f"The teacher has {signed(lead)} bits per byte; the student kept {kept} of that.")
    else:
        sentences.append(f"The teacher is not clearly better than the student without one: {signed(lead)}.")
    if "usual" in result:
        sentences.append(
            f"`train`, which has an n-gram for a teacher, makes {result['usual']['bits_per_byte']:.3f} of it; the "
            f"student beside that: {signed(student['against_usual'])}."
        )
    if "ngram8_in_train" in student:
        sentences.append(
            f"Of the student's tweets {percent(student['ngram8_in_train'])} share 8 tokens in a row with a training "
            f"tweet, without a teacher {percent(control['ngram8_in_train'])}, of unseen real tweets "
            f"{percent(student['real_ngram8_in_train'])}."
        )
    if abs(student["steps"] - control["steps"]) > 0.05 * control["steps"]:  # fuller batches alone make a few less
        sentences.append(
            f"Not at equal steps: the student took {student['steps']:,}, the one without a teacher "
            f"{control['steps']:,}."
        )
    return sentences


def cells(line: dict[str, Any]) -> list[str]:
    """One line of the table after its name; "-" where a figure does not apply."""
    difference = line.get("against_control")
    return [
        f"{line['parameters']:,}",
        f"{line['bits_per_byte']:.3f}",
        f"{difference['difference']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
        if difference
        else "-",
        *(percent(line[key]) if key in line else "-" for key in ("stop_rate", "exact_copies", "ngram8_in_train")),
        f"{line['tokens_per_second']:,.0f}",
    ]


def show(result: dict[str, Any]) -> None:
    """Print the table and the verdict on standard output."""
    console = Console(highlight=False, soft_wrap=True, markup=False, width=max(WIDTH, Console().width))
    table = Table("", box=None, pad_edge=False)
    for head in ("parameters", "bits/byte", "against the control", "ends", "copies", "8 copied", "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    for who in [who for who in WHO if who in result]:
        table.add_row(WHO[who], *cells(result[who]))
    console.print(table)
    console.print(
        f"The teacher is: {result['teacher']['name']}. The control is the same without a teacher; intervals are of "
        "95%, paired by validation tweet. An n-gram's parameters are the grams it counted. Ends: samples that end by "
        "themselves. Copies: samples that are training tweets. 8 copied: samples with 8 tokens in a row from one. "
        "Tokens/s: validation tokens scored a second."
    )
    console.print("\n".join(result["verdict"]))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the bits per byte that each saves beside the control, with 95% intervals, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    there = [who for who in reversed(WHO) if who in result]
    for place, who in enumerate(there):
        line = result[who]
        found = line.get("against_control", {"difference": 0.0, "low": 0.0, "high": 0.0})
        axes.plot([found["low"], found["high"]], [place, place], color=COLOURS[who], linewidth=3, alpha=0.5)
        axes.plot(found["difference"], place, "o", color=COLOURS[who], markersize=9)
        label = f"{line['bits_per_byte']:.3f}"
        axes.annotate(label, (found["difference"], place), textcoords="offset points", xytext=(0, 9), ha="center")
    axes.axvline(0.0, color=COLOURS["control"], linestyle="--", linewidth=1)
    axes.set_yticks(range(len(there)), [WHO[who] for who in there])
    axes.set(ylim=(-0.5, len(there) - 0.3), xlabel="bits per byte beside the same without a teacher (left is better)")
    axes.set_title(result["verdict"][0].split(":")[0], loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
