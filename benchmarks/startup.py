"""How long commands take from a cold start: `python -m benchmarks.startup`.

Measured are wall seconds of new processes, which take turns; a warm-up fills the system's file cache. `generate` writes
one text with a tiny model, trained on the sample tweets before, and checks whether it is copied. Targets: --help under
0.5 s; generate under 1.5 times what `import torch` takes alone. Prints a Markdown table and one line of JSON.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import choose, show, spread, table, take_turns

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample_tweets.csv"
HELP, TORCH, GENERATE = "python main.py --help", 'python -c "import torch"', 'python main.py generate "Tesla will"'
HELP_SECONDS, TORCH_TIMES = 0.5, 1.5
TINY = ["--model.n_layer", "1", "--model.n_embd", "64", "--train.epochs", "5", "--machine.threads", "1"]


def python(*arguments: str) -> None:
    """Run Python in the repository; its standard output is dropped.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: python {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}")


def train_tiny(root: Path, *flags: str) -> None:
    """A tiny model of the sample tweets under `root`."""
    python("main.py", "preprocess", "--paths.root", str(root), "--data.path", str(SAMPLE))
    python("main.py", "train", "--paths.root", str(root), *TINY, *flags)


def measure(root: Path, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, with a model under `root`."""

    def seconds(*arguments: str) -> float:
        started = time.perf_counter()
        python(*arguments)
        return time.perf_counter() - started

    once = ("--generate.num_samples", "1", "--paths.root", str(root))
    return take_turns(
        {
            HELP: lambda: seconds("main.py", "--help"),
            TORCH: lambda: seconds("-c", "import torch"),
            GENERATE: lambda: seconds("main.py", "generate", "Tesla will", *once),
        },
        repeats=repeats,
    )


def rows_of(found: dict[str, list[float]]) -> list[list[str]]:
    """The table's rows: one for each command, with its target."""
    alone, whole = (statistics.median(found[name]) for name in (TORCH, GENERATE))
    verdicts = {
        HELP: f"under {HELP_SECONDS} s: {met(statistics.median(found[HELP]) < HELP_SECONDS)}",
        TORCH: "",
        GENERATE: f"under {TORCH_TIMES} times torch alone: {whole / alone:.2f}, {met(whole < TORCH_TIMES * alone)}",
    }
    return [[f"`{name}`", spread(seconds, ".2f"), verdicts[name]] for name, seconds in found.items()]


def met(holds: bool) -> str:
    """Whether a target is met, in a word."""
    return "met" if holds else "missed"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train_tiny(Path(folder))
        found = measure(Path(folder), repeats=options.repeats)
    header = ["command", "seconds (lowest to highest)", "target"]
    show(table(header, rows_of(found)), {"seconds": found}, choose("cpu"))


if __name__ == "__main__":
    main()
