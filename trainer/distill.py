"""`python main.py distill`: a student taught by several models, beside the same student taught by the tweets alone.

    members of the ensemble -> soft targets -> control -> student -> table

Every model goes through the one training loop. What is finished is kept and used again if it was made with the same
settings from the same tweets, so an interrupted run goes on where it stopped, at whatever stage.
"""

import json
import math
import shutil
import sys
import time
import zlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from config.cli import run_command
from config.schema import TEACHERS as KINDS
from config.schema import Config, UserError
from generate.copies import CopyCheck
from model.checkpoint import load_bundle, load_checkpoint, save_checkpoint
from model.device import choose_device
from model.ngram import NGram
from model.soft_targets import SoftTargets
from model.tokenizer import Tokenizer, load_tokenizer
from model.vocabulary import Vocabulary
from trainer import measures
from trainer.batches import Rows
from trainer.distill_report import draw, show, verdict
from trainer.evaluate import Checkpoint, plain, say, write_samples
from trainer.losses import Loss, distillation
from trainer.measures import Floats
from trainer.prepare import NGRAM_ORDER, framed_ids, prepare
from trainer.score import score
from trainer.teachers import Ensemble, KneserNey, Mixture, Teacher, fold_of, soften, unigram_rows
from trainer.train import Interrupted, Trainer
from utils.files import atomic_write
from utils.preprocess import Corpus, load_processed
from utils.run_log import RunLog

FREE = ("resume", "sample_every", "save_minutes")  # settings of `train` that do not change what is learnt
PARTS = ("rows", "probs", "tail", "base")  # of SoftTargets


@dataclass(frozen=True)
class Setting:
    """What all stages share."""

    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    device: torch.device

    def rows(self, side: str) -> Rows:
        """The tweets of one side, encoded as the student reads them."""
        tweets = self.corpus.train if side == "train" else self.corpus.val
        return Rows.encode(tweets, self.tokenizer, self.vocabulary, self.config.model.block_size)

    def made_with(self, config: Config, **more: Any) -> str:
        """All that a stage's result depends on, as one line."""
        train = {key: value for key, value in asdict(config.train).items() if key not in FREE}
        split = self.corpus.info["split"]["hash"]
        return json.dumps({"model": asdict(config.model), "train": train, "split": split, **more}, sort_keys=True)

    def teaching(self) -> dict[str, Any]:
        """The settings of `distill`, and a checksum of each checkpoint that teaches."""
        settings = self.config.distill
        files = {name: zlib.crc32(Path(name).read_bytes()) for name in settings.teachers if name not in KINDS}
        return {**asdict(settings), "files": files}


def set_up(config: Config, corpus: Corpus) -> Setting:
    """Tokenizer, and one vocabulary for all.

    Raises:
        UserError: there are too few tweets to measure on, or to divide among the members.
    """
    if len(corpus.val) < 2:
        raise UserError(f"the validation set holds {len(corpus.val)} tweet(s), which tells nothing: preprocess again")
    if config.distill.members > len(corpus.train):
        raise UserError(
            f"distill.members is {config.distill.members}: there are only {len(corpus.train)} training tweets to divide"
        )
    tokenizer = load_tokenizer(config.model.tokenizer)
    texts = [tweet.text for tweet in corpus.train]
    vocabulary = Vocabulary.build(config.model, tokenizer, tokenizer.encode_batch(texts))
    return Setting(config, corpus, tokenizer, vocabulary, choose_device(config.machine))


def made_before(path: Path, made_with: str) -> dict[str, Any] | None:
    """What the checkpoint at `path` holds, if there is one and it was made so."""
    content = load_checkpoint(path) if path.is_file() else {}
    return content if content.get("info", {}).get("made_with") == made_with else None


def train_once(
    setting: Setting,
    config: Config,
    corpus: Corpus,
    *,
    path: Path,
    log: Path,
    made_with: str,
    teach: Loss | None = None,
) -> int:
    """Make `path`, unless it is there and was made so, and go on with an interrupted run; returns the steps trained.

    Args:
        config, corpus: of this model; the vocabulary is that of the setting.
        log: its measurements.
        teach: what to minimise; None: what the settings say.
    """
    if found := made_before(path, made_with):
        say(f"Using {path} again: it was made with these settings from these tweets")
        return int(found["info"]["steps"])
    folder = path.with_suffix(".training")
    mark, last = folder / "made_with.json", folder / "last_model.pth"
    resume = last.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == made_with
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_write(mark) as temporary:
            temporary.write_text(made_with, encoding="utf-8")
    done = load_checkpoint(last)["state"]["step"] if resume else 0
    records = RunLog(log, keep=lambda record: resume and record["step"] <= done)
    config = replace(config, train=replace(config.train, resume=resume))
    job = prepare(config, corpus, vocabulary=setting.vocabulary, folder=folder, log=records)
    job.loss = teach or job.loss
    trainer = Trainer(job)
    if resume:
        trainer.resume()
    say(f"Training {path} on {len(corpus.train):,} tweets" + (f", from step {done} on" if resume else ""))
    try:
        trainer.fit()
    except Interrupted:
        raise Interrupted("all is saved: the same `python main.py distill` goes on from here") from None
    content = load_checkpoint(folder / "best_model.pth")
    content["info"] |= {"made_with": made_with, "steps": trainer.state.step}
    save_checkpoint(path, content)
    shutil.rmtree(folder)
    return trainer.state.step


def ensemble(setting: Setting, base: torch.Tensor) -> Ensemble:
    """The members, each trained or found; cross-fitted (distill.cross_fit), member k has not seen fold k."""
    config, corpus, settings = setting.config, setting.corpus, setting.config.distill
    folds = fold_of(len(corpus.train), settings.members, seed=config.train.seed) if settings.cross_fit else None
    members = []
    for number in range(settings.members):
        recipe = replace(config.train, seed=config.train.seed + 1 + number, epochs=settings.member_epochs)
        own, seen = replace(config, train=recipe), corpus
        if folds is not None:
            tweets = [tweet for tweet, fold in zip(corpus.train, folds.tolist(), strict=True) if fold != number]
            seen = replace(corpus, train=tweets)
        name = f"member_{number + 1}"
        left_out = [number, settings.members, config.train.seed] if folds is not None else None
        path = config.paths.checkpoints / "teachers" / f"{name}.pth"
        train_once(
            setting,
            own,
            seen,
            path=path,
            log=config.paths.results / "teachers" / f"{name}.jsonl",
            made_with=setting.made_with(own, left_out=left_out),
        )
        members.append(load_bundle(path, setting.device).model)
    return Ensemble(members, setting.vocabulary, setting.rows("train"), base, folds)


def checkpoint(setting: Setting, path: Path, base: torch.Tensor) -> Ensemble:
    """A checkpoint of ours as a teacher: an ensemble of one that has seen all tweets.

    Raises:
        UserError: there is none, or it was trained on another split or with another vocabulary or a shorter context.
    """
    bundle, hash_here = load_bundle(path, setting.device), setting.corpus.info["split"]["hash"]
    found = bundle.info.get("split_hash")
    if found != hash_here:
        raise UserError(
            f"distill.teacher {path} was trained on another split ({found}) than this one ({hash_here}), so it may "
            "have seen the validation tweets: train it on this split"
        )
    if not torch.equal(bundle.vocabulary.row_of, setting.vocabulary.row_of):
        raise UserError(f"distill.teacher {path} has another vocabulary: train it with the student's model.vocabulary")
    context, needed = bundle.model.config.block_size, setting.config.model.block_size
    if context < needed:
        raise UserError(f"distill.teacher {path} reads {context} tokens, the student {needed}: lower model.block_size")
    return Ensemble([bundle.model], setting.vocabulary, setting.rows("train"), base, None)


def make_teacher(setting: Setting) -> Mixture:
    """The teachers that `distill.teacher` names."""
    train, val = (framed_ids(side, setting.tokenizer) for side in (setting.corpus.train, setting.corpus.val))
    ngram = NGram.fit(train, NGRAM_ORDER)
    base = unigram_rows(ngram, setting.vocabulary)
    kinds: dict[str, Callable[[], Teacher]] = {
        "ngram": lambda: KneserNey(ngram, setting.vocabulary, train, val),
        "ensemble": lambda: ensemble(setting, base),
    }
    names = setting.config.distill.teachers
    files = {name: checkpoint(setting, Path(name), base) for name in names if name not in kinds}  # refused at once
    teachers = [files[name] if name in files else kinds[name]() for name in names]
    return Mixture(teachers, setting.config.distill.weights or [1.0] * len(names))


def soft_targets(setting: Setting, teacher: Mixture) -> SoftTargets:
    """What the teacher expects at every place of the training tweets; found once and kept."""
    config, settings = setting.config, setting.teaching()
    for key in ("weight", "temperature"):
        del settings[key]
    path, made_with = config.paths.checkpoints / "teachers" / "targets.pth", setting.made_with(config, distill=settings)
    if found := made_before(path, made_with):
        targets = SoftTargets(*(found[part] for part in PARTS))
    else:
        say(f"Asking the {teacher.name} what it expects")
        targets = teacher.targets(config.distill.top_k)
        values = {part: getattr(targets, part) for part in PARTS}
        save_checkpoint(path, {**values, "info": {"made_with": made_with}})
    softened = soften(targets, temperature=config.distill.temperature, top_k=config.distill.top_k)
    return softened.to(setting.device)


def train_student(setting: Setting, teacher: Mixture) -> tuple[Path, int]:
    """The student: the model of the settings, taught; the n-gram of train.ngram_weight is left to the teacher.

    Returns:
        Its checkpoint, and the steps it was trained.
    """
    config = setting.config
    own = replace(config, train=replace(config.train, ngram_weight=0.0))
    path, made_with = config.paths.checkpoints / "student.pth", setting.made_with(own, distill=setting.teaching())
    teach = None
    if not made_before(path, made_with):
        targets = soft_targets(setting, teacher)
        teach = distillation(targets, weight=config.distill.weight, temperature=config.distill.temperature)
    log = config.paths.results / "distill_metrics.jsonl"
    return path, train_once(setting, own, setting.corpus, path=path, log=log, made_with=made_with, teach=teach)


def train_control(setting: Setting) -> tuple[Path, int]:
    """The same student without a teacher: what `train` left if it was made so and is finished, else trained here.

    Returns:
        Its checkpoint, and the steps it was trained.
    """
    config, folder = setting.config, setting.config.paths.checkpoints
    usual, last, made_with = folder / "best_model.pth", folder / "last_model.pth", setting.made_with(config)
    if usual.is_file() and last.is_file():
        run, bundle = load_checkpoint(last), load_bundle(usual, setting.device)
        state = run.get("state", {})
        ended = state.get("stopped_early") or state.get("epoch") == config.train.epochs
        same = bundle.info.get("split_hash") == setting.corpus.info["split"]["hash"] == run.get("split_hash")
        belongs = state.get("best_epoch") == bundle.info.get("epoch")
        if ended and same and belongs and setting.made_with(bundle.config) == made_with:
            say(f"The student without a teacher is {usual}: it was made with these settings from these tweets")
            return usual, state["step"]
    path, log = folder / "control.pth", config.paths.results / "control_metrics.jsonl"
    return path, train_once(setting, config, setting.corpus, path=path, log=log, made_with=made_with)


def teacher_line(setting: Setting, teacher: Mixture) -> tuple[dict[str, Any], Floats]:
    """The teacher's line of the table, and the nats that each validation tweet costs it, (tweets,).

    The members of a cross-fitted ensemble all speak here: none of them has seen validation tweets.
    """
    val = setting.rows("val")
    started = time.perf_counter()
    nats = -teacher.chances(val).log()
    seconds = time.perf_counter() - started
    owner = val.tweet.repeat_interleave(val.lengths)
    costs = torch.zeros(len(val.num_bytes), dtype=torch.float64).index_add_(0, owner, nats).numpy()
    return {
        "name": teacher.name,
        "parameters": teacher.parameters,
        "bits_per_byte": float(costs.sum() / math.log(2) / int(val.num_bytes.sum())),
        "tokens_per_second": val.num_predictions / max(seconds, 1e-9),
    }, costs


def model_line(setting: Setting, path: Path, steps: int) -> tuple[dict[str, Any], Floats]:
    """The line of one of our models, and the nats that each validation tweet costs it, (tweets,)."""
    subject, corpus = Checkpoint(path, setting.device), setting.corpus
    val = Rows.encode(corpus.val, setting.tokenizer, subject.bundle.vocabulary, subject.bundle.model.config.block_size)
    started = time.perf_counter()
    scores = score(subject.bundle.model, subject.bundle.vocabulary, val)
    seconds = time.perf_counter() - started
    line: dict[str, Any] = {
        "name": str(path),
        "parameters": subject.parameters,
        "steps": steps,
        "bits_per_byte": scores.bits_per_byte,
        "tokens_per_second": val.num_predictions / max(seconds, 1e-9),
    }
    if samples := write_samples(subject, setting.config, setting.tokenizer):
        texts, ended = [tweet.text for tweet in corpus.val], [tweet.finished for tweet in corpus.val]
        real = measures.as_written(texts, ended, setting.tokenizer)
        train_texts = [tweet.text for tweet in corpus.train]
        copied = measures.copying(samples, real, CopyCheck(train_texts, setting.tokenizer.encode_batch(train_texts)))
        line["stop_rate"] = measures.stopping(samples, real)["stop_rate"]
        line |= {key: copied[key] for key in ("exact_copies", "ngram8_in_train", "real_ngram8_in_train")}
    return line, scores.nats.numpy()


def distill(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Teachers, control, student, and the table that tells whether it was worth it.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; all is saved.
        UserError: there are too few tweets.
    """
    setting = set_up(config, corpus)
    teacher = make_teacher(setting)
    lines, costs = {}, {}
    lines["teacher"], costs["teacher"] = teacher_line(setting, teacher)
    lines["control"], costs["control"] = model_line(setting, *train_control(setting))
    taught, alone = (lines[who]["bits_per_byte"] for who in ("teacher", "control"))
    if taught >= alone:
        say(
            f"The teacher ({taught:.3f} bits per byte) is no better than the student without one ({alone:.3f}): "
            "there is little to be learnt from it. Going on."
        )
    lines["student"], costs["student"] = model_line(setting, *train_student(setting, teacher))
    num_bytes = setting.rows("val").num_bytes.double().numpy()
    for who in ("teacher", "student"):
        lines[who]["against_control"] = measures.paired_difference(costs[who], costs["control"], num_bytes)
    split = {key: corpus.info["split"][key] for key in ("train", "val", "hash")}
    result = {**lines, "split": split, "samples": config.evaluate.samples, "settings": asdict(config.distill)}
    return {**result, "verdict": verdict(result)}


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py distill`."""
    result, folder = distill(config, load_processed(config.paths)), config.paths.results
    with atomic_write(folder / "distillation.json") as temporary:
        temporary.write_text(json.dumps(plain(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(result, folder / "distillation.png")
    show(result)
    say(f"Wrote {folder / 'distillation.json'} and distillation.png")


if __name__ == "__main__":
    sys.exit(run_command("distill", sys.argv[1:]))
