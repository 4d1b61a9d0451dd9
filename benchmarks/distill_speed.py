"""Where the time of a distillation went: `python -m benchmarks.distill_speed --root some/folder`.

The folder is that of a `python main.py distill` with a pretrained teacher, which has run to its end there. Files say
how many tokens each stage took and in how many seconds. Beside that stands what this machine's best matrix product
would allow (benchmarks/limits.py; of the teacher's fine-tuning its best one in float32): a token takes 6 operations for
each weight in training, 2 in writing, and weights that are only looked up take none. All else (loading, carrying over,
targets, validating, tweets for the table, saving) is the rest of the command's time; it is not known if the command was
killed and continued. Prints a Markdown table and one line of JSON.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.limits import measure
from benchmarks.timing import choose, show, table
from config.schema import UserError
from distillation.report import NAMES
from distillation.written import speed_of
from model.folder import load_folder

TRAINING, WRITING = 6, 2  # operations for each weight and token: products forward, and for training two more back
RUNS = {"student": "distill", "control": "control", "usual": "usual"}  # the name of each one's log


@dataclass(frozen=True)
class Stage:
    """A stage: how many tokens went through how many weights, with so many operations for each, and in what time.

    Attributes:
        formats: the number formats it may multiply in, by the names of benchmarks/limits.py.
    """

    name: str
    tokens: int
    seconds: float
    weights: int
    operations: int
    formats: tuple[str, ...] = ("fp32", "bf16")

    def share(self, limits: dict[str, float]) -> float:
        """Of what the best product in one of its formats would allow, in GFLOP/s."""
        limit = max(limits[name] for name in self.formats if name in limits)
        return 1e-9 * self.operations * self.weights * self.tokens / self.seconds / limit


def stages(root: Path, result: dict[str, Any]) -> Iterator[Stage]:
    """The stages that have left something in the folder.

    Raises:
        UserError: there is no teacher in it, or more than one.
    """
    folders = [path.parent for path in sorted(root.glob("checkpoints/teachers/*/config.json"))]
    if len(folders) != 1:
        raise UserError(f"{root / 'checkpoints' / 'teachers'} holds {len(folders)} pretrained teachers instead of one")
    folder = folders[0]
    model = load_folder(folder, torch.device("cpu")).model
    weights = model.num_parameters()
    if model.wte.weight is not model.head_weight:
        weights -= model.wte.weight.numel()
    last = last_line(root / "results" / "teachers" / f"{folder.name}.jsonl")
    yield Stage("fine-tuning the teacher", last["tokens"], last["seconds"], weights, TRAINING, ("fp32",))
    written = [speed_of(path) for path in sorted(folder.with_suffix(".written").glob("*.npz"))]
    if written:
        tokens, seconds = map(sum, zip(*written, strict=True))
        yield Stage("writing", int(tokens), seconds, weights, WRITING)
    for who, log in RUNS.items():
        path = root / "results" / f"{log}_metrics.jsonl"
        if path.is_file():
            line = last_line(path)
            yield Stage(NAMES[who], line["tokens"], line["seconds"], result[who]["parameters"], TRAINING)


def last_line(path: Path) -> dict[str, Any]:
    """The last line of a training's log that counts its tokens."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    found: dict[str, Any] = [line for line in lines if "tokens" in line][-1]
    return found


def rows_of(found: list[Stage], total: float, limits: dict[str, float]) -> list[list[str]]:
    """The table's rows; `total` are the seconds of the command that ended."""
    stages_alone = sum(stage.seconds for stage in found)
    rows = [
        [
            stage.name,
            f"{stage.seconds:,.0f}",
            f"{stage.tokens:,}",
            f"{stage.tokens / stage.seconds:,.0f}",
            f"{stage.share(limits):.0%}",
        ]
        for stage in found
    ]
    if total < stages_alone:
        return [*rows, ["these together", f"{stages_alone:,.0f}", "", "", ""]]
    rest, whole = f"{total - stages_alone:,.0f}", f"{total:,.0f}"
    return [*rows, ["all else", rest, "", "", ""], ["the whole command", whole, "", "", ""]]


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose(options.device)
    result = json.loads((options.root / "results" / "distillation.json").read_text(encoding="utf-8"))
    limits = measure(device)
    found = list(stages(options.root, result))
    header = ["stage", "seconds", "tokens", "tokens a second", "of the limit"]
    text = table(header, rows_of(found, result["seconds"], limits))
    show(text, {"limits": limits, "stages": [vars(stage) for stage in found], "seconds": result["seconds"]}, device)


if __name__ == "__main__":
    main()
