"""The only training loop: training, fine-tuning and distillation all come through `fit`.

for each epoch:  for each batch:  loss -> gradient -> clip -> AdamW
                 the whole validation set -> best checkpoint if better -> last checkpoint -> stop early?

Several processes take these steps as one (`self.team`): each goes through its share of every batch.
"""

import copy
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from config.cli import run_command
from config.schema import Config, UserError
from generate.generate import generate
from model.checkpoint import Bundle, load_checkpoint, model_content, save_checkpoint
from model.device import compile_blocks, keep_memory, precision, quick_products
from model.dropout import dropout
from trainer.batches import PAD
from trainer.head import HeadLoss
from trainer.job import Job, describe, prepare, rows_at_once, say
from trainer.optim import lr_at, make_optimizer
from trainer.parallel import ALONE, Team, joined
from trainer.progress import Progress
from trainer.score import Scores, score
from trainer.subword_embedding import add_subword_features, merged_state_dict
from utils.lock import only_run
from utils.preprocess import Corpus, load_processed
from utils.signals import StopSignal


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a request to end arrived; the run has been saved."""


@dataclass
class State:
    """Where a run stands; all of it is saved, so all of it comes back."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the next epoch
    step: int = 0  # updates done
    tokens: int = 0  # tokens trained on
    seconds: float = 0.0  # spent training; validation, samples and saving are left out
    epoch_nats: float = 0.0  # training loss of this epoch so far, summed over its tokens
    epoch_tokens: int = 0
    grad_norm: float = 0.0  # of the newest update, before clipping
    best_epoch: int = 0
    best_nats: float = math.inf  # nats per token on the validation tweets
    stopped_early: bool = False
    rate_changed: bool = False  # the run went on at another learning rate than it had (train.resume)
    halvings: int = 0  # how often the memory of a GPU was too small for a batch at once


class Trainer:
    """Trains the model of a Job; `fit` is the loop."""

    def __init__(self, job: Job) -> None:
        keep_memory()
        self.job, self.config, self.team, self.state = job, job.config.train, job.team, State()
        self.kept = copy.deepcopy(job.model).to(job.device).eval()  # a plain GPT: the weights, made ready
        if job.relations is not None:
            add_subword_features(job.model, job.relations)
        self.model = job.model.to(job.device)
        self.model.wte.sparse = job.device.type == "cpu"  # its gradient joins the head's without being made dense first
        self.optimizer = make_optimizer(self.model, self.config)
        self.steps_per_epoch = len(job.train.epoch(self.config.batch_size, seed=0, epoch=0))
        self.total_steps = self.steps_per_epoch * self.config.epochs
        self.dtype = precision(job.config.machine, job.device)
        self.multiple = 1  # of which a batch has as many places
        if self.dtype == torch.bfloat16 and job.config.model.block_size % 2 == 0:
            self.multiple = 2  # half as many shapes, for which a CPU makes code (trainer/head.py)
        if job.config.machine.compile:
            self.multiple = job.config.model.block_size
            compile_blocks(self.model)
        self.saved_at = time.perf_counter()

    def fit(self) -> State:
        """Train until the last epoch, or until validation has not improved for `patience` epochs.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived; the run has been saved and can go on.
            UserError: the loss or the gradient is no longer a finite number.
        """
        self.team.broadcast_parameters(self.model)
        self.progress = Progress(self.total_steps, self.state.step)
        try:
            with StopSignal() as self.stop:
                if self.state.step == 0:
                    self.record(self.validate())
                while self.state.epoch < self.config.epochs and not self.state.stopped_early:
                    self.train_epoch()
                    self.end_epoch()
        finally:
            self.progress.close()
        return self.state

    def train_epoch(self) -> None:
        """The rest of the current epoch, batch by batch."""
        state, job = self.state, self.job
        settings = {"seed": self.config.seed, "epoch": state.epoch}
        unseen = job.train.unk_replacements(job.unk_ids, rate=self.config.unk_replacement, **settings)
        self.model.train()
        for rows in job.train.epoch(self.config.batch_size, **settings)[state.batch :]:
            self.update(rows, unseen)
            state.batch += 1
            if self.team.any(self.stop.arrived):
                self.save_last()
                problem = f"saved after step {state.step}: go on with `python main.py train --train.resume true`"
                raise self.team.rank_error(Interrupted(problem))
            if time.perf_counter() - self.saved_at > 60 * self.config.save_minutes:
                self.save_last()

    def update(self, rows: Tensor, unseen: tuple[Tensor, Tensor]) -> None:
        """One step: loss on real tokens only, gradient, clipping, AdamW."""
        started, state = time.perf_counter(), self.state
        if self.team.size > 1 or self.job.device.type != "cpu":  # one CPU process saves where its dropout stands
            self.team.seed(self.config.seed, state.step)
        loss, nats = self.gradient(rows, unseen)
        if not math.isfinite(loss) or not math.isfinite(state.grad_norm):
            problem = (
                f"the loss or its gradient is not finite at step {state.step + 1} (epoch {state.epoch + 1}); nothing "
                "was updated and what was saved is good: try again with a lower rate, "
                f"--train.learning_rate {self.config.learning_rate / 3:.1g} say, from the start or from the last save "
                "(--train.resume true)"
            )
            raise self.team.rank_error(UserError(problem))
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(state.step, self.total_steps, self.config)
        self.optimizer.step()
        count = int(self.job.train.lengths[rows].sum())
        state.step += 1
        state.tokens += count
        state.epoch_nats += nats * count
        state.epoch_tokens += count
        state.seconds += time.perf_counter() - started
        self.progress.step(loss=state.epoch_nats / state.epoch_tokens, tokens_per_second=state.tokens / state.seconds)

    def gradient(self, rows: Tensor, unseen: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Clipped gradient of the mean loss over the real tokens of these rows; returns that loss and the plain nats.

        The rows go through the model in `train.accumulate` parts, one after another, and where a GPU's memory is too
        small for that in more: the step still learns from the same tokens.

        Raises:
            UserError: it is too small for a single row.
        """
        state, mine, tokens = self.state, self.team.deal(rows), int(self.job.train.lengths[rows].sum())
        while True:
            size = max(1, rows_at_once(self.job.config, self.team.size) >> state.halvings)
            with suppress(torch.OutOfMemoryError):
                sums = self.gradient_in_parts(mine.split(size) if len(mine) else (), unseen, tokens)
                sums = self.team.all_reduce(self.model, sums)
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
                loss, nats, state.grad_norm = torch.cat([sums, norm[None]]).tolist()  # the only wait for a GPU
                return loss, nats
            if size == 1:
                raise UserError(
                    "the memory of the GPU is too small for a single tweet: give a smaller --model.n_embd or "
                    "--model.block_size, or --machine.device cpu"
                )
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            state.halvings += 1
            self.progress.say(
                f"The GPU's memory is too small for {size} tweets at once: from step {state.step + 1} on it takes "
                f"{max(1, size // 2)} at a time; a step still learns from {self.config.batch_size}, but is slower"
            )

    def gradient_in_parts(self, parts: Sequence[Tensor], unseen: tuple[Tensor, Tensor], tokens: int) -> Tensor:
        """Add up the parts' gradients, each by its share of the batch's real tokens; so their losses and nats, (2,)."""
        device, sums = self.job.device, torch.zeros(2, device=self.job.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            batch = self.job.train.batch(part, unseen, multiple=self.multiple)
            share = int(self.job.train.lengths[part].sum()) / tokens
            real = batch.targets != PAD
            places = real.flatten().nonzero()[:, 0].to(device)
            targets, index = batch.targets[real].to(device), batch.index[real].to(device)
            with quick_products(device), cached():
                with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                    stream = self.model.trunk(batch.inputs.to(device)).flatten(0, 1)
                    hidden = stream.index_select(0, places)  # (N, C): no padding in the head
                head = self.model.wte.weight, self.model.head_bias
                hidden = dropout(hidden, self.config.output_dropout)
                loss, nats = HeadLoss.apply(hidden, *head, self.job.loss, targets, index, share, self.dtype)
                loss.backward()
            sums += torch.stack([loss.detach(), nats])
        return sums

    def validate(self) -> Scores:
        """Score the whole validation set as the model would be kept, always in float32; consumes no randomness."""
        found = None
        if self.team.first:
            self.settle()
            found = score(self.kept, self.job.vocabulary, self.job.val)
        return self.team.broadcast(found)

    @torch.no_grad()
    def settle(self) -> None:
        """Make the model that is kept: the weights as they stand, sums of relatives added up, rare tokens put right."""
        self.kept.load_state_dict(merged_state_dict(self.model))
        if self.job.calibration and self.kept.head_bias is not None:
            self.kept.head_bias.add_(self.job.calibration.offsets(self.kept).to(self.job.device))

    def end_epoch(self) -> None:
        """Validate, keep the best, decide whether to stop, save."""
        state = self.state
        state.epoch, state.batch = state.epoch + 1, 0
        scores = self.validate()
        better = scores.nats_per_token < state.best_nats
        if better:
            state.best_epoch, state.best_nats = state.epoch, scores.nats_per_token
            if self.team.first:
                save_checkpoint(self.job.folder / "best_model.pth", self.content(scores))
        state.stopped_early = state.epoch - state.best_epoch >= self.config.patience
        self.record(scores)
        self.progress.say(
            f"[Epoch {state.epoch}] Train Loss: {state.epoch_nats / state.epoch_tokens:.4f} | "
            f"Val Loss: {scores.nats_per_token:.4f} | Val bits/byte: {scores.bits_per_byte:.4f}"
            + (" *" if better else "")
        )
        state.epoch_nats, state.epoch_tokens = 0.0, 0
        self.save_last()
        if self.job.on_epoch and self.team.first:
            self.job.on_epoch(self.bundle(), state.epoch, self.progress.say)

    def record(self, scores: Scores) -> None:
        """Write one line of metrics.jsonl."""
        state = self.state
        values: dict[str, Any] = {"step": state.step, "epoch": state.epoch, "tokens": state.tokens}
        values["seconds"] = round(state.seconds, 3)
        if state.epoch_tokens:
            values["train/loss"] = state.epoch_nats / state.epoch_tokens
            values["lr"] = self.optimizer.param_groups[0]["lr"]
            values["grad_norm"] = state.grad_norm
            values["tokens_per_second"] = round(state.tokens / state.seconds)
        values["val/loss"] = scores.nats_per_token
        values["val/bits_per_byte"] = scores.bits_per_byte
        self.job.log.write(**values)

    def bundle(self) -> Bundle:
        """The model as of the last validation, with all that belongs to it."""
        return Bundle(self.kept, self.job.tokenizer, self.job.vocabulary, self.job.config, {})

    def content(self, scores: Scores) -> dict[str, Any]:
        """What best_model.pth holds: the model as it was validated and the facts of this epoch."""
        info = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "seconds": self.state.seconds,
            "train_nats_per_token": self.state.epoch_nats / self.state.epoch_tokens,
            "val_nats_per_token": scores.nats_per_token,
            "val_bits_per_byte": scores.bits_per_byte,
            "split_hash": self.job.split_hash,
        }
        return model_content(self.kept, self.job.vocabulary, self.job.config, info)

    def save_last(self) -> None:
        """Save all that is needed to go on as if nothing had happened."""
        run = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "random": torch.get_rng_state(),  # dropout's
            "processes": self.team.size,
            "config": self.job.config.to_dict(),
            "split_hash": self.job.split_hash,
        }
        if self.team.first:
            save_checkpoint(self.job.folder / "last_model.pth", run)
        self.saved_at = time.perf_counter()

    def resume(self) -> None:
        """Go on from last_model.pth.

        Raises:
            UserError: there is none, or it belongs to other tweets or other settings.
        """
        path = self.job.folder / "last_model.pth"
        run = load_checkpoint(path)
        if "optimizer" not in run:
            raise UserError(f"{path} can't be resumed: it holds a model, not a training run")
        if run["split_hash"] != self.job.split_hash:
            raise UserError(f"{path} was trained on other tweets or another split: start anew without --train.resume")
        ours = self.job.config.to_dict()
        free = {"resume", "sample_every", "save_minutes", "learning_rate", "accumulate"}
        if (began := run["config"]["train"]["learning_rate"]) != self.config.learning_rate:
            say(f"The learning rate's peak is {self.config.learning_rate} from here on; the run began with {began}")
        for section in ("model", "train"):
            for key, before in run["config"][section].items():
                if key not in free and ours[section].get(key) != before:
                    raise UserError(
                        f"{section}.{key} is {ours[section].get(key)!r}, but the run began with {before!r}: "
                        "go on with the settings it began with, or start anew without --train.resume"
                    )
        if (before := run.get("processes", 1)) != self.team.size:
            say(f"The run began with {before} process(es) and goes on with {self.team.size}: dropout's course differs")
        self.model.load_state_dict(run["model"])
        self.optimizer.load_state_dict(run["optimizer"])
        self.state = State(**run["state"])
        self.state.rate_changed |= began != self.config.learning_rate
        torch.set_rng_state(run["random"])


def train(config: Config, corpus: Corpus, team: Team = ALONE) -> State:
    """Train on these tweets, or go on with a run (`train.resume`); says what it does on standard error.

    Every `train.sample_every` epochs a tweet from nothing is shown and logged: one can watch it learn to write.
    """
    with team.together():
        job = prepare(config, corpus, team=team)
        trainer = Trainer(job)
        if config.train.resume:
            trainer.resume()
    alike = {"settings": (config.train, job.config.model), "tweets": job.split_hash, "checkpoint": trainer.state.step}
    team.check_alike(alike)

    def show_sample(bundle: Bundle, epoch: int, say: Callable[[str], None]) -> None:
        if config.train.sample_every and epoch % config.train.sample_every == 0:
            settings = replace(bundle.config.generate, num_samples=1, seed=epoch)
            text = generate(bundle, [""], settings)[0].text
            say(f"    sample: {text}")
            job.log.write(step=trainer.state.step, epoch=epoch, sample=text)

    job.on_epoch = show_sample
    print(describe(job), file=sys.stderr)
    return trainer.fit()


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py train`."""
    with joined() as team, ExitStack() as held:
        with team.together():
            corpus = load_processed(config.paths)
            if team.first:
                held.enter_context(only_run(config.paths.checkpoints))
        state = train(config, corpus, team)
        why = "validation stopped improving" if state.stopped_early else "all epochs done"
        best = f"best at epoch {state.best_epoch} with {state.best_nats:.4f} nats per token"
        print(f"{why}; {best}, kept in {config.paths.best_model}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
