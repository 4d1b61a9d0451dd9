"""A pretrained teacher and its students on the tweets, over seeds, splits and numbers of written tweets.

    python -m benchmarks.teacher --csv data/elon_tweets.csv --root /some/folder --seeds 0 1 2 --splits 0 1 --sampled 4 8

Each seed of each split has its own teacher. It writes its tweets once; with a larger --sampled it writes more. What
--root and --out already hold is not made again, so the command can be stopped and continued. --out gets a line a model:
who, track, split, seed, parameters, sampled, bits_per_byte, fluency_gap (with --judge, a model that taught nobody
here). Flags after `--` go to `distill`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import read
from config.cli import parse
from config.schema import Config
from distillation.distill import distill
from evaluation.judge import fluency_gap, judge_lists, open_judge
from evaluation.sound import judged_tweets
from evaluation.subject import Checkpoint
from model.device import choose_device
from utils.preprocess import Corpus, Tweet, preprocess

WHO = ("teacher", "student", "control", "usual")


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not in the file yet; returns all its lines."""
    done = read(options.out)
    for split in options.splits:
        for seed in options.seeds:
            for sampled in sorted(options.sampled):
                key = {"split": split, "seed": seed, "sampled": sampled, "teacher": options.teacher}
                if any(key.items() <= line.items() for line in done):
                    continue
                done += [line | key for line in run_one(options, split=split, seed=seed, sampled=sampled)]
                options.out.write_text("".join(json.dumps(line) + "\n" for line in done), encoding="utf-8")
    return done


def run_one(options: argparse.Namespace, *, split: int, seed: int, sampled: float) -> Iterator[dict[str, Any]]:
    """The lines of one distillation."""
    root = options.root / f"split_{split}_seed_{seed}"
    flags = ["--paths.root", str(root), "--data.path", str(options.csv), "--data.split_seed", str(split)]
    flags += ["--train.seed", str(seed), "--distill.teacher", options.teacher, "--distill.sampled", str(sampled)]
    config = parse("distill", [*flags, *options.flags])[0]
    corpus = preprocess(config)
    result = distill(config, corpus)
    for who in WHO:
        if who in result:
            line = {key: result[who].get(key) for key in ("track", "parameters", "bits_per_byte", "stop_rate")}
            path = Path(result[who]["name"])
            gap = gap_of(options.judge, config, corpus, path) if options.judge and path.suffix == ".pth" else None
            yield {"who": who, **line, "exact_copies": result[who].get("exact_copies"), "fluency_gap": gap}


def gap_of(judge: str, config: Config, corpus: Corpus, path: Path) -> float | None:
    """The fluency gap of a checkpoint's tweets at temperature 1."""
    subject = Checkpoint(path, choose_device(config.machine))
    device, models = choose_device(config.machine), subject.outside_models
    opened = open_judge(judge, device, subject=str(path), outside_models=models)
    samples = [Tweet(text, ended) for text, ended in subject.write(500, config.generate.unshaped(), raw=True)]
    lists = {name: judged_tweets(name, tweets) for name, tweets in (("sampled", samples), ("validation", corpus.val))}
    found = judge_lists(opened, lists, validation="validation", recipe=None)
    gap = fluency_gap(found["sampled"], found["validation"])
    return gap["difference"] if gap else None


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The Markdown table: means and standard deviations over the runs of each model."""
    rows = ["| model | written for each real one | track | parameters | runs | bits per byte | fluency gap |"]
    rows.append("|---|---:|---|---:|---:|---:|---:|")
    for sampled in sorted({line["sampled"] for line in lines}):
        for who in WHO:
            runs = [line for line in lines if (line["who"], line["sampled"]) == (who, sampled)]
            if not runs:
                continue
            bits = np.array([run["bits_per_byte"] for run in runs])
            gaps = [run["fluency_gap"] for run in runs if run["fluency_gap"] is not None]
            gap = f"{np.mean(gaps):+.2f}" if gaps else ""
            size = np.mean([run["parameters"] for run in runs]) / 1e6
            rows.append(
                f"| {who} | {sampled:g} | {runs[0]['track']} | {size:.2f} M | {len(runs)} | "
                f"{bits.mean():.3f} ± {bits.std(ddof=1) if len(bits) > 1 else 0.0:.3f} | {gap} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--teacher", default="smollm2")
    parser.add_argument("--judge", help="a Hugging Face model that is not the teacher; none: no fluency gap")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sampled", type=float, nargs="+", default=[8.0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("teacher.jsonl"))
    parser.add_argument("flags", nargs="*", help="settings for distill, after --")
    print(table(run_all(parser.parse_args())))


if __name__ == "__main__":
    main()
