"""`python main.py distill`: a student taught by several models, beside the same student taught by the tweets alone.

    usual, control, ensemble -> teachers -> tweets they write -> student -> table

Every model goes through the one training loop. The student reads the real tweets and, for each, several that the
teachers wrote, and learns at every place what the teachers expect there. What is finished is kept, so an interrupted
run goes on where it stopped (distillation/runs.py).
"""

import json
import sys
import time
import zlib
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from config.cli import run_command
from config.schema import TEACHERS as KINDS
from config.schema import Config
from distillation.report import draw, show, verdict
from distillation.runs import DistillContext, TrainingRun, load_if_fresh, made_by_train, set_up, train_once
from distillation.teachers import Teachers, check_teachers, make_teachers, member_stages, write_tweets
from distillation.workers import train_all
from evaluation import metrics as measures
from evaluation.evaluate import Checkpoint, plain, write_samples
from evaluation.metrics import Floats
from generate.copies import CopyCheck
from model.checkpoint import save_checkpoint
from model.ensemble import Ensemble
from model.transformer import GPT
from trainer.batches import TweetDataset
from trainer.job import Lesson, say
from trainer.losses import distillation
from trainer.score import score
from utils.files import atomic_write
from utils.lock import only_run
from utils.preprocess import Corpus, Tweet, load_processed


def teaching(teachers: Teachers, generation: int) -> dict[str, Any]:
    """All of `distill` that a student's result depends on, and a checksum of each checkpoint that teaches."""
    settings = teachers.context.config.distill
    paths = [Path(name) for name in settings.teachers if name not in KINDS]
    paths += [teachers.chain] if "chain" in settings.teachers else []
    files = {str(path): zlib.crc32(path.read_bytes()) for path in paths if path.is_file()}
    taught_by = {key: value for key, value in asdict(settings).items() if key != "workers"}
    return {**taught_by, "generation": generation, "files": files}


def written_tweets(context: DistillContext, teachers: Teachers, generation: int) -> list[Tweet]:
    """Tweets by the teachers, `distill.sampled` for each real one; written once and kept."""
    config = context.config
    made = teaching(teachers, generation)
    for key in ("epochs", "batch_size", "weight", "temperature", "dropout", "sampled_soft"):
        del made[key]
    path = config.paths.checkpoints / "teachers" / "written.pth"
    fingerprint = context.fingerprint(replace(config, train=replace(config.train, seed=0)), distill=made)
    if found := load_if_fresh(path, fingerprint):
        return [Tweet(text, True) for text in found["texts"]]
    written = write_tweets(teachers, round(config.distill.sampled * len(context.corpus.train)))
    save_checkpoint(path, {"texts": [tweet.text for tweet in written], "info": {"fingerprint": fingerprint}})
    return written


def train_student(context: DistillContext, teachers: Teachers, generation: int) -> tuple[Path, int]:
    """The student: the model of the settings, taught; the n-gram of train.ngram_weight is left to the teachers.

    Returns:
        Its checkpoint, and the steps it was trained.
    """
    config, settings = context.config, context.config.distill
    recipe = replace(
        config.train,
        ngram_weight=0.0,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        output_dropout=settings.dropout,
    )
    own = replace(config, train=recipe, model=replace(config.model, dropout=settings.dropout))
    last = generation == settings.generations
    path = config.paths.checkpoints / ("student.pth" if last else f"student_{generation}.pth")
    log = config.paths.results / ("distill_metrics.jsonl" if last else f"distill_{generation}_metrics.jsonl")

    def lesson(real: TweetDataset) -> Lesson:
        written = written_tweets(context, teachers, generation) if settings.sampled else []
        tweets = [*context.corpus.train, *written]
        # counted in the real tweets: what the teachers write is no evidence that a token is frequent
        dataset = TweetDataset.encode(
            tweets, context.tokenizer, context.vocabulary, config.model.block_size, counted_in=real
        )
        say(f"Asking the {teachers.name} what it expects at {dataset.num_predictions:,} places")
        weight = torch.full((dataset.num_predictions,), 1.0 if settings.sampled_soft else 0.0)
        weight[: real.num_predictions] = settings.weight
        loss = distillation(teachers.memory(dataset), weight=weight, temperature=settings.temperature)
        return Lesson(dataset, loss)

    fingerprint = context.fingerprint(own, distill=teaching(teachers, generation))
    return path, train_once(context, TrainingRun(own, context.corpus, path, log, fingerprint), lesson)


def usual_stage(context: DistillContext) -> TrainingRun:
    """What `train` makes."""
    config, path = context.config, context.config.paths.checkpoints / "usual.pth"
    log = config.paths.results / "usual_metrics.jsonl"
    return TrainingRun(config, context.corpus, path, log, context.fingerprint(config))


def control_stage(context: DistillContext) -> TrainingRun:
    """The same model, taught by nobody: cross-entropy alone, not even the n-gram of train.ngram_weight."""
    config, path = context.config, context.config.paths.checkpoints / "control.pth"
    alone = replace(config, train=replace(config.train, ngram_weight=0.0))
    log = config.paths.results / "control_metrics.jsonl"
    return TrainingRun(alone, context.corpus, path, log, context.fingerprint(alone))


def train_untaught(context: DistillContext) -> dict[str, tuple[Path, int]]:
    """The models that need no teacher: `usual` (where it is asked for), `control`, and the members of an ensemble.

    Returns:
        The checkpoint of `usual` and `control`, and the steps each was trained. `usual` is the one that `train` left,
        if it is finished and was made so.
    """
    config, runs = context.config, {}
    made: dict[str, tuple[Path, int]] = {}
    if config.train.ngram_weight or "chain" in config.distill.teachers:
        if steps := made_by_train(context):
            made["usual"] = config.paths.checkpoints / "best_model.pth", steps
            say(f"Using {made['usual'][0]} again: it was made with these settings from these tweets")
        else:
            runs["usual"] = usual_stage(context)
    runs["control"] = control_stage(context)
    members = member_stages(context) if "ensemble" in config.distill.teachers else []
    steps_of = train_all(context, [*runs.values(), *members])
    return made | {who: (run.path, steps_of[run.path]) for who, run in runs.items()}


def scored(model: GPT | Ensemble, name: str, rows: TweetDataset, **more: Any) -> tuple[dict[str, Any], Floats]:
    """A line of the table, and the nats that each validation tweet costs, (tweets,)."""
    started = time.perf_counter()
    scores = score(model, rows, model.wte.weight.device)
    seconds = time.perf_counter() - started
    line = {
        "name": name,
        "parameters": model.num_parameters(),
        "bits_per_byte": scores.bits_per_byte,
        "tokens_per_second": rows.num_predictions / max(seconds, 1e-9),
        **more,
    }
    return line, scores.nats.numpy()


def model_line(context: DistillContext, path: Path, steps: int) -> tuple[dict[str, Any], Floats]:
    """The line of one of our models, with what it writes, and the nats of each validation tweet, (tweets,)."""
    subject, corpus = Checkpoint(path, context.device), context.corpus
    val = TweetDataset.encode(
        corpus.val, context.tokenizer, subject.bundle.vocabulary, subject.bundle.model.config.block_size
    )
    line, nats = scored(subject.bundle.model, str(path), val, steps=steps)
    if samples := write_samples(subject, context.config, context.tokenizer):
        texts, ended = [tweet.text for tweet in corpus.val], [tweet.finished for tweet in corpus.val]
        real = measures.as_written(texts, ended, context.tokenizer)
        train_texts = [tweet.text for tweet in corpus.train]
        copied = measures.copying(samples, real, CopyCheck(train_texts, context.tokenizer.encode_batch(train_texts)))
        line["stop_rate"] = measures.stopping(samples, real)["stop_rate"]
        line |= {key: copied[key] for key in ("exact_copies", "ngram8_in_train", "real_ngram8_in_train")}
    return line, nats


def distill(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Teachers, students, those without a teacher, and the table that tells whether it was worth it.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; all is saved.
        UserError: there are too few tweets, or a teacher can't teach.
    """
    context = set_up(config, corpus)
    check_teachers(context)
    lines, costs = {}, {}
    untaught = train_untaught(context)
    chain = untaught["usual"][0] if "usual" in untaught else config.paths.best_model
    teachers = make_teachers(context, chain)
    for who in ("control", "usual") if config.train.ngram_weight else ("control",):
        lines[who], costs[who] = model_line(context, *untaught[who])
    for generation in range(1, config.distill.generations + 1):
        if generation > 1:
            teachers = make_teachers(context, chain)
        ensemble = teachers.ensemble().to(context.device)
        lines["teacher"], costs["teacher"] = scored(ensemble, teachers.name, context.rows("val"))
        taught, alone = (lines[who]["bits_per_byte"] for who in ("teacher", "control"))
        if taught >= alone:
            say(
                f"The teacher ({taught:.3f} bits per byte) is no better than the student without one ({alone:.3f}): "
                "there is little to be learnt from it. Going on."
            )
        chain, steps = train_student(context, teachers, generation)
    lines["student"], costs["student"] = model_line(context, chain, steps)
    num_bytes = context.rows("val").num_bytes.double().numpy()
    for who in lines.keys() - {"control"}:
        lines[who]["against_control"] = measures.paired_difference(costs[who], costs["control"], num_bytes)
    if "usual" in lines:
        lines["student"]["against_usual"] = measures.paired_difference(costs["student"], costs["usual"], num_bytes)
    split = {key: corpus.info["split"][key] for key in ("train", "val", "hash")}
    for who in lines:
        lines[who]["nats"] = costs[who].tolist()  # of each validation tweet
    result = {**lines, "split": split, "samples": config.evaluate.samples, "settings": asdict(config.distill)}
    return {**result, "verdict": verdict(result)}


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py distill`."""
    corpus, folder = load_processed(config.paths), config.paths.results
    with only_run(config.paths.checkpoints):
        result = distill(config, corpus)
        with atomic_write(folder / "distillation.json") as temporary:
            temporary.write_text(json.dumps(plain(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draw(result, folder / "distillation.png")
    show(result)
    say(f"Wrote {folder / 'distillation.json'} and distillation.png")


if __name__ == "__main__":
    sys.exit(run_command("distill", sys.argv[1:]))
