"""What distillation gains, over seeds of the student: `python main.py distill` with one set of teachers.

    python -m benchmarks.distillation --csv data/elon_tweets.csv --seeds 0 1 2 --root /some/folder

The teachers do not depend on the student's seed, so they are trained once; for each seed the student, `train`'s model
and the one without a teacher are trained anew. What --root already holds is not trained again. Figures are written to
--out as they come. The table has mean and standard deviation over seeds, and the paired 95% interval of the difference
to the model without a teacher: over all validation tweets, of their nats averaged over seeds. Flags after `--` go to
`distill`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import read, spread
from config.cli import parse
from distillation.distill import distill
from distillation.report import NAMES
from distillation.runs import set_up
from evaluation.baselines import measure_baselines
from evaluation.metrics import paired_difference
from evaluation.verdict import percent
from model.tokenizer import load_tokenizer
from model.tracks import TWEETS
from trainer.batches import TweetDataset
from utils.preprocess import preprocess

KEPT = (
    "track",
    "bits_per_byte",
    "parameters",
    "stop_rate",
    "exact_copies",
    "ngram8_in_train",
    "nats",
    "tokens_per_second",
)


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all seeds that are not in the file yet; returns all records of the file."""
    done = read(options.out)
    flags = ["--paths.root", str(options.root), "--data.path", str(options.csv)]
    flags += ["--distill.teacher", "[ensemble, ngram]", *options.flags]
    config = parse("distill", flags)[0]
    corpus = preprocess(config)
    rows: TweetDataset = set_up(config, corpus).dataset("val")
    baselines = measure_baselines(corpus.train, corpus.val, load_tokenizer())
    for seed in options.seeds:
        if any(record["seed"] == seed for record in done):
            continue
        result = distill(parse("distill", [*flags, "--train.seed", str(seed)])[0], corpus)
        lines = {who: {key: result[who][key] for key in KEPT if key in result[who]} for who in NAMES if who in result}
        real = result["student"]["real_ngram8_in_train"]
        record = {"seed": seed, **lines, "ngram": baselines.bits_per_byte["ngram"], "real_ngram8_in_train": real}
        done.append({**record, "bytes": rows.num_bytes.tolist(), "settings": result["settings"]})
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return done


def table(records: Sequence[dict[str, Any]]) -> str:
    """The Markdown table."""
    lines = [
        "| who | track | parameters | bits per byte | of the n-gram | less the one without a teacher (95%) | ends | "
        "copies | 8 words copied |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    num_bytes = np.array(records[0]["bytes"], dtype=np.float64)
    alone = np.mean([record["control"]["nats"] for record in records], axis=0)
    for who, name in NAMES.items():
        runs = [record[who] for record in records if who in record]
        if not runs:
            continue
        found = paired_difference(np.mean([run["nats"] for run in runs], axis=0), alone, num_bytes)
        beside = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})" if who != "control" else ""
        written = [
            percent(float(np.mean([run[key] for run in runs]))) if key in runs[0] else ""
            for key in ("stop_rate", "exact_copies", "ngram8_in_train")
        ]
        bits = [run["bits_per_byte"] for run in runs]
        ratios = [run["bits_per_byte"] / record["ngram"] for run, record in zip(runs, records, strict=True)]
        cells = [
            name,
            runs[0].get("track", TWEETS),
            f"{runs[0]['parameters'] / 1e6:.2f} M",
            spread(bits),
            spread(ratios),
            beside,
            *written,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("data/elon_tweets.csv"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("distillation.jsonl"))
    parser.add_argument("flags", nargs="*", help="settings for distill, after --")
    print(table(run_all(parser.parse_args())))


if __name__ == "__main__":
    main()
