"""Do the tweets of several models sound like the person? One judge, one table.

    python -m benchmarks.fluency --csv data/elon_tweets.csv --root some/folder
    python -m benchmarks.fluency --csv data/elon_tweets.csv --root some/folder --speed

Models and the tweets they write are kept in --root, which may be the root of a finished `train` or `distill`: what is
there is not made again. The figures of each model (but no text) are written to a JSON-lines file (--out). What is in
the file is not judged again, so the work can be done in parts. --speed measures how long it takes to judge 1,000
tweets. Settings may follow after `--`, such as --evaluate.judge.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import run_peer
from benchmarks.quality import read
from benchmarks.timing import machine
from benchmarks.timing import table as as_table
from config.cli import parse
from config.schema import Config
from distillation.distill import train_student
from distillation.runs import set_up, steps_by_train
from distillation.teachers import make_teachers
from evaluation.baselines import measure_baselines
from evaluation.fine_tune import FineTuning, fine_tune
from evaluation.huggingface import HuggingFace
from evaluation.judge import is_same_model
from evaluation.other_texts import CHITCHAT, read_tweets
from evaluation.outside_ngram import measure_outside_ngram
from evaluation.sound import (
    NGRAM_TWEETS,
    OTHER,
    RAW,
    SAMPLED,
    SHUFFLED,
    TRAINING,
    VALIDATION,
    judged_tweets,
    make_lists,
    measure_lists,
)
from evaluation.subject import Checkpoint, Subject, check_split, open_subject
from evaluation.verdict import percent
from model.checkpoint import model_content, save_checkpoint
from model.device import precision
from model.hub import SMOLLM2
from model.tokenizer import load_tokenizer
from model.tracks import MODEL, TEXT, TWEETS
from trainer.train import train
from utils.files import atomic_write
from utils.preprocess import Corpus, Tweet, preprocess

CPU = torch.device("cpu")
JUDGE = "judge"  # the row of the judge itself, fine-tuned on the training tweets
JUDGE_TWEETS = 1000  # that it writes: it is slow, so there are too few for a reverse n-gram
REFERENCES = "references"  # the row of tweets that no model wrote
REFERENCE_LISTS = (VALIDATION, TRAINING, OTHER, SHUFFLED)
REAL = "real tweets"
SPEED_TWEETS = 1000
NAMES = {
    "defaults": "defaults (`train`)",
    "distilled": "distilled (`distill`)",
    "nanogpt": "nanoGPT's recipe",
    JUDGE: "the judge, fine-tuned on the tweets",
    VALIDATION: "validation tweets",
    TRAINING: "training tweets",
    OTHER: "tweets of another writer",
    SHUFFLED: "training tweets, words shuffled",
}
HEADS = (
    "tweets of",
    "track",
    "bits per byte",
    "fluency gap, temperature 1",
    "fluency gap, settings of `generate`",
    "voice, temperature 1",
    "voice, settings of `generate`",
    "reverse 3-gram",
    "copies",
    "8 words copied",
)


@dataclass(frozen=True)
class Setting:
    """What a model is made from.

    Attributes:
        flags: for `parse`, with the folder of this split.
        judge: opens the judge, or gives the one that is open.
    """

    flags: list[str]
    config: Config
    corpus: Corpus
    seed: int
    judge: Callable[[], HuggingFace]


def make_defaults(setting: Setting) -> Subject:
    """The model of `train`. A seed other than 0 has a folder of its own."""
    root = Path(setting.config.paths.root)
    root = root / f"seed_{setting.seed}" if setting.seed else root
    config = parse("train", [*setting.flags, "--paths.root", str(root), "--train.seed", str(setting.seed)])[0]
    if steps_by_train(set_up(config, setting.corpus)) is None:
        train(config, setting.corpus)
    return Checkpoint(config.paths.best_model, CPU)


def make_distilled(setting: Setting) -> Subject:
    """The student of `distill` whose teachers know nothing but the tweets."""
    flags = [*setting.flags, "--distill.teacher", "[ensemble, ngram]", "--train.seed", str(setting.seed)]
    config = parse("distill", flags)[0]
    context = set_up(config, setting.corpus)
    path, _ = train_student(context, make_teachers(context, config.paths.best_model), generation=1)
    return Checkpoint(path, CPU)


def make_nanogpt(setting: Setting) -> Subject:
    """nanoGPT's recipe, its best epoch."""
    path = setting.config.paths.checkpoints / f"nanogpt_{setting.seed}.pth"
    if not path.is_file():
        bundle = run_peer("nanogpt", setting.config, setting.corpus, seed=setting.seed).bundle
        save_checkpoint(path, model_content(bundle.model, bundle.vocabulary, bundle.config, bundle.info))
    return Checkpoint(path, CPU)


def make_judge(setting: Setting) -> Subject:
    """The judge, after one pass over the training tweets. Before, it writes web pages: hardly any text ends."""
    recipe = FineTuning(epochs=1, batch_size=32, seed=setting.seed, dtype=precision(setting.config.machine, CPU))
    return fine_tune(setting.judge(), setting.corpus.train, recipe)


MAKERS: dict[str, Callable[[Setting], Subject]] = {
    "defaults": make_defaults,
    "distilled": make_distilled,
    "nanogpt": make_nanogpt,
    JUDGE: make_judge,
}


def write(row: str, setting: Setting) -> dict[str, Any]:
    """What a model writes, and how well it predicts; from the folder, if it is there."""
    path = Path(setting.config.paths.root) / "written" / f"{Path(row).name}_{setting.seed}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    subject = MAKERS[row](setting) if row in MAKERS else open_subject(row, setting.config.paths, CPU)
    check_split(subject, setting.corpus, setting.config.paths)
    number = JUDGE_TWEETS if row == JUDGE else min(len(setting.corpus.train), NGRAM_TWEETS)
    draw = setting.config.generate
    judge_name = setting.config.evaluate.judge or SMOLLM2
    taught = any(is_same_model(judge_name, used) for used in subject.outside_models)
    found = {
        "facts": {
            "track": subject.track,
            "parameters": subject.parameters,
            "judged_by": "itself" if row == JUDGE else "its teacher" if taught else None,
            "bits_per_byte": subject.score(setting.corpus.val)[0].bits_per_byte,
        },
        "lists": {
            SAMPLED: subject.write(number, draw.unshaped(), raw=True),
            RAW: subject.write(number, draw, raw=True),
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return found


def read_settings(options: argparse.Namespace) -> tuple[list[str], Config, Corpus]:
    """The settings, as flags and as read, and the tweets."""
    flags = ["--paths.root", str(options.root), "--data.path", str(options.csv), "--data.split_seed"]
    flags += [str(options.split), "--machine.device", "cpu", "--evaluate.judge", SMOLLM2]
    flags += ["--evaluate.outside_text", CHITCHAT, *options.flags]
    config = parse("evaluate", flags)[0]
    return flags, config, preprocess(config)


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Judge what is not in the file yet; returns all records of the file."""
    done = read(options.out)
    asked = [(row, seed) for row in options.rows for seed in options.seeds]
    keys = [{"row": Path(row).name, "split": options.split, "seed": seed} for row, seed in asked]
    known = [any(key.items() <= record.items() for record in done) for key in keys]
    missing = [(row, key) for (row, _), key, is_known in zip(asked, keys, known, strict=True) if not is_known]
    if not missing:
        return done
    flags, config, corpus = read_settings(options)
    judge_name = config.evaluate.judge or SMOLLM2
    judge = lru_cache(lambda: HuggingFace(judge_name, CPU))
    written = [write(row, Setting(flags, config, corpus, key["seed"], judge)) for row, key in missing]
    tokenizer = load_tokenizer()
    lists: dict[str, Sequence[Tweet]] = dict(make_lists(config, corpus, {}).tweets)
    names = {how: [f"{place} {how}" for place in range(len(missing))] for how in (SAMPLED, RAW)}
    for how, of_rows in names.items():
        for name, found in zip(of_rows, written, strict=True):
            lists[name] = [Tweet(text, ended) for text, ended in found["lists"][how]]
    lines = measure_lists(judge(), config, corpus, lists=lists, tokenizer=tokenizer)
    records = [
        {**key, "judge": judge_name, **found["facts"], **{how: lines[names[how][place]] for how in names}}
        for place, ((_, key), found) in enumerate(zip(missing, written, strict=True))
    ]
    key = {"row": REFERENCES, "split": options.split}
    if not any(key.items() <= record.items() for record in done):
        references = {name: lines[name] for name in REFERENCE_LISTS}
        records.insert(0, {**key, "judge": judge_name, **references, **baselines(config, corpus)})
    with options.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return [*done, *records]


def baselines(config: Config, corpus: Corpus) -> dict[str, Any]:
    """The tweets' n-gram, alone and mixed with one of outside text."""
    name = config.evaluate.outside_text or CHITCHAT
    tokenizer = load_tokenizer()
    alone = measure_baselines(corpus.train, corpus.val, tokenizer)
    outside = read_tweets(name, config.data, key="evaluate.outside_text")
    mixed = measure_outside_ngram(corpus.train, corpus.val, outside, tokenizer, order=alone.order)
    return {
        "ngram": {"order": alone.order, "bits_per_byte": alone.bits_per_byte["ngram"]},
        "outside_ngram": {"name": name, **asdict(mixed)},
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of each split: models, best first, then the references."""
    parts = []
    for split in dict.fromkeys(record["split"] for record in records):
        here = [record for record in records if record["split"] == split]
        references = next(record for record in here if record["row"] == REFERENCES)
        models = sorted((r for r in here if r is not references), key=lambda r: r["bits_per_byte"], reverse=True)
        several = {record["row"] for record in models if record["seed"]}
        rows = [model_cells(record, with_seed=record["row"] in several) for record in models]
        rows += [reference_cells(name, references[name]) for name in REFERENCE_LISTS]
        parts.append(f"Split {split}:\n\n{as_table(HEADS, rows)}\n\n{baseline_words(references)}")
    return "\n\n".join(parts)


def model_cells(record: dict[str, Any], *, with_seed: bool) -> list[str]:
    """A model's row: its tweets at temperature 1, and with the settings of `generate`."""
    both = record[SAMPLED], record[RAW]
    name = NAMES.get(record["row"], record["row"]) + (f", seed {record['seed']}" if with_seed else "")
    if record["judged_by"]:
        name += f", judged by {record['judged_by']}"
    return [
        name,
        record["track"],
        f"{record['bits_per_byte']:.3f}",
        *(with_interval(line["fluency_gap"], "difference", "+.2f") for line in both),
        *(with_interval(line["voice"], "value", ".2f") for line in both),
        reverse(both[0]),
        *(f"{percent(both[0][key])}, {percent(both[1][key])}" for key in ("exact_copies", "ngram8_in_train")),
    ]


def reference_cells(name: str, line: dict[str, Any]) -> list[str]:
    """The row of tweets that no model wrote."""
    figures = with_interval(line["fluency_gap"], "difference", "+.2f"), with_interval(line["voice"], "value", ".2f")
    copies = (percent(line[key]) for key in ("exact_copies", "ngram8_in_train"))
    return [NAMES[name], REAL, "", figures[0], "", figures[1], "", reverse(line), *copies]


def with_interval(found: dict[str, float] | None, key: str, form: str) -> str:
    """A figure and its 95% interval; a dash if there is none."""
    return f"{found[key]:{form}} ({found['low']:{form}} to {found['high']:{form}})" if found else "-"


def reverse(line: dict[str, Any]) -> str:
    """The reverse n-gram's figure; a dash if there were too few tweets."""
    return f"{line['reverse_ngram']['bits_per_byte']:.3f}" if line["reverse_ngram"] else "-"


def baseline_words(references: dict[str, Any]) -> str:
    """What stands beside the table: the n-grams, and the judge without training."""
    ngram, mixed = references["ngram"], references["outside_ngram"]
    zero_shot = {name: references[name]["bits_per_byte"] for name in (VALIDATION, TRAINING)}
    return (
        f"{TWEETS}: {ngram['order']}-gram {ngram['bits_per_byte']:.3f} bits per byte. {TEXT}: the same mixed with a "
        f"4-gram of {mixed['texts']:,} texts of {mixed['name']} ({percent(mixed['share'])} of the mixture) "
        f"{mixed['bits_per_byte']:.3f}. {MODEL}: the judge, {references['judge']}, not trained on tweets, "
        f"{zero_shot[VALIDATION]:.3f} on validation tweets and {zero_shot[TRAINING]:.3f} on training tweets."
    )


def measure_speed(options: argparse.Namespace) -> str:
    """How long it takes to judge SPEED_TWEETS tweets, part by part, as a table."""
    _, config, corpus = read_settings(options)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    laps = [("", time.perf_counter(), time.process_time())]

    def lap(name: str) -> None:
        laps.append((name, time.perf_counter(), time.process_time()))

    judge = HuggingFace(config.evaluate.judge or SMOLLM2, CPU)
    lap("loading the judge")
    whole = [tweet for tweet in corpus.train if tweet.finished][:SPEED_TWEETS]
    judge.score(whole)
    lap("fluency")
    recipe = FineTuning(dtype=precision(config.machine, CPU))
    validation = judged_tweets(VALIDATION, corpus.val)
    for half in (0, 1):
        tuned = fine_tune(judge, validation[half::2], recipe)
        lap(f"voice: fine-tuning on half {half + 1} of the validation tweets")
        tuned.score(whole[1 - half :: 2])
        lap(f"voice: reading the half of the tweets that it judges, {half + 1}")
    total = ("all but the loading", *laps[-1][1:])
    rows = [
        (name, f"{clock - clock_before:.1f}", f"{busy - busy_before:.1f}")
        for (_, clock_before, busy_before), (name, clock, busy) in [*pairwise(laps), (laps[1], total)]
    ]
    heading = f"{len(whole):,} tweets, {machine(CPU)}, load before {load:.1f}"
    return f"{heading}\n\n{as_table(('part', 'seconds', 'processor seconds'), rows)}"


def main() -> None:
    """Judge what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("data/elon_tweets.csv"))
    parser.add_argument("--root", type=Path, required=True, help="folder of one split: models and what they wrote")
    parser.add_argument("--rows", nargs="*", default=list(MAKERS), help=f"{', '.join(MAKERS)}, or checkpoints")
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--speed", action="store_true", help="only measure how long judging takes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("fluency.jsonl"))
    parser.add_argument("flags", nargs="*", help="settings, after --")
    options = parser.parse_args()
    print(measure_speed(options) if options.speed else table(run_all(options)))


if __name__ == "__main__":
    main()
