"""Distillation: which teachers teach where, targets are at their positions, nothing is trained twice."""

import json
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
from distillation.distill import distill, table_line
from distillation.report import conclusions, print_table
from distillation.runs import set_up
from distillation.teachers import check_teachers, make_teachers, write_tweets
from generate.copies import CopyCheck
from model.checkpoint import load_bundle, load_checkpoint
from model.ensemble import Ensemble
from model.ngram import NGram, to_vocabulary
from model.tracks import TWEETS
from tests.conftest import TINY
from trainer.batches import Epoch, TweetDataset
from trainer.job import framed_ids
from trainer.score import score
from trainer.train import Interrupted, Trainer, train
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
QUICK = ["--train.epochs", "2", "--distill.members", "3", "--distill.member_epochs", "1", "--distill.epochs", "1"]
QUICK += ["--distill.batch_size", "32", "--distill.workers", "1", "--distill.teacher", "[ensemble, ngram]"]
QUICK += ["--evaluate.samples", "8"]
QUICK += ["--generate.max_new_tokens", "12", "--distill.sampled", "1"]
NO_CHAIN = Path("missing.pth")  # no teacher asks for it
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


@pytest.mark.parametrize("names", ["[ensemble, ngram]", "[ngram]"])
def test_on_real_tweets_the_ngram_teaches_alone_without_the_tweet(
    settings: SettingsOf, corpus: Corpus, names: str
) -> None:
    """Against an n-gram fitted again to all other tweets, but for the discounts, which depend on all of them."""
    context = set_up(settings(*QUICK, "--distill.teacher", names), corpus)
    found = make_teachers(context, NO_CHAIN).cache(context.dataset("train")).at(torch.arange(6))
    torch.testing.assert_close(found.sum(-1), torch.ones(len(found)), atol=1e-4, rtol=0)
    first, *others = framed_ids(corpus.train, context.tokenizer)
    ngram = NGram.fit(others, 3)
    for level, whole in zip(ngram.levels, NGram.fit([first, *others], 3).levels, strict=True):
        level.discounts = whole.discounts
    expected = [to_vocabulary(ngram.distribution(first[: n + 1]), context.vocabulary) for n in range(6)]
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)).float(), atol=1e-4, rtol=1e-2)


def test_on_real_tweets_the_ensemble_teaches_if_there_is_no_ngram(settings: SettingsOf, corpus: Corpus) -> None:
    context = set_up(settings(*QUICK, "--distill.teacher", "ensemble"), corpus)
    teachers = make_teachers(context, NO_CHAIN)
    found = teachers.cache(context.dataset("train")).at(torch.arange(4))
    ids = context.vocabulary.from_gpt2(framed_ids(corpus.train[:1], context.tokenizer)[0][:4])[None]
    with torch.no_grad():
        expected = torch.stack([member.model(ids)[0].softmax(-1) for member in teachers.groups[0].members()]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


def test_what_the_teachers_write_is_new_and_ends(settings: SettingsOf, corpus: Corpus) -> None:
    context = set_up(settings(*QUICK), corpus)
    teachers = make_teachers(context, NO_CHAIN)
    written = write_tweets(teachers, 300)
    real = CopyCheck([tweet.text for tweet in (*corpus.train, *corpus.val)])
    assert len(written) == 300 and all(tweet.finished and tweet.text.strip() for tweet in written)
    assert not any(real.exact(tweet.text) for tweet in written)
    assert written == write_tweets(teachers, 300)  # the same seed writes the same


def test_on_written_tweets_all_teach(settings: SettingsOf, corpus: Corpus) -> None:
    """Against the members and the n-gram computed one by one."""
    context = set_up(settings(*QUICK, "--distill.weights", "[3, 1]"), corpus)
    teachers = make_teachers(context, NO_CHAIN)
    new = [Tweet("The comet hums at dawn!", True), Tweet("The dog glows on Mars?", True)]
    dataset = TweetDataset.encode(
        [*corpus.train, *new], context.tokenizer, context.vocabulary, context.config.model.block_size
    )
    real = context.dataset("train").num_predictions
    found = teachers.cache(dataset).at(torch.arange(real, dataset.num_predictions))
    expected = []
    ngram = NGram.fit(framed_ids(corpus.train, context.tokenizer), 3)
    for tweet in framed_ids(new, context.tokenizer):
        inputs = context.vocabulary.from_gpt2(tweet[:-1])[None]
        with torch.no_grad():
            probs = [member.model(inputs)[0].softmax(-1) for member in teachers.groups[0].members()]
        counted = [to_vocabulary(ngram.distribution(tweet[: n + 1]), context.vocabulary) for n in range(len(tweet) - 1)]
        expected.append(0.75 * torch.stack(probs).mean(0) + 0.25 * torch.from_numpy(np.stack(counted)).float())
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
    print_table({**result, "verdict": conclusions(result)})
    assert "No gain: " in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_stopped(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, trained: list[str], tmp_path: Path
) -> None:
    parts = settings(*QUICK, "--paths.root", str(tmp_path / "parts"))
    original, done = Trainer.step, 0

    def update(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        nonlocal done
        original(self, epoch, examples)
        done += 1
        if done == 22:  # usual and control take 8 updates each, a member 4: inside the second
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", update)
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
        patch.setattr(Trainer, "step", note)
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
    teachers = make_teachers(context, NO_CHAIN)
    val = context.dataset("val")
    bits = score(load_bundle(Path(path), context.device).model, val).bits_per_byte
    assert table_line(teachers.ensemble(), "", val, track=TWEETS)[0]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    elsewhere = replace(corpus, info={"split": {"hash": "another"}})
    for flags, tweets, words in (
        ([], elsewhere, "another split"),
        (["--model.block_size", "200"], corpus, "reads 128 tokens, the student 200"),
        (["--distill.teacher", "nothing.pth"], corpus, "no checkpoint at nothing.pth"),
    ):
        with pytest.raises(UserError, match=words):
            check_teachers(set_up(settings(*QUICK, "--distill.teacher", path, *flags), tweets))


def test_a_student_teaches_the_next_generation(settings: SettingsOf, corpus: Corpus, trained: list[str]) -> None:
    config = settings(*QUICK, "--distill.teacher", "chain", "--distill.generations", "2")
    result = distill(config, corpus)
    assert trained == ["usual", "control", "student_1", "student"]
    assert result["teacher"]["name"] == "student_1"
    first = load_bundle(config.paths.checkpoints / "student_1.pth", torch.device("cpu"))
    context = set_up(config, corpus)
    bits = score(first.model, context.dataset("val")).bits_per_byte
    assert result["teacher"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_a_poor_teacher_gets_a_message(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Ensemble, "head", lambda self, hidden: hidden.new_zeros(*hidden.shape[:-1], self.vocabulary.vocab_size)
    )
    result = distill(settings(*QUICK, "--distill.teacher", "ngram"), corpus)
    assert "no better than the model without a teacher" in capsys.readouterr().err
    assert "The teacher is not clearly better" in result["verdict"][1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--distill.teacher", "[ngram, ngram]"],
            "distill.teacher is ['ngram', 'ngram']: give auto, a pretrained model, or a list of ensemble",
        ),
        (["--distill.generations", "2"], "distill.generations is 2: give 1, or chain among --distill.teacher"),
        (["--distill.teacher", "[]"], "distill.teacher is"),
        (["--distill.weights", "[1, 2, 3]"], "distill.weights is [1.0, 2.0, 3.0]: give one positive number for each"),
        (["--distill.members", "0"], "distill.members is 0: give 1 or more"),
        (["--distill.cross_fit", "true"], "distill.cross_fit was removed, leave it out"),
        (["--distill.weight", "2"], "distill.weight is 2.0: give a share"),
        (["--distill.temperature", "-1"], "distill.temperature is -1.0: give a positive number"),
    ],
)
def test_bad_settings_get_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("distill", flags) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_file_with_a_removed_setting_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("distill:\n  members: 3\n  cross_fit: false\n", encoding="utf-8")
    assert run_command("distill", ["--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert "distill.cross_fit was removed, leave it out" in err and err.count("\n") == 1
