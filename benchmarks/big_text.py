"""How training on a big text file goes: seconds, memory and tokens a second, at 2 and at 200 MB.

    python -m benchmarks.big_text [--sizes 2 200] [--seconds 60] [--flags ...]

The words of the text are drawn with natural (Zipf) frequencies, in sentences, one to three of them a line; every
thousandth line is a document of 300 sentences. Each size goes through `preprocess`, then `train --train.epochs 1`,
which gets Ctrl-C after so many seconds of training. Each command runs in a process of its own. Memory is the largest
resident set that the kernel reports, pages of mapped files included.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from model.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
AT_ONCE = 200_000  # words drawn together
DOCUMENT_EVERY, DOCUMENT_SENTENCES = 1000, 300


def vocabulary() -> list[str]:
    """GPT-2's tokens that are words, frequent ones first, so that the text has about as many tokens as real text."""
    found = [token for token in load_tokenizer().token_bytes if re.fullmatch(rb" [a-z]+", token)]
    return [token.decode().strip() for token in found]


def write_text(path: Path, megabytes: float, *, seed: int = 0) -> None:
    """Write a TXT of made-up lines of at least so many bytes."""
    random = np.random.default_rng(seed)
    words = vocabulary()
    chance = 1.0 / (np.arange(len(words)) + 3)
    chance /= chance.sum()
    written, line = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            drawn = [words[i] for i in random.choice(len(words), AT_ONCE, p=chance)]
            sizes = random.integers(4, 24, AT_ONCE // 4)
            ends = sizes.cumsum()
            bounds = [0, *ends[ends < AT_ONCE].tolist()]
            sentences = [f"{' '.join(drawn[a:b]).capitalize()}." for a, b in pairwise(bounds)]
            place = 0
            while place < len(sentences):
                line += 1
                size = DOCUMENT_SENTENCES if line % DOCUMENT_EVERY == 0 else 1 + line % 3
                text = " ".join(sentences[place : place + size])
                written += file.write(f"{text}\n")
                place += size


@dataclass(frozen=True)
class Run:
    """One command: wall seconds, largest resident memory in MB, and what it wrote to standard error, with times."""

    seconds: float
    memory: float
    told: list[tuple[float, str]]

    def after(self, text: str) -> float:
        """Seconds until it wrote a line with `text` in it."""
        return next(seconds for seconds, line in self.told if text in line)


def interrupt(process: subprocess.Popen[str], metrics: Path, seconds: float) -> None:
    """Send Ctrl-C so many seconds after the first validation is written down and training begins."""
    while process.poll() is None and not (metrics.is_file() and "val/loss" in metrics.read_text(encoding="utf-8")):
        time.sleep(0.5)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)


def command(*arguments: str, metrics: Path | None = None, seconds: float = 0.0) -> Run:
    """Run main.py; with `metrics`, the file of its measurements, it gets Ctrl-C after `seconds` of training."""
    start, told = time.perf_counter(), list[tuple[float, str]]()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    if metrics:
        threading.Thread(target=interrupt, args=(process, metrics, seconds), daemon=True).start()
    assert process.stderr is not None
    for line in process.stderr:
        told.append((time.perf_counter() - start, line))
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 130 if metrics else 0):
        raise SystemExit("".join(line for _, line in told))
    scale = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    return Run(time.perf_counter() - start, usage.ru_maxrss / scale, told)


def measure(megabytes: float, seconds: float, flags: list[str]) -> str:
    """Measure one size; returns its line of the table."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path, root = Path(folder) / "big.txt", ["--paths.root", folder]
        write_text(path, megabytes)
        made = command("preprocess", *root, "--data.path", str(path), *flags)
        metrics = Path(folder) / "results" / "metrics.jsonl"
        trained = command("train", *root, "--train.epochs", "1", *flags, metrics=metrics, seconds=seconds)
        last = Path(folder) / "checkpoints" / "last_model.pth"
        state = torch.load(last, weights_only=True)["state"]
        size = path.stat().st_size / 1e6
    rows = re.search(r"([\d,]+) tokens of", "".join(line for _, line in trained.told))
    assert rows is not None
    return (
        f"| {size:,.0f} | {rows[1]} | {made.seconds:,.0f} | {made.memory:,.0f} | {trained.after('Training '):,.0f} | "
        f"{trained.memory:,.0f} | {state['step']:,} | {state['tokens'] / state['seconds']:,.0f} |"
    )


def main() -> None:
    """Print one line of the table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[2, 200], help="megabytes")
    parser.add_argument("--seconds", type=float, default=60, help="of training before Ctrl-C")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="settings for both commands")
    options = parser.parse_args()
    print("| MB | training tokens | preprocess, s | memory, MB | until training, s | memory, MB | steps | tokens/s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in options.sizes:
        print(measure(size, options.seconds, options.flags), flush=True)


if __name__ == "__main__":
    main()
