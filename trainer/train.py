"""The only training loop: training, fine-tuning and distillation all use `Trainer.fit`.

for each epoch:  for each step:  loss -> gradient -> clip -> AdamW or Muon
                 validate on all tweets -> save the best model if better -> save the run -> stop early?

With several processes (trainer/parallel.py) each takes its share of the examples of every step.
"""

import copy
import math
import sys
import time
from argparse import Namespace
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from config.cli import run_command
from config.schema import Config, UserError
from generate.generate import generate
from model.checkpoint import Bundle
from model.device import keep_memory, mixed_precision, precision
from model.fast import Dropout, for_training, shape_multiple
from trainer.batches import Epoch
from trainer.job import Job, describe, examples_at_once, largest_batch, prepare
from trainer.losses import with_head
from trainer.optim import lr_at, make_optimizer
from trainer.parallel import SINGLE_PROCESS, Ranks, process_group
from trainer.progress import Progress, busy
from trainer.saving import State, load_last, save_best, save_last
from trainer.score import Scores, score
from trainer.subword_embedding import add_subword_features, merged_state_dict
from trainer.teacher_vectors import add_teacher_vectors
from utils.lock import only_run
from utils.preprocess import Corpus, load_processed
from utils.signals import StopSignal

TOO_LARGE = (
    "the memory of the GPU is too small: cut each step into parts with --train.accumulate 2 (or 4, ...), which gives "
    "the same result, or give a smaller --model.n_embd; what was saved is intact (--train.resume true)"
)


class Interrupted(KeyboardInterrupt):
    """The run was ended by Ctrl-C or SIGTERM, after it was saved."""


class Trainer:
    """Trains the model of a Job; see `fit`."""

    def __init__(self, job: Job) -> None:
        keep_memory()
        self.job, self.config, self.ranks, self.state = job, job.config.train, job.ranks, State()
        self.kept = copy.deepcopy(job.model).to(job.device).eval()  # a plain GPT, to validate and save
        if job.subword_groups is not None:
            add_subword_features(job.model, job.subword_groups)
        if job.teacher_vectors is not None:
            add_teacher_vectors(job.model, job.teacher_vectors)
        self.dtype = precision(job.config.machine, job.device)
        self.model = for_training(job.model, job.device, self.dtype, compiled=job.config.machine.compile)
        tokens, _ = largest_batch(job.config, job.train.lengths, job.ranks.size)
        self.loss = with_head(job.loss, self.dtype, job.device, logits=tokens * job.vocabulary.vocab_size)
        self.output_dropout = Dropout(self.config.output_dropout)
        self.optimizer = make_optimizer(self.model, self.config, self.dtype)
        self.total_steps = job.train.num_steps(self.config.batch_size, self.config.epochs)
        self.part_size = examples_at_once(job.config, job.ranks.size)
        self.pad_to_multiple_of = shape_multiple(job.config, self.dtype)
        self.saved_at = time.perf_counter()

    def fit(self) -> State:
        """Train until the last epoch, or until validation has not improved for `patience` epochs.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived; the run was saved and can be resumed.
            UserError: the loss or the gradient is not a finite number, or the memory of the GPU is too small.
        """
        self.ranks.broadcast_parameters(self.model)
        self.progress = Progress(self.total_steps, self.state.step, epochs=self.config.epochs)
        if self.ranks.first:
            self.progress.say("A * marks the best epoch so far on unseen tweets (Val); its model is kept.")
        try:
            with StopSignal() as self.stop:
                if self.state.step == 0:
                    self.record(self.validate())
                while self.state.epoch < self.config.epochs and not self.state.stopped_early:
                    self.train_epoch()
                    self.end_epoch()
        except torch.OutOfMemoryError:
            raise UserError(TOO_LARGE) from None
        finally:
            self.progress.close()
        return self.state

    def train_epoch(self) -> None:
        """Take the remaining steps of the current epoch."""
        state, config = self.state, self.config
        epoch = self.job.train.epoch(
            config.batch_size, seed=config.seed, number=state.epoch, unk_rate=config.unk_replacement
        )
        self.model.train()
        for examples in epoch.steps[state.batch :]:
            self.step(epoch, examples)
            self.save_if_time()

    def step(self, epoch: Epoch, examples: Tensor) -> None:
        """Take one step with these examples and record it."""
        started = time.perf_counter()
        nats_per_token = self.update(epoch, examples)
        self.count(examples, nats_per_token, time.perf_counter() - started)

    def update(self, epoch: Epoch, examples: Tensor) -> float:
        """Compute the gradient, clip it and update the weights; returns the nats per token.

        Raises:
            UserError: the loss or the gradient is not a finite number; nothing was updated.
        """
        sums = self.gradient(epoch, examples)
        if self.ranks.size > 1:
            sums = self.ranks.all_reduce(self.model, sums)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        loss, nats_per_token, self.state.grad_norm = torch.cat([sums, norm[None]]).tolist()
        if not math.isfinite(loss) or not math.isfinite(self.state.grad_norm):
            raise self.not_finite()
        rate = lr_at(self.state.step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.step()
        return float(nats_per_token)

    def gradient(self, epoch: Epoch, examples: Tensor) -> Tensor:
        """Compute the gradient of the mean loss over the real tokens; returns (2,) this loss and the mean nats.

        With several processes, gradient and result are this process's part of the sum.
        """
        if self.ranks.size > 1 or self.job.device.type != "cpu":  # one process on a CPU saves its random state
            self.ranks.seed_dropout(self.config.seed, self.state.step)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.job.device)
        shape = {"size": self.part_size, "pad_to_multiple_of": self.pad_to_multiple_of}
        for batch in epoch.parts(examples, ranks=self.ranks, device=self.job.device, **shape):
            with mixed_precision(self.job.device, self.dtype):
                hidden = self.model.trunk(batch.ids).flatten(0, 1)  # (B * T, C)
                hidden = self.output_dropout(hidden.index_select(0, batch.places))  # (N, C): no padding in the head
                loss, nats = self.loss(self.model, hidden, batch)
            (loss * batch.share).backward()
            sums += torch.stack([loss.detach(), nats]) * batch.share
        return sums

    def not_finite(self) -> BaseException:
        """The error that ends the run before an update that would ruin the weights."""
        state = self.state
        problem = (
            f"the loss or its gradient is not finite at step {state.step + 1} (epoch {state.epoch + 1}); nothing was "
            "updated and what was saved is intact: try again with a lower rate, for example --train.learning_rate "
            f"{self.config.learning_rate / 3:.1g}, from the start or from the last save (--train.resume true)"
        )
        return self.ranks.rank_error(UserError(problem))

    def count(self, examples: Tensor, nats_per_token: float, seconds: float) -> None:
        """Record a step in the state and on the progress bar."""
        state, tokens = self.state, int(self.job.train.lengths[examples].sum())
        state.batch += 1
        state.step += 1
        state.tokens += tokens
        state.epoch_nats += nats_per_token * tokens
        state.epoch_tokens += tokens
        state.seconds += seconds
        self.progress.step(loss=state.epoch_nats / state.epoch_tokens, tokens_per_second=state.tokens / state.seconds)

    def validate(self) -> Scores:
        """Score the model that would be saved, in float32, on the whole validation set. Draws no random numbers."""
        found = None
        if self.ranks.first:
            self.update_kept()
            found = score(self.kept, self.job.val)
        return self.ranks.broadcast(found)

    @torch.no_grad()
    def update_kept(self) -> None:
        """Copy the current weights to `kept`: subword vectors are added, and rare tokens calibrated."""
        self.kept.load_state_dict(merged_state_dict(self.model))
        if self.job.calibration and self.kept.head_bias is not None:
            self.kept.head_bias.add_(self.job.calibration.offsets(self.kept).to(self.job.device))

    def end_epoch(self) -> None:
        """Validate, save the model if it is the best so far, decide whether to stop, and save the run."""
        state = self.state
        state.epoch, state.batch = state.epoch + 1, 0
        scores = self.validate()
        better = scores.nats_per_token < state.best_nats
        if better:
            state.best_epoch, state.best_nats = state.epoch, scores.nats_per_token
            save_best(self.job, self.kept, state, scores)
        state.stopped_early = state.epoch - state.best_epoch >= self.config.patience
        self.record(scores)
        passes = state.epoch / self.job.train.epochs_per_pass
        self.progress.say(
            f"[Epoch {passes:g}] Train Loss: {state.epoch_nats / state.epoch_tokens:.4f} | "
            f"Val Loss: {scores.nats_per_token:.4f} | Val bits/byte: {scores.bits_per_byte:.4f}"
            + (" *" if better else "")
        )
        state.epoch_nats, state.epoch_tokens = 0.0, 0
        self.save()
        if self.config.sample_every and state.epoch % self.config.sample_every == 0 and self.ranks.first:
            self.show_sample()

    def show_sample(self) -> None:
        """Write one tweet, print it and log it."""
        bundle = Bundle(self.kept, self.job.tokenizer, self.job.vocabulary, self.job.config, {})
        settings = replace(self.job.config.generate, num_samples=1, seed=self.state.epoch)
        text = generate(bundle, [""], settings)[0].text
        self.progress.say(f"    sample: {text}")
        self.job.log.write(step=self.state.step, epoch=self.state.epoch, sample=text)

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

    def save_if_time(self) -> None:
        """Save every `save_minutes`, and when Ctrl-C or SIGTERM arrived.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived.
        """
        if self.ranks.any(self.stop.arrived):
            self.save()
            problem = f"saved after step {self.state.step}: continue with `python main.py train --train.resume true`"
            raise self.ranks.rank_error(Interrupted(problem))
        if time.perf_counter() - self.saved_at > 60 * self.config.save_minutes:
            self.save()

    def save(self) -> None:
        """Save the current state of the run."""
        save_last(self.job, self.model, self.optimizer, self.state)
        self.saved_at = time.perf_counter()

    def resume(self) -> None:
        """Continue from last_model.pth.

        Raises:
            UserError: there is no such file, or it has other tweets or other settings.
        """
        self.state = load_last(self.job, self.model, self.optimizer)


def train(config: Config, corpus: Corpus, ranks: Ranks = SINGLE_PROCESS) -> State:
    """Train on these tweets, or resume a run (`train.resume`). Reports on standard error."""
    with ranks.on_all_ranks(), busy("Preparing the training") if ranks.first else nullcontext():
        job = prepare(config, corpus, ranks=ranks)
        trainer = Trainer(job)
        if config.train.resume:
            trainer.resume()
    facts = {"settings": (config.train, job.config.model), "tweets": job.split_hash, "checkpoint": trainer.state.step}
    ranks.check_same(facts)
    print(describe(job), file=sys.stderr)
    return trainer.fit()


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py train`."""
    with process_group() as ranks, ExitStack() as held:
        with ranks.on_all_ranks():
            corpus = load_processed(config.paths)
            if ranks.first:
                held.enter_context(only_run(config.paths.checkpoints))
        state = train(config, corpus, ranks)
        why = "validation stopped improving" if state.stopped_early else "all epochs done"
        best = f"best at epoch {state.best_epoch} with {state.best_nats:.4f} nats per token"
        print(f"{why}; {best}, kept in {config.paths.best_model}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
