"""Distillation: nobody marks his own training tweets, targets stand where they belong, nothing is trained twice."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config.cli import run_command
from config.schema import Config, UserError
from distillation import distill as module
from distillation import runs as runs
from distillation.distill import distill, scored
from distillation.report import show, verdict
from distillation.runs import set_up
from distillation.teachers import check_teachers, fold_of, make_teachers, write_tweets
from generate.copies import CopyCheck
from model.checkpoint import load_bundle, load_checkpoint
from model.ensemble import Ensemble
from model.ngram import NGram, to_vocabulary
from tests.conftest import TINY
from trainer.batches import Epoch, TweetDataset
from trainer.job import Job, framed_ids, prepare
from trainer.score import score
from trainer.train import Interrupted, Trainer, train
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
QUICK = ["--train.epochs", "2", "--distill.members", "3", "--distill.member_epochs", "1", "--distill.epochs", "1"]
QUICK += ["--distill.batch_size", "32", "--distill.workers", "1"]
QUICK += ["--evaluate.samples", "8"]
QUICK += ["--generate.max_new_tokens", "12", "--distill.sampled", "1"]
PARTS = ["usual", "control", "teachers/member_1", "teachers/member_2", "teachers/member_3", "student"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were trained, in order, as they are filled in."""
    names: list[str] = []
    original = Trainer.fit

    def fit(self: Trainer) -> Any:
        folder = self.job.folder
        names.append(str(folder.relative_to(self.job.config.paths.checkpoints)).removesuffix(".training"))
        return original(self)

    monkeypatch.setattr(Trainer, "fit", fit)
    return names


def test_folds_are_even_and_depend_on_the_seed_alone() -> None:
    folds = fold_of(103, 4, seed=5)
    assert sorted(torch.bincount(folds).tolist()) == [25, 26, 26, 26]
    assert torch.equal(folds, fold_of(103, 4, seed=5)) and not torch.equal(folds, fold_of(103, 4, seed=6))


def test_nobody_speaks_on_tweets_he_was_trained_on(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}  # texts each member was fitted to: weights, output bias, n-gram and all
    original = prepare

    def spy(config: Config, own: Corpus, **more: Any) -> Job:
        job = original(config, own, **more)
        assert len(job.train.num_bytes) == len(own.train)
        seen[more["folder"].stem] = {tweet.text for tweet in own.train}
        return job

    monkeypatch.setattr(runs, "prepare", spy)
    context = set_up(settings(*QUICK, "--distill.cross_fit", "true"), corpus)
    teachers = make_teachers(context, Path("nobody.pth"))
    rows = context.rows("train")
    memory = teachers.memory(rows)
    owner = rows.tweet.repeat_interleave(rows.lengths)
    models = [member.model for member in teachers.groups[0].members]
    spoken_on = []
    for part in memory.parts:
        (member,) = part.ensemble.members
        assert part.ensemble.ngram is None  # it would have counted the tweet
        tweets = owner[part.places].unique().tolist()
        number = next(n for n, one in enumerate(models) if one is member.model)
        assert not {corpus.train[tweet].text for tweet in tweets} & seen[f"member_{number + 1}"]
        spoken_on += tweets
    assert sorted(spoken_on) == list(range(len(corpus.train)))  # each tweet once
    assert memory.ngram is not None and len(memory.ngram) == rows.num_predictions


def test_who_has_read_the_tweets_speaks_only_where_nobody_else_can(settings: SettingsOf, corpus: Corpus) -> None:
    flags = [*QUICK, "--distill.cross_fit", "false"]
    for names, parts in (("[ensemble, ngram]", 0), ("[ensemble]", 1), ("[ngram]", 0)):
        context = set_up(settings(*flags, "--distill.teacher", names), corpus)
        teachers = make_teachers(context, Path("nobody.pth"))
        memory = teachers.memory(context.rows("train"))
        assert len(memory.parts) == parts and (memory.ngram is None) == (names == "[ensemble]")
        found = memory.at(torch.arange(0, len(memory), 7))
        torch.testing.assert_close(found.sum(-1), torch.ones(len(found)), atol=1e-4, rtol=0)


def test_what_the_teachers_write_is_new_and_ends(settings: SettingsOf, corpus: Corpus) -> None:
    context = set_up(settings(*QUICK), corpus)
    teachers = make_teachers(context, Path("nobody.pth"))
    written = write_tweets(teachers, 300)
    real = CopyCheck([tweet.text for tweet in (*corpus.train, *corpus.val)], [])
    assert len(written) == 300 and all(tweet.finished and tweet.text.strip() for tweet in written)
    assert not any(real.exact(tweet.text) for tweet in written)
    assert written == write_tweets(teachers, 300)  # the same seed writes the same


def test_the_student_learns_from_all_on_written_tweets(settings: SettingsOf, corpus: Corpus) -> None:
    """Against the members and the n-gram asked one by one."""
    context = set_up(settings(*QUICK, "--distill.weights", "[3, 1]"), corpus)
    teachers = make_teachers(context, Path("nobody.pth"))
    new = [Tweet("The comet hums at dawn!", True), Tweet("The dog glows on Mars?", True)]
    rows = TweetDataset.encode(
        [*corpus.train, *new], context.tokenizer, context.vocabulary, context.config.model.block_size
    )
    real = context.rows("train").num_predictions
    found = teachers.memory(rows).at(torch.arange(real, rows.num_predictions))
    expected = []
    ngram = NGram.fit(framed_ids(corpus.train, context.tokenizer), 3)
    for tweet in framed_ids(new, context.tokenizer):
        inputs = context.vocabulary.from_gpt2(tweet[:-1])[None]
        with torch.no_grad():
            said = [member.model(inputs)[0].softmax(-1) for member in teachers.groups[0].members]
        counted = [to_vocabulary(ngram.distribution(tweet[: n + 1]), context.vocabulary) for n in range(len(tweet) - 1)]
        expected.append(0.75 * torch.stack(said).mean(0) + 0.25 * torch.from_numpy(np.stack(counted)).float())
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=1e-3)


def test_distill_from_end_to_end_and_again(
    settings: SettingsOf,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "load_processed", lambda paths: corpus)
    flags = ["--paths.root", str(tmp_path), *TINY, *QUICK]
    assert run_command("distill", flags) == 0
    out = capsys.readouterr().out
    assert trained == PARTS
    result = json.loads((tmp_path / "results" / "distillation.json").read_text(encoding="utf-8"))
    for who in ("teacher", "student", "control"):
        assert result[who]["parameters"] > 0 and result[who]["tokens_per_second"] > 0
        assert f"{result[who]['bits_per_byte']:.3f}" in out
    student, control = result["student"], result["control"]
    assert student["parameters"] == control["parameters"] == result["usual"]["parameters"]
    assert student["steps"] == control["steps"] == 8  # of 32: 2 epochs of 128 tweets, or one of 128 and as many new
    difference = student["bits_per_byte"] - control["bits_per_byte"]
    assert student["against_control"]["difference"] == pytest.approx(difference)
    assert {"stop_rate", "exact_copies", "ngram8_in_train"} <= student.keys() & control.keys()
    assert (tmp_path / "results" / "distillation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert all((tmp_path / "checkpoints" / f"{name}.pth").is_file() for name in PARTS)
    assert not list(tmp_path.rglob("*.training"))

    trained.clear()
    assert run_command("distill", [*flags, "--distill.weight", "0.3"]) == 0
    assert trained == ["student"]  # the rest was made with these settings
    again = json.loads((tmp_path / "results" / "distillation.json").read_text(encoding="utf-8"))
    assert again["teacher"]["bits_per_byte"] == result["teacher"]["bits_per_byte"]
    assert again["student"]["bits_per_byte"] != student["bits_per_byte"]

    result["student"]["against_control"] = {"difference": -0.01, "low": -0.05, "high": 0.03}
    show({**result, "verdict": verdict(result)})
    assert "No gain: " in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_stopped(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, trained: list[str], tmp_path: Path
) -> None:
    parts = settings(*QUICK, "--paths.root", str(tmp_path / "parts"))
    original, done = Trainer.update, 0

    def update(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        nonlocal done
        original(self, epoch, examples)
        done += 1
        if done == 22:  # usual and control take 8 updates each, a member 4: inside the second
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update)
        with pytest.raises(Interrupted, match=r"main\.py distill"):
            distill(parts, corpus)
    assert trained == PARTS[:4]
    trained.clear()
    torch.manual_seed(999)  # a new process would not have this run's random state either
    steps = []

    def note(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        steps.append(self.state.step)
        original(self, epoch, examples)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", note)
        resumed = distill(parts, corpus)
    assert trained == PARTS[3:] and steps[:3] == [2, 3, 0]  # the second goes on at its third update, then the third
    whole = distill(settings(*QUICK, "--paths.root", str(tmp_path / "whole")), corpus)
    for who in ("teacher", "student", "control"):
        assert resumed[who]["bits_per_byte"] == whole[who]["bits_per_byte"]


def test_usual_is_what_train_left_if_it_was_made_so(settings: SettingsOf, corpus: Corpus, trained: list[str]) -> None:
    config = settings(*QUICK, "--distill.teacher", "ngram")
    train(config, corpus)
    trained.clear()
    assert distill(config, corpus)["usual"]["name"].endswith("best_model.pth")
    assert trained == ["control", "student"]
    other = settings(*QUICK, "--distill.teacher", "ngram", "--train.learning_rate", "0.02")
    assert distill(other, corpus)["usual"]["name"].endswith("usual.pth")
    assert load_checkpoint(config.paths.best_model)["config"]["train"]["learning_rate"] == 0.01  # left as it was


def test_a_checkpoint_teaches_if_it_fits(settings: SettingsOf, corpus: Corpus, tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoints" / "best_model.pth")
    config = settings(*QUICK, "--distill.teacher", path)
    train(config, corpus)
    context = set_up(config, corpus)
    teachers = make_teachers(context, Path("nobody.pth"))
    val = context.rows("val")
    bits = score(load_bundle(Path(path), context.device).model, val, context.device).bits_per_byte
    assert scored(teachers.ensemble(), "", val)[0]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    elsewhere = replace(corpus, info={"split": {"hash": "another"}})
    for flags, tweets, words in (
        ([], elsewhere, "another split"),
        (["--model.block_size", "200"], corpus, "reads 128 tokens, the student 200"),
        (["--distill.teacher", "nothing.pth"], corpus, "no checkpoint at nothing.pth"),
        (["--distill.teacher", str(tmp_path)], corpus, f"distill.teacher {tmp_path}: there is no config.json in it"),
    ):
        with pytest.raises(UserError, match=words):
            check_teachers(set_up(settings(*QUICK, "--distill.teacher", path, *flags), tweets))


def test_a_chain_hands_on_what_it_learnt(settings: SettingsOf, corpus: Corpus, trained: list[str]) -> None:
    config = settings(*QUICK, "--distill.teacher", "chain", "--distill.generations", "2")
    result = distill(config, corpus)
    assert trained == ["usual", "control", "student_1", "student"]
    assert result["teacher"]["name"] == "student_1"
    first = load_bundle(config.paths.checkpoints / "student_1.pth", torch.device("cpu"))
    context = set_up(config, corpus)
    bits = score(first.model, context.rows("val"), context.device).bits_per_byte
    assert result["teacher"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.slow
def test_a_hugging_face_gpt2_teaches_after_fine_tuning(
    settings: SettingsOf, corpus: Corpus, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=128)
    folder = tmp_path / "their-gpt2"
    transformers.GPT2LMHeadModel(shape).save_pretrained(folder)
    flags = ["--distill.teacher", str(folder), "--distill.finetune_learning_rate", "0.01"]
    flags += ["--model.block_size", "32", "--distill.sampled", "0.5"]
    config = settings(*QUICK, *flags)
    result = distill(config, corpus)
    slug = next(name for name in trained if name.startswith("teachers/"))
    assert trained == ["usual", "control", slug, "student"]
    teacher = load_bundle(config.paths.checkpoints / f"{slug}.pth", torch.device("cpu"))
    assert teacher.vocabulary.vocab_size == 50_257 and teacher.model.config.n_embd == 16
    untrained = 50_257 ** (-1 / 1)  # a random model gives each token about this
    assert result["teacher"]["bits_per_byte"] < -math.log2(untrained) / 4  # it has learnt from the tweets
    # what it expects of tokens without a row of their own is summed into the shared rows, and nothing is lost
    context = set_up(config, corpus)
    memory = make_teachers(context, Path("nobody.pth")).memory(context.rows("train"))
    tweet = framed_ids(corpus.train[:1], context.tokenizer)[0]
    with torch.no_grad():
        of_tokens = teacher.model(torch.tensor([tweet[:-1]]))[0].softmax(-1)
    expected = torch.zeros(len(tweet) - 1, context.vocabulary.vocab_size)
    expected.index_add_(1, context.vocabulary.id_of, of_tokens)
    torch.testing.assert_close(memory.at(torch.arange(len(tweet) - 1)), expected, atol=1e-6, rtol=1e-3)


def test_a_poor_teacher_is_told_of(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Ensemble, "head", lambda self, memory: memory.new_zeros(*memory.shape[:-1], self.vocabulary.vocab_size)
    )
    result = distill(settings(*QUICK, "--distill.teacher", "ngram"), corpus)
    assert "no better than the student without one" in capsys.readouterr().err
    assert "The teacher is not clearly better" in result["verdict"][1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--distill.teacher", "[ngram, ngram]"], "distill.teacher is ['ngram', 'ngram']: give ensemble, chain, ngram"),
        (["--distill.generations", "2"], "distill.generations is 2: give 1, or chain among --distill.teacher"),
        (["--distill.teacher", "[]"], "distill.teacher is"),
        (["--distill.weights", "[1, 2, 3]"], "distill.weights is [1.0, 2.0, 3.0]: give one positive number for each"),
        (
            ["--distill.members", "1", "--distill.cross_fit", "true"],
            "distill.members is 1: give 2 or more, or --distill.cross_fit false",
        ),
        (["--distill.weight", "2"], "distill.weight is 2.0: give a share"),
        (["--distill.temperature", "-1"], "distill.temperature is -1.0: give a positive number"),
    ],
)
def test_bad_settings_get_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("distill", flags) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_more_members_than_tweets_are_refused(settings: SettingsOf, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="only 128 training tweets"):
        distill(settings("--distill.members", "500"), corpus)
