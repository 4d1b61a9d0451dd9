"""The training runs of a distillation: each makes one checkpoint, once.

A finished checkpoint is used again if it was made with the same settings from the same tweets. So an interrupted
`distill` goes on with the run that it stopped in.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from config.schema import Config, UserError
from export.folder import save_folder
from model.causal_lm import CausalLM
from model.checkpoint import config_from_dict, load_bundle, load_checkpoint, save_checkpoint
from model.device import choose_device
from model.folder import read_info
from model.tokenizer import Tokenizer, load_tokenizer
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.job import Objective, prepare, records_until, say
from trainer.train import Interrupted, Trainer
from utils.files import atomic_write
from utils.preprocess import Corpus
from utils.run_log import RunLog

INTERRUPTED = "all is saved: the same `python main.py distill` goes on from here"
IRRELEVANT = ("resume", "sample_every", "save_minutes", "accumulate")  # of `train`: they do not change what is learnt


@dataclass(frozen=True)
class DistillContext:
    """What all runs share.

    Attributes:
        vocabulary: of the student, and of every member of the ensemble.
        made: checkpoints made or found since the command began. A message about one is printed once.
    """

    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    device: torch.device
    made: set[Path] = field(default_factory=set)

    def dataset(self, side: str) -> TweetDataset:
        """The tweets of one side ("train" or "val"), encoded for the student."""
        tweets = self.corpus.train if side == "train" else self.corpus.val
        return TweetDataset.encode(tweets, self.tokenizer, self.vocabulary, self.config.model.block_size)

    def fingerprint(self, config: Config, **more: Any) -> str:
        """Everything that the result of a run depends on, as one line of JSON."""
        train = {key: value for key, value in asdict(config.train).items() if key not in IRRELEVANT}
        split = self.corpus.info["split"]["hash"]
        return json.dumps({"model": asdict(config.model), "train": train, "split": split, **more}, sort_keys=True)


def set_up(config: Config, corpus: Corpus) -> DistillContext:
    """The tokenizer, and the vocabulary of the training tweets.

    Raises:
        UserError: there are fewer than two validation tweets.
    """
    if len(corpus.val) < 2:
        raise UserError(
            f"the validation set holds {len(corpus.val)} tweet(s), too few to measure anything: preprocess again"
        )
    tokenizer = load_tokenizer(config.model.tokenizer)
    texts = [tweet.text for tweet in corpus.train]
    vocabulary = Vocabulary.build(config.model, tokenizer, tokenizer.encode_batch(texts))
    return DistillContext(config, corpus, tokenizer, vocabulary, choose_device(config.machine))


def load_if_fresh(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The checkpoint at `path`, if there is one and it has this fingerprint. Of a folder, `info` alone is returned."""
    content = load_checkpoint(path) if path.is_file() else {"info": read_info(path)}
    return content if content.get("info", {}).get("fingerprint") == fingerprint else None


def steps_by_train(context: DistillContext) -> int | None:
    """Steps of the run that `train` left, if it is finished and was made with these settings from these tweets.

    A run that was resumed with another learning rate matches no settings, so it is not used.
    """
    best, last = context.config.paths.checkpoints / "best_model.pth", context.config.paths.last_model
    if not (best.is_file() and last.is_file()):
        return None
    content, bundle = load_checkpoint(last), load_bundle(best, context.device)
    state, split = content.get("state", {}), context.corpus.info["split"]["hash"]
    ended = state.get("stopped_early") or state.get("epoch") == context.config.train.epochs
    same_run = state.get("best_epoch") == bundle.info.get("epoch")
    same_split = bundle.info.get("split_hash") == content.get("split_hash") == split
    if not (ended and same_run and same_split) or state.get("rate_changed"):
        return None
    found = {context.fingerprint(config) for config in (bundle.config, config_from_dict(content["config"], last))}
    return int(state["step"]) if found == {context.fingerprint(context.config)} else None


@dataclass(frozen=True)
class TrainingRun:
    """The plan of one training run.

    Attributes:
        config, corpus: of this model. It gets the context's vocabulary, or GPT-2's whole one if `config` asks for it.
        path: the checkpoint it makes.
        log: the file of its measurements.
        fingerprint: what its result depends on; see `DistillContext.fingerprint`.
        info: facts to add to the checkpoint's own.
    """

    config: Config
    corpus: Corpus
    path: Path
    log: Path
    fingerprint: str
    info: Mapping[str, Any] = field(default_factory=dict)


def steps_if_made(context: DistillContext, planned: TrainingRun) -> int | None:
    """The steps that the model was trained, if its checkpoint is there and fresh. Says once that it is used again."""
    found = load_if_fresh(planned.path, planned.fingerprint)
    if found and planned.path not in context.made:
        say(f"Using {planned.path} again: it was made with these settings from these tweets")
        context.made.add(planned.path)
    return int(found["info"]["steps"]) if found else None


def train_once(
    context: DistillContext,
    planned: TrainingRun,
    objective: Callable[[TweetDataset], Objective] | None = None,
    *,
    vocabulary: Callable[[], Vocabulary] | None = None,
    pretrained: Callable[[], CausalLM] | None = None,
) -> int:
    """Make the model unless it is there, or finish an interrupted run; returns the steps it was trained.

    Args:
        objective: see trainer.job.prepare; None: the tweets, with the loss of the settings.
        vocabulary: makes that of the model; None: the context's, or GPT-2's whole one if the settings ask for it.
        pretrained: makes the model to fine-tune, which is kept as a folder; None: a GPT of the settings.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; the run is saved.
    """
    if (steps := steps_if_made(context, planned)) is not None:
        return steps
    folder = planned.path.with_suffix(".training")
    resume = can_resume(folder, planned.fingerprint)
    state = load_checkpoint(folder / "last_model.pth")["state"] if resume else None
    own = vocabulary() if vocabulary else context.vocabulary
    job = prepare(
        resumable(planned.config, resume=resume),
        planned.corpus,
        vocabulary=None if planned.config.model.vocabulary == "full" else own,
        folder=folder,
        log=RunLog(planned.log, keep=records_until(state) if state else None),
        objective=objective,
        pretrained=pretrained() if pretrained else None,
    )
    trainer = Trainer(job)
    if resume:
        trainer.resume()
    fit(planned, trainer)
    keep(context, planned, trainer)
    context.made.add(planned.path)
    return trainer.state.step


def resumable(config: Config, *, resume: bool) -> Config:
    """The settings of a run of `distill`, which decides itself whether the run is resumed."""
    return replace(config, train=replace(config.train, resume=resume, sample_every=0))


def fit(planned: TrainingRun, trainer: Trainer) -> None:
    """Train to the end.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; the run is saved.
    """
    since = f", from step {trainer.state.step} on" if trainer.state.step else ""
    say(f"Training {planned.path} on {len(trainer.job.train.num_bytes):,} tweets{since}")
    try:
        trainer.fit()
    except Interrupted:
        raise Interrupted(INTERRUPTED) from None


def keep(context: DistillContext, planned: TrainingRun, trainer: Trainer) -> None:
    """Write the best model of a finished run to its path: a checkpoint, or a folder if it was a pretrained one."""
    folder, model = trainer.job.folder, trainer.job.model
    content = load_checkpoint(folder / "best_model.pth")
    content["info"] |= {**planned.info, "fingerprint": planned.fingerprint, "steps": trainer.state.step}
    if isinstance(model, CausalLM):
        model.load_state_dict(content["model"])
        save_folder(planned.path, model, context.tokenizer, content["info"])
    else:
        save_checkpoint(planned.path, content)
    shutil.rmtree(folder)


def can_resume(folder: Path, fingerprint: str) -> bool:
    """Whether `folder` holds an interrupted run with this fingerprint. If not, the folder is emptied for a new run."""
    mark = folder / "fingerprint.json"
    if (folder / "last_model.pth").is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_write(mark) as temporary:
        temporary.write_text(fingerprint, encoding="utf-8")
    return False
