"""What the runs of a distillation share: each makes a checkpoint, once.

What is finished is kept and used again if it was made with the same settings from the same tweets, so an interrupted
run goes on where it stopped, at whatever run.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from config.schema import Config, UserError
from model.checkpoint import config_from_dict, load_bundle, load_checkpoint, save_checkpoint
from model.device import choose_device
from model.tokenizer import Tokenizer, load_tokenizer
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.job import Lesson, prepare, say, so_far
from trainer.train import Interrupted, Trainer
from utils.files import atomic_write
from utils.preprocess import Corpus
from utils.run_log import RunLog

GOES_ON = "all is saved: the same `python main.py distill` goes on from here"
FREE = ("resume", "sample_every", "save_minutes", "accumulate")  # settings of `train` that do not change what is learnt


@dataclass(frozen=True)
class DistillContext:
    """What all runs share; `made` are the checkpoints made or found since the command began."""

    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    device: torch.device
    made: set[Path] = field(default_factory=set)

    def rows(self, side: str) -> TweetDataset:
        """The tweets of one side, encoded as the student reads them."""
        tweets = self.corpus.train if side == "train" else self.corpus.val
        return TweetDataset.encode(tweets, self.tokenizer, self.vocabulary, self.config.model.block_size)

    def fingerprint(self, config: Config, **more: Any) -> str:
        """All that a run's result depends on, as one line."""
        train = {key: value for key, value in asdict(config.train).items() if key not in FREE}
        split = self.corpus.info["split"]["hash"]
        return json.dumps({"model": asdict(config.model), "train": train, "split": split, **more}, sort_keys=True)


def set_up(config: Config, corpus: Corpus) -> DistillContext:
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
    return DistillContext(config, corpus, tokenizer, vocabulary, choose_device(config.machine))


def load_if_fresh(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What the checkpoint at `path` holds, if there is one and it was made so."""
    content = load_checkpoint(path) if path.is_file() else {}
    return content if content.get("info", {}).get("fingerprint") == fingerprint else None


def made_by_train(context: DistillContext) -> int | None:
    """The steps of the run that `train` left, if it is finished and was made with these settings from these tweets.

    A run that went on at another learning rate (train.resume) is nobody's settings: it is not used.
    """
    best, last = context.config.paths.checkpoints / "best_model.pth", context.config.paths.last_model
    if not (best.is_file() and last.is_file()):
        return None
    run, bundle = load_checkpoint(last), load_bundle(best, context.device)
    state, split = run.get("state", {}), context.corpus.info["split"]["hash"]
    ended = state.get("stopped_early") or state.get("epoch") == context.config.train.epochs
    belongs = state.get("best_epoch") == bundle.info.get("epoch")
    same = bundle.info.get("split_hash") == run.get("split_hash") == split and not state.get("rate_changed")
    if not (ended and belongs and same):
        return None
    found = {context.fingerprint(config) for config in (bundle.config, config_from_dict(run["config"], last))}
    return int(state["step"]) if found == {context.fingerprint(context.config)} else None


@dataclass(frozen=True)
class TrainingRun:
    """A model to be made.

    Attributes:
        config, corpus: of this model. Its vocabulary is that of the context, or GPT-2's whole one if it asks for it.
        path: where it goes.
        log: where its measurements go.
        fingerprint: what it depends on, see `DistillContext.fingerprint`.
    """

    config: Config
    corpus: Corpus
    path: Path
    log: Path
    fingerprint: str


def steps_made(context: DistillContext, run: TrainingRun) -> int | None:
    """The steps that the run's model was trained, if it is there and was made so; this is told once."""
    found = load_if_fresh(run.path, run.fingerprint)
    if found and run.path not in context.made:
        say(f"Using {run.path} again: it was made with these settings from these tweets")
        context.made.add(run.path)
    return int(found["info"]["steps"]) if found else None


def train_once(
    context: DistillContext, run: TrainingRun, lesson: Callable[[TweetDataset], Lesson] | None = None
) -> int:
    """Make the run's model unless it is there, or go on with an interrupted run; returns the steps trained.

    Args:
        lesson: see trainer.job.prepare; None: the tweets, with the loss of the settings.
    """
    if (steps := steps_made(context, run)) is not None:
        return steps
    path, fingerprint = run.path, run.fingerprint
    folder = path.with_suffix(".training")
    mark, last = folder / "fingerprint.json", folder / "last_model.pth"
    resume = last.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_write(mark) as temporary:
            temporary.write_text(fingerprint, encoding="utf-8")
    state = load_checkpoint(last)["state"] if resume else None
    records = RunLog(run.log, keep=so_far(state) if state else None)
    config = replace(run.config, train=replace(run.config.train, resume=resume, sample_every=0))
    vocabulary = None if config.model.vocabulary == "full" else context.vocabulary
    job = prepare(config, run.corpus, vocabulary=vocabulary, folder=folder, log=records, lesson=lesson)
    trainer = Trainer(job)
    if resume:
        trainer.resume()
    say(
        f"Training {path} on {len(job.train.num_bytes):,} tweets" + (f", from step {state['step']} on" if state else "")
    )
    try:
        trainer.fit()
    except Interrupted:
        raise Interrupted(GOES_ON) from None
    content = load_checkpoint(folder / "best_model.pth")
    content["info"] |= {"fingerprint": fingerprint, "steps": trainer.state.step}
    save_checkpoint(path, content)
    shutil.rmtree(folder)
    context.made.add(path)
    return trainer.state.step
