"""What the stages of a distillation share: each makes a checkpoint, once.

What is finished is kept and used again if it was made with the same settings from the same tweets, so an interrupted
run goes on where it stopped, at whatever stage.
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
from trainer.batches import Rows
from trainer.prepare import Job, prepare, say, so_far
from trainer.train import Interrupted, Trainer
from utils.files import atomic_write
from utils.preprocess import Corpus
from utils.run_log import RunLog

GOES_ON = "all is saved: the same `python main.py distill` goes on from here"
FREE = ("resume", "sample_every", "save_minutes", "accumulate")  # settings of `train` that do not change what is learnt


@dataclass(frozen=True)
class Setting:
    """What all stages share; `made` are the checkpoints made or found since the command began."""

    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    device: torch.device
    made: set[Path] = field(default_factory=set)

    def rows(self, side: str) -> Rows:
        """The tweets of one side, encoded as the student reads them."""
        tweets = self.corpus.train if side == "train" else self.corpus.val
        return Rows.encode(tweets, self.tokenizer, self.vocabulary, self.config.model.block_size)

    def made_with(self, config: Config, **more: Any) -> str:
        """All that a stage's result depends on, as one line."""
        train = {key: value for key, value in asdict(config.train).items() if key not in FREE}
        split = self.corpus.info["split"]["hash"]
        return json.dumps({"model": asdict(config.model), "train": train, "split": split, **more}, sort_keys=True)


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


def made_by_train(setting: Setting) -> int | None:
    """The steps of the run that `train` left, if it is finished and was made with these settings from these tweets.

    A run that went on at another learning rate (train.resume) is nobody's settings: it is not used.
    """
    best, last = setting.config.paths.checkpoints / "best_model.pth", setting.config.paths.last_model
    if not (best.is_file() and last.is_file()):
        return None
    run, bundle = load_checkpoint(last), load_bundle(best, setting.device)
    state, split = run.get("state", {}), setting.corpus.info["split"]["hash"]
    ended = state.get("stopped_early") or state.get("epoch") == setting.config.train.epochs
    belongs = state.get("best_epoch") == bundle.info.get("epoch")
    same = bundle.info.get("split_hash") == run.get("split_hash") == split and not state.get("rate_changed")
    if not (ended and belongs and same):
        return None
    found = {setting.made_with(config) for config in (bundle.config, config_from_dict(run["config"], last))}
    return int(state["step"]) if found == {setting.made_with(setting.config)} else None


@dataclass(frozen=True)
class Stage:
    """A model to be made.

    Attributes:
        config, corpus: of this model. Its vocabulary is that of the setting, or GPT-2's whole one if it asks for it.
        path: where it goes.
        log: where its measurements go.
        made_with: what it depends on, see `Setting.made_with`.
    """

    config: Config
    corpus: Corpus
    path: Path
    log: Path
    made_with: str


def steps_made(setting: Setting, stage: Stage) -> int | None:
    """The steps that the stage's model was trained, if it is there and was made so; this is told once."""
    found = made_before(stage.path, stage.made_with)
    if found and stage.path not in setting.made:
        say(f"Using {stage.path} again: it was made with these settings from these tweets")
        setting.made.add(stage.path)
    return int(found["info"]["steps"]) if found else None


def train_once(setting: Setting, stage: Stage, adapt: Callable[[Job], None] | None = None) -> int:
    """Make the stage's model unless it is there, or go on with an interrupted run; returns the steps trained.

    Args:
        adapt: changes the usual Job: what is read, what is minimised.
    """
    if (steps := steps_made(setting, stage)) is not None:
        return steps
    path, made_with = stage.path, stage.made_with
    folder = path.with_suffix(".training")
    mark, last = folder / "made_with.json", folder / "last_model.pth"
    resume = last.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == made_with
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_write(mark) as temporary:
            temporary.write_text(made_with, encoding="utf-8")
    state = load_checkpoint(last)["state"] if resume else None
    records = RunLog(stage.log, keep=so_far(state) if state else None)
    config = replace(stage.config, train=replace(stage.config.train, resume=resume))
    vocabulary = None if config.model.vocabulary == "full" else setting.vocabulary
    job = prepare(config, stage.corpus, vocabulary=vocabulary, folder=folder, log=records)
    if adapt:
        adapt(job)
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
    content["info"] |= {"made_with": made_with, "steps": trainer.state.step}
    save_checkpoint(path, content)
    shutil.rmtree(folder)
    setting.made.add(path)
    return trainer.state.step
