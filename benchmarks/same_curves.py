"""Do the speed-ups of training change what is learnt? `python -m benchmarks.same_curves --csv data/elon_tweets.csv`.

Trains the defaults with each speed-up switched off in turn, every run in a process of its own. What the validation
tweets cost after each epoch is compared with the runs that have all speed-ups, seed by seed. Where the arithmetic is
the same the curves must be equal to the last bit. Where numbers are rounded or drawn in another way, the difference
must be within the noise, the difference between seeds. Prints a Markdown table and one line of JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.startup import ROOT, SAMPLE
from benchmarks.timing import choose, show, spread, table
from config.cli import parse
from utils.preprocess import preprocess
from utils.run_log import read_log

ALL = "nothing"


def forget_memory() -> None:
    """Freed memory goes back to the system, and oneDNN's caches have their usual size."""
    from trainer import train

    vars(train)["keep_memory"] = lambda: None


def usual_dropout() -> None:
    """Dropout as torch does it."""
    from model.fast import Dropout

    Dropout.forward = lambda self, x: F.dropout(x, self.p, self.training)  # type: ignore[method-assign]


def no_buckets() -> None:
    """Tweets of any length in a batch, padded to its longest."""
    from trainer import batches

    batches.POOL = 1


def plain_loss() -> None:
    """The loss from the head's logits, without trainer/fused_loss.py."""
    from trainer import losses

    vars(losses)["use_fused_loss"] = lambda *_: False


def any_shape() -> None:
    """Matrix products for as many tokens as a batch has, without padding to a multiple."""
    from trainer import fused_loss, train

    fused_loss.MULTIPLE = 1
    vars(train)["shape_multiple"] = lambda *_: 1


def plain_adamw() -> None:
    """AdamW operation by operation."""
    fused = torch.optim.AdamW
    torch.optim.AdamW = lambda *arguments, **more: fused(*arguments, **{**more, "fused": False})  # type: ignore[assignment, misc]


# For each speed-up, how it is switched off: a function, and flags.
WITHOUT: dict[str, tuple[Callable[[], None], list[str]]] = {
    ALL: (lambda: None, []),
    "memory that is kept": (forget_memory, []),
    "fused AdamW": (plain_adamw, []),
    "the head and its loss as one": (plain_loss, []),
    "products of few shapes": (any_shape, []),
    "bfloat16": (lambda: None, ["--machine.precision", "f32"]),
    "dropout's numbers eight to a draw": (usual_dropout, []),
    "tweets of like length together": (no_buckets, []),
}


def run_one(name: str, csv: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Train with one speed-up off; bits per byte before the first epoch and after each, and the seconds it took."""
    switch, more = WITHOUT[name]
    switch()
    from trainer.train import train

    with tempfile.TemporaryDirectory() as root:
        config = parse("run", ["--paths.root", root, "--data.path", str(csv), *more, *flags])[0]
        train(config, preprocess(config))
        records = [record for record in read_log(config.paths.metrics) if "val/bits_per_byte" in record]
    return {"curve": [record["val/bits_per_byte"] for record in records], "seconds": records[-1]["seconds"]}


def in_a_process(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """`run_one` with nothing left over from other runs."""
    command = [sys.executable, "-m", "benchmarks.same_curves", "--csv", str(options.csv), "--one", name]
    flags = ["--", *options.flags, "--train.seed", str(seed), "--train.sample_every", "0"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: the run without {name} failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rows_of(found: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The table's rows: one for each speed-up that was switched off."""
    rows = []
    for name, runs in found.items():
        ends = [run["curve"][-1] for run in runs]
        both = zip(runs, found[ALL], strict=True)
        pairs = [list(zip(run["curve"], ours["curve"], strict=True)) for run, ours in both]
        largest = max(abs(theirs - ours) for pair in pairs for theirs, ours in pair)
        apart = [theirs - ours for theirs, ours in (pair[-1] for pair in pairs)]
        deviation = f" ± {statistics.stdev(apart):.4f}" if len(apart) > 1 else ""
        curve = "equal to the last bit" if largest == 0 else f"at most {largest:.4f} apart"
        shown = [f"{statistics.mean(ends):.4f}", f"{statistics.mean(apart):+.4f}{deviation}", curve]
        rows.append([name, spread([run["seconds"] for run in runs]), *(shown if name != ALL else [shown[0], "", ""])])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=SAMPLE)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--one", choices=list(WITHOUT), help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="settings for train, after --")
    options = parser.parse_args()
    options.csv = options.csv.resolve()
    if options.one:
        print(json.dumps(run_one(options.one, options.csv, options.flags)))
        return
    found = {name: [in_a_process(name, seed, options) for seed in options.seeds] for name in WITHOUT}
    header = ["without", "seconds of training", "bits per byte", "less all of them", "the whole curve"]
    show(table(header, rows_of(found)), {"curves": found}, choose("auto"))


if __name__ == "__main__":
    main()
