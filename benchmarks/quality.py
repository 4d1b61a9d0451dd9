"""Quality of recipes, over seeds and splits of the same tweets, in one table.

    python -m benchmarks.quality --csv data/elon_tweets.csv --recipes small nanogpt --seeds 0 1 2 --splits 0 1

Each run's figures are written to a JSON-lines file (--out) when it ends. Runs that are in the file are not done again,
so the work can be done in parts. The table gives mean and standard deviation of bits per byte and of the ratio to the
Kneser-Ney n-gram of the same split, and the paired 95% interval of the difference, over all validation tweets of all
runs.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import PEERS, run_peer
from config.cli import parse
from config.schema import Config
from distillation.distill import train_student
from distillation.runs import set_up
from distillation.teachers import make_teachers
from evaluation.baselines import measure_baselines
from evaluation.metrics import paired_difference
from model.checkpoint import load_bundle
from model.tokenizer import load_tokenizer
from model.tracks import TWEETS
from trainer.batches import TweetDataset
from trainer.score import score
from trainer.train import train
from utils.preprocess import Corpus, preprocess

# Flags of each recipe beside the defaults; all but the first switch one part of the recipe off.
RECIPES: dict[str, list[str]] = {
    "small": [],
    "small, no n-gram teacher": ["--train.ngram_weight", "0"],
    "small, no UNK replacement": ["--train.unk_replacement", "0"],
    "small, no output bias (nor calibration)": ["--model.output_bias", "false"],
    "small, no calibration": ["--train.calibrate", "false"],
    "small, no subword features": ["--train.subword_features", "false"],
    "small, no weight decay": ["--train.weight_decay", "0"],
    "small, no dropout before the head": ["--train.output_dropout", "0"],
    "small, float32": ["--machine.precision", "f32"],
    "small, all 50,257 tokens": ["--model.vocabulary", "full"],
}
BEST = "best"  # the student of `distill`; its teachers are trained once for all seeds of a split
STOCK = "nanogpt"
BASELINES = ("unigram", "bigram", "ngram", "xz", "bzip2")


def run_ours(flags: Sequence[str], config: Config, corpus: Corpus, *, seed: int) -> dict[str, Any]:
    """Train one of our recipes and score its kept checkpoint."""
    config = parse("train", [*flags, "--paths.root", config.paths.root, "--train.seed", str(seed)])[0]
    state = train(config, corpus)
    records = [json.loads(line) for line in config.paths.metrics.read_text(encoding="utf-8").splitlines()]
    bundle = load_bundle(config.paths.best_model, torch.device("cpu"))
    rows = TweetDataset.encode(corpus.val, bundle.tokenizer, bundle.vocabulary, config.model.block_size)
    scores = score(bundle.model, rows)
    return {
        "nats": scores.nats.tolist(),
        "parameters": bundle.model.num_parameters(),
        "epoch": state.best_epoch,
        "train_seconds": round(state.seconds, 1),
        "curve": [(record["seconds"], record["val/bits_per_byte"]) for record in records if "val/loss" in record],
    }


def run_best(config: Config, corpus: Corpus, *, seed: int) -> dict[str, Any]:
    """Distill a student and score it; its seconds include the teachers' training if that was done here."""
    flags = ["--paths.root", config.paths.root, "--train.seed", str(seed), "--distill.teacher", "[ensemble, ngram]"]
    started = time.perf_counter()
    context = set_up(parse("distill", flags)[0], corpus)
    teachers = make_teachers(context, config.paths.best_model)
    path, _ = train_student(context, teachers, generation=1)
    bundle = load_bundle(path, context.device)
    return {
        "nats": score(bundle.model, context.dataset("val")).nats.tolist(),
        "teacher_nats": score(teachers.ensemble(), context.dataset("val")).nats.tolist(),
        "parameters": bundle.model.num_parameters(),
        "epoch": bundle.info["epoch"],
        "train_seconds": round(time.perf_counter() - started, 1),
    }


def run_theirs(name: str, config: Config, corpus: Corpus, *, seed: int) -> dict[str, Any]:
    """Train a peer; its best epoch counts, which favours it."""
    started = time.perf_counter()
    found = run_peer(name, config, corpus, seed=seed)
    return {
        "nats": found.best.nats.tolist(),
        "parameters": found.parameters,
        "epoch": found.best_epoch,
        "train_seconds": round(time.perf_counter() - started, 1),
        "last_bits_per_byte": found.last.bits_per_byte,
        "curve": found.curve,
    }


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do all runs asked for that are not in the file yet; returns all records of the file."""
    done = read(options.out)
    for split in options.splits:
        with tempfile.TemporaryDirectory() as root:
            flags = ["--paths.root", root, "--data.path", str(options.csv), "--data.split_seed", str(split)]
            config = parse("run", flags)[0]
            corpus = preprocess(config)
            num_bytes = [len(tweet.text.encode()) + 1 for tweet in corpus.val]
            baselines = measure_baselines(corpus.train, corpus.val, load_tokenizer())
            for recipe in options.recipes:
                for seed in options.seeds:
                    key = {"recipe": recipe, "split": split, "seed": seed}
                    if any(key.items() <= record.items() for record in done):
                        continue
                    if recipe in PEERS:
                        found = run_theirs(recipe, config, corpus, seed=seed)
                    elif recipe == BEST:
                        found = run_best(config, corpus, seed=seed)
                    else:
                        found = run_ours(RECIPES[recipe], config, corpus, seed=seed)
                    shared = {
                        "bytes": num_bytes,
                        "ngram_nats": [float(nats) for nats in baselines.nats],
                        "baselines": baselines.bits_per_byte,
                    }
                    done.append(key | found | shared)
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    return done


def read(path: Path) -> list[dict[str, Any]]:
    """The runs in the file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(records: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of all recipes, and of the baselines on the same splits."""
    lines = [
        "| recipe | track | runs | parameters | best epoch | seconds | bits per byte | of the n-gram | "
        "less the n-gram (95%) | less small, same splits and seeds (95%) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    small = {(run["split"], run["seed"]): run["nats"] for run in records if run["recipe"] == "small"}
    for name in dict.fromkeys(record["recipe"] for record in records):
        runs = [record for record in records if record["recipe"] == name]
        bits = [sum(run["nats"]) / math.log(2) / sum(run["bytes"]) for run in runs]
        ratios = [bit / run["baselines"]["ngram"] for bit, run in zip(bits, runs, strict=True)]
        beside_ngram = interval(runs, [run["ngram_nats"] for run in runs])
        both = [run for run in runs if name != "small" and (run["split"], run["seed"]) in small]
        beside_small = interval(both, [small[run["split"], run["seed"]] for run in both]) if both else ""
        middle = [statistics.median(run[key] for run in runs) for key in ("parameters", "epoch", "train_seconds")]
        lines.append(
            f"| {name} | {TWEETS} | {len(runs)} | {middle[0] / 1e6:.2f} M | {middle[1]:.0f} | {middle[2]:.0f} | "
            f"{spread(bits)} | {spread(ratios)} | {beside_ngram} | {beside_small} |"
        )
    splits = {record["split"]: record["baselines"] for record in records}
    for name in BASELINES:
        bits = [baselines[name] for baselines in splits.values()]
        ratios = [baselines[name] / baselines["ngram"] for baselines in splits.values()]
        lines.append(f"| {name} | {TWEETS} | {len(bits)} | | | | {spread(bits)} | {spread(ratios)} | | |")
    return "\n".join(lines)


def interval(runs: Sequence[dict[str, Any]], others: Sequence[Sequence[float]]) -> str:
    """Bits per byte less those of others, (tweets,) nats for each run, and the paired 95% interval over the tweets.

    A validation tweet's cost is the mean over the seeds of its split.
    """
    ours, theirs, num_bytes = [], [], []
    for split in dict.fromkeys(run["split"] for run in runs):
        same = [(run, other) for run, other in zip(runs, others, strict=True) if run["split"] == split]
        ours.append(np.mean([run["nats"] for run, _ in same], axis=0))
        theirs.append(np.mean([other for _, other in same], axis=0))
        num_bytes.append(np.array(same[0][0]["bytes"], dtype=np.float64))
    found = paired_difference(np.concatenate(ours), np.concatenate(theirs), np.concatenate(num_bytes))
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def race(records: Sequence[dict[str, Any]]) -> str:
    """Seconds of training until the best quality of nanoGPT's recipe: its own, and those of each other recipe.

    Compared are runs of one split and seed. They must have been made on one machine, one after the other.
    """
    lines = []
    for stock in (record for record in records if record["recipe"] == STOCK and "curve" in record):
        needed, best = min(((seconds, bits) for seconds, bits in stock["curve"]), key=lambda point: point[1])
        for run in records:
            same = all(run[key] == stock[key] for key in ("split", "seed")) and "curve" in run and run is not stock
            if same and (reached := [seconds for seconds, bits in run["curve"] if bits <= best]):
                lines.append(
                    f"{run['recipe']} reaches {STOCK}'s best, {best:.3f}, after {reached[0]:.0f} s of training, "
                    f"{STOCK} after {needed:.0f} s: {needed / reached[0]:.1f} times as long"
                )
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation as text; of one value only the value."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("data/elon_tweets.csv"))
    parser.add_argument("--recipes", nargs="*", default=["small", *PEERS], choices=[*RECIPES, BEST, *PEERS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--splits", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("quality.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records = run_all(options)
    print(table(records))
    print(race(records))


if __name__ == "__main__":
    main()
