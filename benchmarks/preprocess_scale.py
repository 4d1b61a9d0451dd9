"""Time and memory of `preprocess` at 10,000, 100,000 and 1,000,000 tweets.

    python benchmarks/preprocess_scale.py [--sizes 10000 100000] [--repeat 3]

The tweets are made-up words in natural (Zipf) frequencies with what real tweets have: mentions, links, entities, emoji,
cut-off ends, exact and near copies, retweets. Each size runs in a process of its own; start-up, reading and writing are
included. Given are the median of `repeat` runs, and the largest resident memory of any of them.

Measured with Python 3.11 on 2 cores that other work kept busy too (load 4 to 5), so wall time is nearly twice
the processor's time; the last line is one run:

| tweets | file, MB | seconds (lowest to highest) | processor seconds | memory, MB |
|---:|---:|---:|---:|---:|
| 10,000 | 1.3 | 1.5 (1.5 to 1.6) | 0.8 | 56 |
| 100,000 | 12.9 | 8.7 (7.7 to 12.5) | 5.4 | 162 |
| 1,000,000 | 130.1 | 96.7 (96.7 to 96.7) | 53.8 | 1,111 |
"""

import argparse
import csv
import itertools
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = 60_000


def vocabulary(rng: random.Random) -> list[str]:
    """Different made-up words, short ones first, because frequent words are short."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    found = dict.fromkeys("".join(rng.choices(syllables, k=1 + i // 15_000)) for i in range(3 * WORDS))
    return list(found)[:WORDS]


def tweets(count: int, seed: int = 0) -> Iterator[str]:
    """Raw tweets."""
    rng = random.Random(seed)
    names = vocabulary(rng)
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(names))))
    recent: list[str] = []
    for i in range(count):
        text = " ".join(rng.choices(names, cum_weights=weights, k=rng.randint(4, 24)))
        dress = rng.random()
        if recent and dress < 0.10:  # an exact copy, or one with a word before it
            text = rng.choice(recent) if dress < 0.05 else f"{rng.choice(names)} {rng.choice(recent)}"
        elif dress < 0.40:
            text = f"@{rng.choice(names)}_{rng.randint(1, 99)} {text.capitalize()}."
        elif dress < 0.55:
            text = f"{text.capitalize()}! https://t.co/{rng.randrange(16**10):010x}"
        elif dress < 0.65:
            text = f"{(text * 3)[:115]}… https://t.co/{rng.randrange(16**10):010x}"
        elif dress < 0.75:
            text = f"“{text}” &amp; so on 🚀"
        elif dress < 0.77:
            text = f"RT @{rng.choice(names)}: {text}"
        if i % 50 == 0:
            recent = [*recent[-200:], text]
        yield text


def write_tweets(path: Path, count: int) -> None:
    """A CSV of made-up tweets with a few of the usual columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "date", "text", "favorites"])
        writer.writerows([i, "2024-01-01 00:00:00+00:00", text, i % 1000] for i, text in enumerate(tweets(count)))


def measure(path: Path, root: Path) -> tuple[float, float, float, str]:
    """Of one `preprocess`: wall seconds, processor seconds, largest resident memory in MB, its line about the split."""
    log = root / "log.txt"
    command = [sys.executable, str(ROOT / "main.py"), "preprocess", "--data.path", str(path), "--paths.root", str(root)]
    start = time.perf_counter()
    with log.open("wb") as output:
        redirect = [(os.POSIX_SPAWN_DUP2, output.fileno(), descriptor) for descriptor in (1, 2)]
        process = os.posix_spawn(sys.executable, command, os.environ, file_actions=redirect)
        _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    told = log.read_text(encoding="utf-8")
    if status:
        raise SystemExit(told)
    scale = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    summary = re.search(r"Split .*", told)
    assert summary is not None
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale, summary[0]


def main() -> None:
    """Print one line of the table for each size."""
    parser = argparse.ArgumentParser(description="time and memory of preprocess by number of tweets")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("| tweets | file, MB | seconds (lowest to highest) | processor seconds | memory, MB |")
    print("|---:|---:|---:|---:|---:|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tweets.csv"
            write_tweets(path, size)
            runs = [measure(path, Path(folder)) for _ in range(arguments.repeat)]
            seconds, processor = [run[0] for run in runs], statistics.median(run[1] for run in runs)
            print(
                f"| {size:,} | {path.stat().st_size / 1e6:.1f} | {statistics.median(seconds):.1f} "
                f"({min(seconds):.1f} to {max(seconds):.1f}) | {processor:.1f} | {max(run[2] for run in runs):,.0f} |",
                flush=True,
            )
            print(runs[0][3], file=sys.stderr)


if __name__ == "__main__":
    main()
