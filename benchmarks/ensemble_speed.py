"""How long the members of an ensemble take to train: `python -m benchmarks.ensemble_speed --members 6`.

Compared are one member alone, with all cores; all members one after another (--distill.workers 1); and all of them
side by side in processes of their own, as many at once as `distill` chooses. Seconds are from the start of training to
the end of the last member, with the start of the processes and what each prepares. The sides take turns; median of
--repeats. Prints a Markdown table and one line of JSON.
"""

import argparse
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from benchmarks.timing import choose, show, spread, table, times
from config.cli import parse
from distillation.runs import set_up
from distillation.teachers import member_runs
from distillation.workers import affordable, train_all
from utils.preprocess import Corpus, preprocess


def seconds_of(options: argparse.Namespace, corpus: Corpus, *, members: int, workers: int) -> tuple[float, int]:
    """Seconds to train so many members, and how many were trained at once."""
    with tempfile.TemporaryDirectory() as root:
        flags = ["--paths.root", root, "--distill.members", str(members), "--distill.workers", str(workers)]
        flags += ["--distill.member_epochs", str(options.epochs), *options.flags]
        context = set_up(parse("distill", flags)[0], corpus)
        stages = member_runs(context)
        at_once = min(members, workers or affordable(context, stages))
        started = time.perf_counter()
        with redirect_stderr(StringIO()):
            train_all(context, stages)
        return time.perf_counter() - started, at_once


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("data/elon_tweets.csv"))
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("flags", nargs="*", help="settings for distill, after --")
    options = parser.parse_args()
    sides = {"one member": (1, 1), "one after another": (options.members, 1), "side by side": (options.members, 0)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as root, redirect_stderr(StringIO()):
        corpus = preprocess(parse("distill", ["--paths.root", root, "--data.path", str(options.csv)])[0])
    for _ in range(options.repeats):
        for name, (members, workers) in sides.items():
            seconds, at_once = seconds_of(options, corpus, members=members, workers=workers)
            taken[name].append(seconds)
    taken = {f"{name}, {at_once} at once" if name == "side by side" else name: all_ for name, all_ in taken.items()}
    rows = [[name, spread(each, ",.1f"), f"{times(each, taken['one member']):.2f}"] for name, each in taken.items()]
    head = [f"{options.members} members, {options.epochs} epochs", "seconds", "times one member's"]
    show(table(head, rows), {"seconds": taken}, choose("auto"))


if __name__ == "__main__":
    main()
