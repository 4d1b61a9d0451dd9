"""Training: exact resume, early stopping, no update with a loss that is not finite, and the loss falls."""

import json
import math
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.schema import Config, UserError
from evaluation.baselines import measure_baselines
from model.checkpoint import load_checkpoint
from model.tokenizer import load_tokenizer
from trainer.batches import Epoch
from trainer.job import prepare
from trainer.saving import State
from trainer.score import Scores
from trainer.train import Interrupted, Trainer, train
from utils.preprocess import Corpus, Tweet
from utils.run_log import read_log

SettingsOf = Callable[..., Config]


@pytest.fixture
def corpus(tweets: list[Tweet]) -> Corpus:
    """The made-up tweets, every seventh kept for validation."""
    held = tweets[::7]
    rest = [tweet for tweet in tweets if tweet not in held]
    return Corpus(train=rest, val=held, info={"split": {"hash": "made-up", "train": len(rest), "val": len(held)}})


def interrupt_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Send this process SIGINT right after the given number of updates."""
    original, done = Trainer.step, 0

    def update(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        nonlocal done
        original(self, epoch, examples)
        done += 1
        if done == updates:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", update)


def weights(config: Config, name: str = "last_model.pth") -> dict[str, Any]:
    return load_checkpoint(config.paths.checkpoints / name)


@pytest.mark.parametrize(
    ("updates", "muon"),
    [(5 * 17, "0"), (5 * 17 + 7, "4"), (1, "0")],  # at an epoch's end, inside an epoch, at once
)
def test_an_interrupted_and_resumed_run_is_bit_equal_to_one_without_a_stop(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, updates: int, muon: str
) -> None:
    flags = ("--train.epochs", "10", "--train.batch_size", "8", "--train.patience", "10", "--train.muon", muon)
    whole = settings(*flags, "--paths.root", str(tmp_path / "whole"))
    assert train(whole, corpus).epoch == 10

    parts = settings(*flags, "--paths.root", str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, updates)
        with pytest.raises(Interrupted, match=r"--train\.resume true"):
            train(parts, corpus)
    assert weights(parts)["state"]["step"] == updates
    torch.manual_seed(12345)  # a new process would not have this run's random state either
    again = settings(*flags, "--paths.root", str(tmp_path / "parts"), "--train.resume", "true")
    train(again, corpus)

    one, two = weights(whole), weights(parts)
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert torch.equal(one["random"], two["random"])
    states = [run["optimizer"] if muon == "0" else run["optimizer"]["adamw"] for run in (one, two)]
    for slot, values in states[0]["state"].items():
        assert all(torch.equal(values[key], states[1]["state"][slot][key]) for key in ("exp_avg", "exp_avg_sq"))
    best, same = weights(whole, "best_model.pth"), weights(parts, "best_model.pth")
    assert all(torch.equal(best["model"][name], same["model"][name]) for name in best["model"])
    losses = [[r["val/loss"] for r in read_log(c.paths.metrics) if "val/loss" in r] for c in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 11


def test_the_next_batch_after_resuming_is_the_same(settings: SettingsOf, corpus: Corpus) -> None:
    config = settings("--train.batch_size", "8")
    dataset = prepare(config, corpus).train
    straight, resumed = (dataset.epoch(8, seed=0, number=5, unk_rate=0.3) for _ in range(2))
    one, two = (dataset.batch(epoch.steps[7], replaced=epoch) for epoch in (straight, resumed))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.targets, two.targets)


def test_resuming_with_other_settings_or_tweets_is_refused(settings: SettingsOf, corpus: Corpus) -> None:
    train(settings(), corpus)
    with pytest.raises(UserError, match=r"train\.batch_size is 7, but the run began with 32"):
        train(settings("--train.resume", "true", "--train.batch_size", "7"), corpus)
    other = Corpus(corpus.train, corpus.val, {"split": {"hash": "another"}})
    with pytest.raises(UserError, match="other tweets"):
        train(settings("--train.resume", "true"), other)


def test_resuming_nothing_says_how_to_begin(settings: SettingsOf, corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*last_model\.pth"):
        train(settings("--train.resume", "true"), corpus)


def test_it_learns_and_keeps_the_best_epoch(settings: SettingsOf, corpus: Corpus) -> None:
    config = settings("--train.epochs", "15", "--train.batch_size", "8", "--model.dropout", "0")
    state = train(config, corpus)
    losses = [record["val/loss"] for record in read_log(config.paths.metrics) if "val/loss" in record]
    assert min(losses) < 0.6 * losses[0]  # 30 subject-verb pairs and 5 endings: easy
    assert state.best_nats == min(losses) and losses.index(min(losses)) == state.best_epoch
    best = weights(config, "best_model.pth")
    assert best["info"]["epoch"] == state.best_epoch
    assert best["info"]["val_nats_per_token"] == pytest.approx(min(losses))


def test_early_stopping_after_patience(settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    original, falling = Trainer.validate, iter([9.0, 5.0, 4.0, 4.5, 4.2, 4.1, 1.0])

    def worse(self: Trainer) -> Scores:
        scores = original(self)
        return replace(scores, nats=scores.tokens * next(falling))

    monkeypatch.setattr(Trainer, "validate", worse)
    state = train(settings("--train.epochs", "50", "--train.patience", "3"), corpus)
    assert (state.stopped_early, state.epoch, state.best_epoch) == (True, 5, 2)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_update(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    job = prepare(settings("--train.batch_size", "8"), corpus)  # a block of tokens, one call of the loss, in each step
    plain, calls = job.loss, 0

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        value, nats = plain(logits, targets, index)
        if calls < 3:
            return value, nats
        before.update({name: parameter.clone() for name, parameter in run.model.named_parameters()})
        return (value * math.nan if broken == "loss" else (logits.sum() * 0).sqrt() + value.detach()), nats

    before: dict[str, Tensor] = {}
    run = Trainer(replace(job, loss=loss))
    with pytest.raises(UserError, match=r"not finite at step 3 .*learning_rate"):
        run.fit()
    assert run.state.step == 2
    assert all(torch.equal(parameter, before[name]) for name, parameter in run.model.named_parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in run.model.parameters())


def test_after_a_number_that_is_not_finite_the_run_resumes_with_a_lower_rate(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--train.epochs", "3", "--train.batch_size", "8")  # 16 steps each
    original, steps = Trainer.gradient, 0

    def gradient(self: Trainer, epoch: Epoch, examples: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        sums = original(self, epoch, examples)
        return sums * math.nan if steps == 20 else sums

    monkeypatch.setattr(Trainer, "gradient", gradient)
    config = settings(*flags)
    saved: dict[str, bytes] = {}
    epoch_ends = Trainer.save

    def save(self: Trainer) -> None:
        epoch_ends(self)
        saved.update({path.name: path.read_bytes() for path in config.paths.checkpoints.glob("*.pth")})

    monkeypatch.setattr(Trainer, "save", save)
    with pytest.raises(
        UserError, match=r"step 20 \(epoch 2\); .*--train\.learning_rate 0\.003, .*--train\.resume true"
    ):
        train(config, corpus)
    assert saved == {path.name: path.read_bytes() for path in config.paths.checkpoints.glob("*.pth")}
    assert set(saved) == {"best_model.pth", "last_model.pth"}
    state = train(settings(*flags, "--train.learning_rate", "0.003", "--train.resume", "true"), corpus)
    assert state.step == 3 * 16 and steps == 20 + 2 * 16
    assert "peak is 0.003 from here on; the run began with 0.01" in capsys.readouterr().err
    assert read_log(config.paths.metrics)[-1]["lr"] < 0.003


def test_a_gpu_too_small_for_a_step_says_what_to_do(settings: SettingsOf, corpus: Corpus) -> None:
    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run = Trainer(replace(prepare(settings(), corpus), loss=loss))
    with pytest.raises(UserError, match=r"memory of the GPU is too small: .* --train\.accumulate 2"):
        run.fit()
    assert run.state.step == 0


def test_an_epoch_that_ends_twice_is_logged_once(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed after it logged an epoch but before it was saved logs that epoch again when it is resumed."""
    flags = ("--train.batch_size", "8", "--train.save_minutes", "0")
    original = Trainer.save

    def killed(self: Trainer) -> None:
        if self.state.batch == 0:
            raise MemoryError
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", killed)
        with pytest.raises(MemoryError):
            train(settings(*flags), corpus)
    train(settings(*flags, "--train.resume", "true"), corpus)
    epochs = [record["epoch"] for record in read_log(settings().paths.metrics) if "val/loss" in record]
    assert epochs == [0, 1, 2]


def test_validation_and_samples_do_not_disturb_training(settings: SettingsOf, corpus: Corpus, tmp_path: Path) -> None:
    quiet = settings("--paths.root", str(tmp_path / "a"), "--train.sample_every", "0")
    chatty = settings("--paths.root", str(tmp_path / "b"), "--train.sample_every", "1", "--train.save_minutes", "0")
    train(quiet, corpus)
    train(chatty, corpus)
    one, two = weights(quiet)["model"], weights(chatty)["model"]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_measurements_have_the_promised_keys(settings: SettingsOf, corpus: Corpus) -> None:
    config = settings()
    train(config, corpus)
    records = [json.loads(line) for line in config.paths.metrics.read_text(encoding="utf-8").splitlines()]
    last = records[-1]
    keys = {"step", "epoch", "tokens", "seconds", "train/loss", "val/loss", "val/bits_per_byte", "lr", "grad_norm"}
    assert keys | {"tokens_per_second"} <= set(last)
    assert last["epoch"] == 2 and last["tokens"] == 2 * prepare(config, corpus).train.num_predictions
    assert any("baseline/ngram" in record for record in records)
    facts = json.loads((config.paths.results / "run.json").read_text(encoding="utf-8"))
    assert facts["settings"]["train"]["seed"] == 0 and facts["split"]["hash"] == "made-up"


def test_a_line_is_printed_for_each_epoch(
    settings: SettingsOf, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(), corpus)
    out, err = capsys.readouterr()
    assert out == ""  # results only
    assert "[Epoch 1] Train Loss: " in err and " | Val Loss: " in err and " | Val bits/byte: " in err


def test_state_can_be_restored_from_its_fields() -> None:
    assert State(**State().__dict__) == State()


def test_samples_are_shown_and_logged(settings: SettingsOf, corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings("--train.epochs", "4", "--train.sample_every", "2")
    train(config, corpus)
    samples = [record for record in read_log(config.paths.metrics) if "sample" in record]
    assert [record["epoch"] for record in samples] == [2, 4]
    shown = capsys.readouterr().err
    assert all(f"sample: {record['sample']}\n" in shown for record in samples)


def test_the_baseline_has_the_order_that_evaluate_chooses(settings: Callable[..., Config]) -> None:
    """Tweets that recur in long parts: a longer context than the usual one pays."""
    dice = random.Random(0)
    words = [f"w{number}" for number in range(6)]
    chains = [dice.choices(words, k=12) for _ in range(20)]
    tweets = [Tweet(" ".join([*dice.choice(chains), dice.choice(words)]), True) for _ in range(200)]
    corpus = Corpus(tweets[20:], tweets[:20], {"split": {"hash": "x", "train": 180, "val": 20}})
    config = settings("--train.epochs", "1")
    train(config, corpus)
    logged = next(line["baseline/ngram"] for line in read_log(config.paths.metrics) if "baseline/ngram" in line)
    baselines = measure_baselines(corpus.train, corpus.val, load_tokenizer(config.model.tokenizer))
    assert baselines.order > 3 and logged == pytest.approx(baselines.bits_per_byte["ngram"])
