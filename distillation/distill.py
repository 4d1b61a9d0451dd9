"""`python main.py distill`: trains a student with several teachers, and compares it with the same model without any.

    usual, control, ensemble -> teachers -> tweets they write -> student -> table

Every model goes through the one training loop. The student reads the real tweets and, for each of them, several tweets
that the teachers wrote. At every position it learns the teachers' probabilities. Finished models are kept, so an
interrupted `distill` goes on where it stopped (distillation/runs.py).
"""

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
from distillation.pretrained import PretrainedTeacher
from distillation.report import conclusions, draw_differences, print_table
from distillation.runs import DistillContext, TrainingRun, load_if_fresh, set_up, steps_by_train, train_once
from distillation.teachers import Teachers, check_teachers, make_teachers, member_runs, write_tweets
from distillation.workers import train_all
from evaluation import metrics
from evaluation.evaluate import write_json, write_samples
from evaluation.subject import Checkpoint
from generate.copies import CopyCheck
from model.checkpoint import save_checkpoint
from model.hub import SMOLLM2, missing_packages
from model.language_model import LanguageModel
from model.ngram import Floats
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.job import Objective, say
from trainer.losses import distillation
from trainer.score import score
from utils.lock import only_run
from utils.preprocess import Corpus, Tweet, load_processed


def student_inputs(teachers: Teachers | PretrainedTeacher, generation: int) -> dict[str, Any]:
    """What a student's fingerprint holds: all of `distill`, and a checksum of every checkpoint that teaches."""
    settings = teachers.context.config.distill
    if isinstance(teachers, PretrainedTeacher):
        return {**asdict(settings), "workers": 0, "teacher": teachers.run.fingerprint}
    paths = [Path(name) for name in settings.teachers if name not in KINDS]
    paths += [teachers.chain] if "chain" in settings.teachers else []
    files = {str(path): zlib.crc32(path.read_bytes()) for path in paths if path.is_file()}
    used = {key: value for key, value in asdict(settings).items() if key != "workers"}
    return {**used, "generation": generation, "files": files}


def written_tweets(context: DistillContext, teachers: Teachers, generation: int) -> list[Tweet]:
    """Tweets by the teachers, `distill.sampled` for each real one. They are written once and kept in a file."""
    config = context.config
    inputs = student_inputs(teachers, generation)
    for key in ("epochs", "batch_size", "weight", "temperature", "dropout", "sampled_soft"):
        del inputs[key]  # the written tweets do not depend on it
    path = config.paths.checkpoints / "teachers" / "written.pth"
    fingerprint = context.fingerprint(replace(config, train=replace(config.train, seed=0)), distill=inputs)
    if found := load_if_fresh(path, fingerprint):
        return [Tweet(text, True) for text in found["texts"]]
    written = write_tweets(teachers, round(config.distill.sampled * len(context.corpus.train)))
    save_checkpoint(path, {"texts": [tweet.text for tweet in written], "info": {"fingerprint": fingerprint}})
    return written


def student_objective(context: DistillContext, teachers: Teachers, generation: int, real: TweetDataset) -> Objective:
    """The real tweets and those the teachers wrote, with the teachers' probabilities."""
    settings = context.config.distill
    written = written_tweets(context, teachers, generation) if settings.sampled else []
    dataset = TweetDataset.encode(  # only real tweets show how frequent a token is
        [*context.corpus.train, *written],
        context.tokenizer,
        context.vocabulary,
        context.config.model.block_size,
        counted_in=real,
    )
    say(f"Computing the probabilities of the {teachers.name} at {dataset.num_predictions:,} positions")
    weight = torch.full((dataset.num_predictions,), 1.0 if settings.sampled_soft else 0.0)
    weight[: real.num_predictions] = settings.weight
    loss = distillation(teachers.cache(dataset), weight=weight, temperature=settings.temperature)
    return Objective(dataset, loss)


def train_student(
    context: DistillContext, teachers: Teachers | PretrainedTeacher, generation: int = 1
) -> tuple[Path, int]:
    """Train the model of the settings with the teachers, who replace the n-gram of train.ngram_weight.

    Returns:
        Its checkpoint, and the steps it was trained.
    """
    config, settings = context.config, context.config.distill
    recipe = replace(
        config.train,
        ngram_weight=0.0,
        epochs=settings.epochs,
        batch_size=settings.student_batch_size,
        muon=settings.student_muon,
        output_dropout=settings.dropout,
    )
    own = replace(config, train=recipe, model=replace(config.model, dropout=settings.dropout))
    last = generation == settings.generations
    path = config.paths.checkpoints / ("student.pth" if last else f"student_{generation}.pth")
    log = config.paths.results / ("distill_metrics.jsonl" if last else f"distill_{generation}_metrics.jsonl")

    track, models = teachers.origin()
    info = {"track": track, "outside_models": models}
    fingerprint = context.fingerprint(own, distill=student_inputs(teachers, generation))
    planned = TrainingRun(own, context.corpus, path, log, fingerprint, info)
    if isinstance(teachers, PretrainedTeacher):
        return path, train_once(context, planned, teachers.objective, vocabulary=lambda: teachers.vocabulary)
    return path, train_once(context, planned, lambda real: student_objective(context, teachers, generation, real))


def usual_run(context: DistillContext) -> TrainingRun:
    """The training run of `train`, under another name."""
    config, path = context.config, context.config.paths.checkpoints / "usual.pth"
    log = config.paths.results / "usual_metrics.jsonl"
    return TrainingRun(config, context.corpus, path, log, context.fingerprint(config))


def control_run(context: DistillContext) -> TrainingRun:
    """The same model without any teacher: cross-entropy alone, without the n-gram of train.ngram_weight."""
    config, path = context.config, context.config.paths.checkpoints / "control.pth"
    alone = replace(config, train=replace(config.train, ngram_weight=0.0))
    log = config.paths.results / "control_metrics.jsonl"
    return TrainingRun(alone, context.corpus, path, log, context.fingerprint(alone))


def train_untaught(context: DistillContext) -> dict[str, tuple[Path, int]]:
    """Train the models that need no teacher: `usual` (if it is needed), `control`, and the ensemble's members.

    Returns:
        The checkpoint of `usual` and of `control`, and the steps each was trained. For `usual` the model that `train`
        left is used, if it is finished and was made with the same settings.
    """
    config, runs = context.config, {}
    made: dict[str, tuple[Path, int]] = {}
    if config.train.ngram_weight or "chain" in config.distill.teachers:
        if steps := steps_by_train(context):
            made["usual"] = config.paths.checkpoints / "best_model.pth", steps
            say(f"Using {made['usual'][0]} again: it was made with these settings from these tweets")
        else:
            runs["usual"] = usual_run(context)
    runs["control"] = control_run(context)
    members = member_runs(context) if "ensemble" in config.distill.teachers else []
    steps_of = train_all(context, [*runs.values(), *members])
    return made | {name: (planned.path, steps_of[planned.path]) for name, planned in runs.items()}


def table_line(
    model: LanguageModel, name: str, val: TweetDataset, *, track: str, **more: Any
) -> tuple[dict[str, Any], Floats]:
    """A line of the table, and the nats that each validation tweet costs, (tweets,)."""
    started = time.perf_counter()
    scores = score(model, val)
    seconds = time.perf_counter() - started
    line = {
        "name": name,
        "track": track,
        "parameters": model.num_parameters(),
        "bits_per_byte": scores.bits_per_byte,
        "tokens_per_second": val.num_predictions / max(seconds, 1e-9),
        **more,
    }
    return line, scores.nats.numpy()


def checkpoint_line(context: DistillContext, path: Path, steps: int) -> tuple[dict[str, Any], Floats]:
    """`table_line` of a checkpoint, with figures of the tweets that it writes."""
    subject = Checkpoint(path, context.device)
    model, vocabulary = subject.bundle.model, subject.bundle.vocabulary
    val = TweetDataset.encode(context.corpus.val, context.tokenizer, vocabulary, model.config.block_size)
    line, nats = table_line(model, str(path), val, track=subject.track, steps=steps)
    samples = write_samples(subject, context.config, context.tokenizer, say, raw=True)
    return line | sample_figures(context, samples), nats


def teacher_line(context: DistillContext, teacher: PretrainedTeacher) -> tuple[dict[str, Any], Floats]:
    """`table_line` of a pretrained teacher, with figures of the tweets it wrote for the student."""
    block_size = teacher.model.config.block_size
    val = TweetDataset.encode(context.corpus.val, context.tokenizer, Vocabulary.full(), block_size)
    line, nats = table_line(teacher.model, teacher.name, val, track=teacher.origin()[0])
    texts, ended = teacher.samples(context.config.evaluate.samples)
    return line | sample_figures(context, metrics.as_written(texts, ended, context.tokenizer)), nats


def sample_figures(context: DistillContext, samples: list[metrics.Written]) -> dict[str, float]:
    """How many of these tweets ended, and how many are copies; nothing if there are none."""
    if not samples:
        return {}
    corpus = context.corpus
    texts, ended = [tweet.text for tweet in corpus.val], [tweet.finished for tweet in corpus.val]
    real = metrics.as_written(texts, ended, context.tokenizer)
    copied = metrics.copying(samples, real, CopyCheck([tweet.text for tweet in corpus.train]))
    kept = {key: copied[key] for key in ("exact_copies", "ngram8_in_train", "real_ngram8_in_train")}
    return {"stop_rate": metrics.stopping(samples, real)["stop_rate"], **kept}


Lines = dict[str, dict[str, Any]]
Costs = dict[str, Floats]


def with_pretrained(context: DistillContext, name: str) -> tuple[Lines, Costs]:
    """The lines of the table where a pretrained model teaches. It is fine-tuned first, because it can write, too."""
    teacher = PretrainedTeacher(context, name)
    teacher.check()
    teacher.fine_tune()
    say(f"The teacher writes tweets already: python main.py generate --paths.checkpoint {teacher.path}")
    lines, costs = {}, {}
    untaught = train_untaught(context)
    for made in ("control", "usual") if context.config.train.ngram_weight else ("control",):
        lines[made], costs[made] = checkpoint_line(context, *untaught[made])
    path, steps = train_student(context, teacher)
    lines["student"], costs["student"] = checkpoint_line(context, path, steps)
    lines["teacher"], costs["teacher"] = teacher_line(context, teacher)
    return lines, costs


def with_own(context: DistillContext) -> tuple[Lines, Costs]:
    """The lines of the table where models of ours and n-grams teach."""
    config = context.config
    check_teachers(context)
    lines, costs = {}, {}
    untaught = train_untaught(context)
    chain = untaught["usual"][0] if "usual" in untaught else config.paths.best_model
    teachers = make_teachers(context, chain)
    for name in ("control", "usual") if config.train.ngram_weight else ("control",):
        lines[name], costs[name] = checkpoint_line(context, *untaught[name])
    val = context.dataset("val")
    for generation in range(1, config.distill.generations + 1):
        if generation > 1:
            teachers = make_teachers(context, chain)
        ensemble = teachers.ensemble().to(context.device)
        lines["teacher"], costs["teacher"] = table_line(ensemble, teachers.name, val, track=teachers.origin()[0])
        with_teacher, without = (lines[name]["bits_per_byte"] for name in ("teacher", "control"))
        if with_teacher >= without:
            say(
                f"The teacher ({with_teacher:.3f} bits per byte) is no better than the model without a teacher "
                f"({without:.3f}), so there is little to learn from it. Training the student all the same."
            )
        chain, steps = train_student(context, teachers, generation)
    lines["student"], costs["student"] = checkpoint_line(context, chain, steps)
    return lines, costs


def distill(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Train the teachers, the students and the models without a teacher; returns the table and its verdict.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; all is saved.
        UserError: there are too few tweets, or a teacher does not fit.
    """
    started = time.perf_counter()
    context = set_up(choose_teacher(config), corpus)
    name = context.config.distill.pretrained
    lines, costs = with_pretrained(context, name) if name else with_own(context)
    num_bytes = context.dataset("val").num_bytes.double().numpy()
    for made in lines.keys() - {"control"}:
        lines[made]["against_control"] = metrics.paired_difference(costs[made], costs["control"], num_bytes)
    if "usual" in lines:
        lines["student"]["against_usual"] = metrics.paired_difference(costs["student"], costs["usual"], num_bytes)
    split = {key: corpus.info["split"][key] for key in ("train", "val", "hash")}
    for made in lines:
        lines[made]["nats"] = costs[made].tolist()  # of each validation tweet
    settings = asdict(context.config.distill)
    result = {**lines, "split": split, "samples": config.evaluate.samples, "settings": settings}
    result["seconds"] = time.perf_counter() - started
    return {**result, "verdict": conclusions(result)}


def choose_teacher(config: Config) -> Config:
    """The settings with the teacher that `auto` stands for on this machine."""
    if config.distill.teachers != ["auto"]:
        return config
    teacher: list[str] | str = SMOLLM2
    if missing := missing_packages():
        teacher = ["ensemble", "ngram"]
        say(f"An ensemble teaches. A pretrained teacher is much better: `make distill` installs it ({missing})")
    return replace(config, distill=replace(config.distill, teacher=teacher))


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py distill`."""
    corpus, folder = load_processed(config.paths), config.paths.results
    with only_run(config.paths.checkpoints):
        result = distill(config, corpus)
        write_json(folder / "distillation.json", result)
        draw_differences(result, folder / "distillation.png")
    print_table(result)
    say(f"Wrote {folder / 'distillation.json'} and distillation.png")


if __name__ == "__main__":
    sys.exit(run_command("distill", sys.argv[1:]))
