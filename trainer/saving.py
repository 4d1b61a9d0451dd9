"""Saving a training run: the best model, and all that is needed to continue the run exactly."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from config.schema import RENAMED, UserError
from model.checkpoint import load_checkpoint, model_content, save_checkpoint
from model.fast import Trainable
from trainer.job import Job, say
from trainer.optim import Optimizer
from trainer.score import Scores

FREE = {"resume", "sample_every", "save_minutes", "learning_rate", "accumulate"}  # may change when a run is resumed


@dataclass
class State:
    """The progress of a training run. It is saved with the run."""

    epoch: int = 0  # completed epochs
    batch: int = 0  # completed steps of the current epoch
    step: int = 0  # completed updates of the whole run
    tokens: int = 0  # tokens predicted in them
    seconds: float = 0.0  # of training, without validation, samples and saving
    epoch_nats: float = 0.0  # training loss of this epoch so far, summed over its tokens
    epoch_tokens: int = 0
    grad_norm: float = 0.0  # of the last update, before clipping
    best_epoch: int = 0
    best_nats: float = math.inf  # nats per token on the validation tweets
    stopped_early: bool = False
    rate_changed: bool = False  # whether the run was resumed with another learning rate


def save_best(job: Job, model: Trainable, state: State, scores: Scores) -> None:
    """Save the model as it was validated, with the scores of this epoch."""
    info = {
        "epoch": state.epoch,
        "step": state.step,
        "seconds": state.seconds,
        "train_nats_per_token": state.epoch_nats / state.epoch_tokens,
        "val_nats_per_token": scores.nats_per_token,
        "val_bits_per_byte": scores.bits_per_byte,
        "split_hash": job.split_hash,
    }
    if job.ranks.first:
        save_checkpoint(job.folder / "best_model.pth", model_content(model, job.vocabulary, job.config, info))


def save_last(job: Job, model: Trainable, optimizer: Optimizer, state: State) -> None:
    """Save the current state of the run."""
    run = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": asdict(state),
        "random": torch.get_rng_state(),  # of dropout
        "processes": job.ranks.size,
        "config": job.config.to_dict(),
        "split_hash": job.split_hash,
    }
    if job.ranks.first:
        save_checkpoint(job.folder / "last_model.pth", run)


def load_last(job: Job, model: Trainable, optimizer: Optimizer) -> State:
    """Load the saved run into model, optimizer and random generator, and return its state.

    Raises:
        UserError: there is no saved run, or it has other tweets or other settings.
    """
    path = job.folder / "last_model.pth"
    run = load_checkpoint(path)
    if "optimizer" not in run:
        raise UserError(f"{path} can't be resumed: it holds a model, not a training run")
    if run["split_hash"] != job.split_hash:
        raise UserError(f"{path} was trained on other tweets or another split: start again without --train.resume")
    began = same_settings(job, run["config"])
    if (before := run.get("processes", 1)) != job.ranks.size:
        say(f"The run began with {before} process(es) and continues with {job.ranks.size}: dropout draws other numbers")
    model.load_state_dict(run["model"])
    optimizer.load_state_dict(run["optimizer"])
    known = State.__dataclass_fields__
    state = State(**{key: value for key, value in run["state"].items() if key in known})
    state.rate_changed |= began != job.config.train.learning_rate
    torch.set_rng_state(run["random"])
    return state


def same_settings(job: Job, theirs: dict[str, dict[str, Any]]) -> float:
    """The learning rate of a saved run with the settings `theirs`.

    Raises:
        UserError: a setting that may not change differs from the job's.
    """
    ours = job.config.to_dict()
    for section in ("model", "train"):
        for name, before in theirs[section].items():
            key = RENAMED.get(f"{section}.{name}", name)
            if key not in FREE and ours[section].get(key) != before:
                raise UserError(
                    f"{section}.{key} is {ours[section].get(key)!r}, but the run began with {before!r}: "
                    "use the settings it began with, or start again without --train.resume"
                )
    began = float(theirs["train"]["learning_rate"])
    if began != job.config.train.learning_rate:
        say(f"The learning rate's peak is {job.config.train.learning_rate} from here on; the run began with {began}")
    return began
