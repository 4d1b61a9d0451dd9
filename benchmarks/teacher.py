"""A pretrained teacher and its students on the tweets, over seeds, splits, sizes and numbers of written tweets.

    python -m benchmarks.teacher --csv data/elon_tweets.csv --root /some/folder --seeds 0 1 2 --splits 0 1 --sampled 8

The teacher of a split is fine-tuned once, and writes its tweets once: with a larger --sampled it writes more. Its
students have seeds. So have the same model without a teacher (control) and the model of `train` (usual). What --root
and --out already hold is not made again, so the command can be stopped and continued. A line that has no fluency gap
yet gets it when --judge is given.

--out gets a line a model: who, track, split, seed, size, parameters, sampled, passes, bits_per_byte, fluency_gap (with
--judge, a model that taught nobody here), stop_rate, exact_copies, tokens_per_second, seconds, nats and num_bytes (of
each validation tweet). Flags after `--` go to `distill`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality import read
from benchmarks.timing import table as as_table
from config.cli import parse
from distillation.distill import checkpoint_line, control_run, teacher_line, train_student, usual_run
from distillation.pretrained import PretrainedTeacher
from distillation.runs import DistillContext, set_up, train_once
from evaluation.huggingface import HuggingFace
from evaluation.judge import Judgement, fluency_gap, judge_lists, open_judge
from evaluation.metrics import paired_difference
from evaluation.sound import VALIDATION, judged_tweets
from evaluation.subject import Checkpoint
from model.tracks import TWEETS
from utils.files import atomic_write
from utils.preprocess import Tweet, preprocess

TEACHER, STUDENT, CONTROL, USUAL = "teacher", "student", "control", "usual"
NAMES = {
    TEACHER: "the teacher, fine-tuned, in GPT-2's tokens",
    STUDENT: "student",
    CONTROL: "the same without a teacher",
    USUAL: "`train`",
}
JUDGED = 500  # tweets of each model at temperature 1
KEPT = ["track", "parameters", "bits_per_byte", "tokens_per_second", "stop_rate", "exact_copies"]
KEPT += ["ngram8_in_train", "real_ngram8_in_train"]
HEADS = [
    "model",
    "written for each real one",
    "passes",
    "track",
    "parameters",
    "runs",
    "bits per byte",
    "less than `train`",
]
HEADS += ["fluency gap", "ended", "copies", "tokens a second"]


def context_of(options: argparse.Namespace, *, split: int, seed: int, sampled: float, size: str) -> DistillContext:
    """The settings of one student, and its tweets. Its checkpoint lies in a folder of its own."""
    layers, width = size.split("x")
    name = f"{size}_{sampled:g}_seed_{seed}"
    flags = ["--paths.root", str(options.root / f"split_{split}" / name), "--data.path", str(options.csv)]
    flags += ["--data.split_seed", str(split), "--train.seed", str(seed), "--distill.teacher", options.teacher]
    flags += ["--distill.sampled", str(sampled), "--model.n_layer", layers, "--model.n_embd", width]
    config = parse("distill", [*flags, *options.flags])[0]
    return set_up(config, preprocess(config))


def teacher_of(options: argparse.Namespace, context: DistillContext, split: int) -> PretrainedTeacher:
    """The teacher of a split, which has seed 0."""
    config = context.config
    paths = replace(config.paths, root=str(options.root / f"split_{split}" / "teacher"))
    own = replace(config, paths=paths, train=replace(config.train, seed=0))
    return PretrainedTeacher(replace(context, config=own), options.teacher)


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not in the file yet, and judge what is not judged yet; returns all lines of the file."""
    done, judge = read(options.out), None
    plan = list(planned(options))
    missing = [(key, make) for key, make in plan if not any(key.items() <= line.items() for line in done)]
    unjudged = [key for key, _ in plan if not any(is_judged(line, key) for line in done)]
    if options.judge and unjudged:  # opened before anything long begins: it must not be the teacher
        device, taught_by = torch.device("cpu"), [options.teacher]
        judge = open_judge(options.judge, device, subject="the student", outside_models=taught_by)
    for key, make in missing:
        started, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        context, found, nats = make()
        kept = {name: found.get(name) for name in KEPT}
        kept["passes"] = context.config.distill.epochs if key["who"] == STUDENT else None
        seconds = {"seconds": time.perf_counter() - started, "load": load}
        line = {**key, **kept, "fluency_gap": None, **seconds, "nats": np.round(nats, 4).tolist()}
        done.append({**line, "num_bytes": context.dataset("val").num_bytes.tolist()})
        save(options.out, done)
    if judge:
        references: dict[int, Judgement] = {}
        for line in done:
            if any(key.items() <= line.items() for key in unjudged):
                line["fluency_gap"] = gap_of(options, judge, line, references)
                save(options.out, done)
    return done


def is_judged(line: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether this is the line of `key`, with a fluency gap."""
    return key.items() <= line.items() and line.get("fluency_gap") is not None


def save(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write the file anew."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


Made = tuple[DistillContext, dict[str, Any], Any]


def planned(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], Made]]]:
    """What is to be run: the keys of its line, and what makes it."""
    for split in options.splits:
        largest = max(options.sampled)
        yield (
            {"who": TEACHER, "split": split, "seed": 0, "sampled": largest, "teacher": options.teacher},
            partial(run_teacher, options, split, largest),
        )
        for seed in options.seeds:
            for size in options.sizes:
                for sampled in sorted(options.sampled):
                    key = {"who": STUDENT, "split": split, "seed": seed, "size": size, "sampled": sampled}
                    key |= {"epochs": options.epochs, "teacher": options.teacher}
                    yield key, partial(run_student, options, key)
                for who in options.beside:
                    key = {"who": who, "split": split, "seed": seed, "size": size, "sampled": 0.0}
                    yield key, partial(run_beside, options, key)


def run_teacher(options: argparse.Namespace, split: int, sampled: float) -> Made:
    """Fine-tune the teacher and let it write."""
    context = context_of(options, split=split, seed=0, sampled=sampled, size=options.sizes[0])
    teacher = teacher_of(options, context, split)
    teacher.check()
    teacher.fine_tune()
    len(teacher.drafts)
    return context, *teacher_line(teacher.context, teacher)


def run_student(options: argparse.Namespace, key: dict[str, Any]) -> Made:
    """Train a student of the split's teacher."""
    context = context_of(options, split=key["split"], seed=key["seed"], sampled=key["sampled"], size=key["size"])
    config = context.config
    if key["epochs"]:
        context = replace(context, config=replace(config, distill=replace(config.distill, epochs=key["epochs"])))
    path, steps = train_student(context, teacher_of(options, context, key["split"]))
    return context, *checkpoint_line(context, path, steps)


def run_beside(options: argparse.Namespace, key: dict[str, Any]) -> Made:
    """Train the same model without a teacher, or as `train` does."""
    if known := taken_over(options, key):
        return known
    context = context_of(options, split=key["split"], seed=key["seed"], sampled=0.0, size=key["size"])
    run = {CONTROL: control_run, USUAL: usual_run}[key["who"]](context)
    return context, *checkpoint_line(context, run.path, train_once(context, run))


def taken_over(options: argparse.Namespace, key: dict[str, Any]) -> Made | None:
    """The model of `train` as benchmarks.quality has measured it with the same split, seed and validation tweets."""
    if not options.usual_from or key["who"] != USUAL:
        return None
    context = context_of(options, split=key["split"], seed=key["seed"], sampled=0.0, size=key["size"])
    num_bytes = context.dataset("val").num_bytes
    for line in read(options.usual_from):
        same = (line["recipe"], line["split"], line["seed"]) == ("small", key["split"], key["seed"])
        if same and line["bytes"] == num_bytes.tolist():
            bits = sum(line["nats"]) / np.log(2) / float(num_bytes.sum())
            found = {"track": TWEETS, "parameters": line["parameters"], "bits_per_byte": bits}
            return context, found, line["nats"]
    return None


def gap_of(
    options: argparse.Namespace, judge: HuggingFace, line: dict[str, Any], references: dict[int, Judgement]
) -> float | None:
    """The fluency gap of a model's tweets at temperature 1. `references`: what was found of each split's tweets."""
    split, size = line["split"], line.get("size", options.sizes[0])
    context = context_of(options, split=split, seed=line["seed"], sampled=line["sampled"], size=size)
    if line["who"] == TEACHER:
        path = teacher_of(options, context, split).path
    else:
        path = context.config.paths.checkpoints / f"{line['who']}.pth"
    if not path.exists():
        return None  # it was taken over
    written = Checkpoint(path, context.device).write(JUDGED, context.config.generate.unshaped(), raw=True)
    lists = {"sampled": judged_tweets("sampled", [Tweet(*each) for each in written])}
    if split not in references:
        lists[VALIDATION] = judged_tweets(VALIDATION, context.corpus.val)
    found = judge_lists(judge, lists, validation=VALIDATION, recipe=None)
    if VALIDATION in found:
        references[split] = found[VALIDATION]
    gap = fluency_gap(found["sampled"], references[split])
    return gap["difference"] if gap else None


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The Markdown table: means over the runs of each model, with the standard deviation of the bits per byte."""
    rows = []
    for who, size, sampled, passes in sorted({kind_of(line) for line in lines}):
        runs = [line for line in lines if kind_of(line) == (who, size, sampled, passes)]
        bits = np.array([run["bits_per_byte"] for run in runs])
        row = [f"{NAMES[who]} {size.replace('x', ' x ')}".strip(), f"{sampled:g}" if who == STUDENT else ""]
        row += [
            str(passes or ""),
            runs[0]["track"],
            f"{np.mean([run['parameters'] for run in runs]) / 1e6:.1f} M",
            str(len(runs)),
        ]
        row += [
            f"{bits.mean():.3f}" + (f" ± {bits.std(ddof=1):.3f}" if len(bits) > 1 else ""),
            against_usual(runs, lines),
        ]
        row += [mean_of(runs, "fluency_gap", "+.2f"), mean_of(runs, "stop_rate", ".1%")]
        rows.append([*row, mean_of(runs, "exact_copies", ".1%"), mean_of(runs, "tokens_per_second", ",.0f")])
    return as_table(HEADS, rows)


def kind_of(line: dict[str, Any]) -> tuple[str, str, float, int]:
    """Who it is, its size, the written tweets for each real one, and the passes of a student: a row of the table."""
    return line["who"], line.get("size", ""), line["sampled"], line.get("passes") or 0


def mean_of(runs: Sequence[dict[str, Any]], key: str, form: str) -> str:
    """The mean of a figure over the runs that have it."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{np.mean(values):{form}}" if values else ""


def against_usual(runs: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> str:
    """Bits per byte less than `train`'s model of the same split and seed, with the interval over all their tweets."""
    usual = {(line["split"], line["seed"]): line for line in lines if line["who"] == USUAL}
    pairs = [(run, usual[run["split"], run["seed"]]) for run in runs if (run["split"], run["seed"]) in usual]
    if not pairs or runs[0]["who"] == USUAL:
        return ""
    nats, other = (np.concatenate([pair[place]["nats"] for pair in pairs]) for place in (0, 1))
    num_bytes = np.concatenate([pair[0]["num_bytes"] for pair in pairs])
    found = paired_difference(other, nats, num_bytes)
    return f"{found['difference']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


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
    parser.add_argument("--sizes", nargs="+", default=["2x256"], help="layers x width of the students")
    parser.add_argument("--epochs", type=int, help="of the students; left out: distill.epochs")
    parser.add_argument("--beside", nargs="*", default=[USUAL, CONTROL], help="models without a teacher")
    parser.add_argument("--usual-from", type=Path, help="quality.jsonl of benchmarks.quality: `train` is not run again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("teacher.jsonl"))
    parser.add_argument("flags", nargs="*", help="settings for distill, after --")
    print(table(run_all(parser.parse_args())))


if __name__ == "__main__":
    main()
