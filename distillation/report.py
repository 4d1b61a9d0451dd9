"""The result of a distillation: a table, a picture, and a verdict in plain words."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.verdict import percent, signed
from utils.files import atomic_write

NAMES = {  # of the models, in the order of the table
    "teacher": "teacher",
    "student": "student",
    "usual": "made by `train`",  # taught by an n-gram; left out where train.ngram_weight is 0
    "control": "without a teacher",
}
MIN_COLUMNS = 120  # width of the table where the terminal's is unknown or smaller
COLOURS = {"teacher": "#6b6b6b", "student": "#d1602a", "usual": "#3a8a5f", "control": "#2a78b8"}


def conclusions(result: dict[str, Any]) -> list[str]:
    """Sentences on the student's gain, how much of the teacher's lead that is, and how much it copies."""
    teacher, student, control = (result[name] for name in ("teacher", "student", "control"))
    gain, lead = student["against_control"], teacher["against_control"]
    figures = f"{student['bits_per_byte']:.3f} bits per byte against {control['bits_per_byte']:.3f} without a teacher"
    if gain["high"] < 0:
        sentences = [f"A gain: {figures}, {signed(gain)}."]
    elif gain["low"] > 0:
        sentences = [f"No gain, but a loss: {figures}, {signed(gain)}."]
    else:
        sentences = [f"No gain: {figures}, {signed(gain)}, which may be chance."]
    if lead["high"] < 0:
        kept = f"{max(0.0, gain['difference'] / lead['difference']):.0%}"
        sentences.append(f"The teacher's difference is {signed(lead)} bits per byte; the student reached {kept} of it.")
    else:
        sentences.append(f"The teacher is not clearly better than the model without a teacher: {signed(lead)}.")
    if "usual" in result:
        sentences.append(
            f"The model made by `train`, which an n-gram teaches, has {result['usual']['bits_per_byte']:.3f}; the "
            f"student's difference to it is {signed(student['against_usual'])}."
        )
    if "ngram8_in_train" in student:
        sentences.append(
            f"{percent(student['ngram8_in_train'])} of the student's tweets share 8 words in a row with a training "
            f"tweet. Without a teacher it is {percent(control['ngram8_in_train'])}, of unseen real tweets "
            f"{percent(student['real_ngram8_in_train'])}."
        )
    if abs(student["steps"] - control["steps"]) > 0.05 * control["steps"]:  # a few less may come from fuller batches
        sentences.append(
            f"The numbers of steps differ: {student['steps']:,} for the student, {control['steps']:,} for the model "
            "without a teacher."
        )
    return sentences


def cells(line: dict[str, Any]) -> list[str]:
    """One line of the table after its name; "-" where a figure does not apply."""
    difference = line.get("against_control")
    return [
        line["track"],
        f"{line['parameters']:,}",
        f"{line['bits_per_byte']:.3f}",
        f"{difference['difference']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
        if difference
        else "-",
        *(percent(line[key]) if key in line else "-" for key in ("stop_rate", "exact_copies", "ngram8_in_train")),
        f"{line['tokens_per_second']:,.0f}",
    ]


def print_table(result: dict[str, Any]) -> None:
    """Print the table and the verdict on standard output."""
    console = Console(highlight=False, soft_wrap=True, markup=False, width=max(MIN_COLUMNS, Console().width))
    table = Table("", "track", box=None, pad_edge=False)
    for head in ("parameters", "bits/byte", "against the control", "ends", "copies", "8 copied", "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    for name in [name for name in NAMES if name in result]:
        table.add_row(NAMES[name], *cells(result[name]))
    console.print(table)
    console.print(
        f"The teacher is: {result['teacher']['name']}. The control is the same model without a teacher. Intervals are "
        "95% intervals, paired by validation tweet. An n-gram's parameters are the n-grams it counted. Ends: share of "
        "samples that end by themselves. Copies: samples that are training tweets. 8 copied: samples that share 8 "
        "words in a row with one. Tokens/s: validation tokens scored in a second."
    )
    console.print("\n".join(result["verdict"]))


def draw_differences(result: dict[str, Any], path: Path) -> None:
    """Draw each model's difference to the control in bits per byte, with its 95% interval, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    names = [name for name in reversed(NAMES) if name in result]
    for height, name in enumerate(names):
        line = result[name]
        found = line.get("against_control", {"difference": 0.0, "low": 0.0, "high": 0.0})
        axes.plot([found["low"], found["high"]], [height, height], color=COLOURS[name], linewidth=3, alpha=0.5)
        axes.plot(found["difference"], height, "o", color=COLOURS[name], markersize=9)
        label = f"{line['bits_per_byte']:.3f}"
        axes.annotate(label, (found["difference"], height), textcoords="offset points", xytext=(0, 9), ha="center")
    axes.axvline(0.0, color=COLOURS["control"], linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.set(ylim=(-0.5, len(names) - 0.3), xlabel="bits per byte less those without a teacher (left is better)")
    axes.set_title(result["verdict"][0].split(":")[0], loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
