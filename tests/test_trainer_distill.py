"""Distillation: nobody marks his own training tweets, targets stand where they belong, nothing is trained twice."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.cli import parse, run_command
from config.schema import Config, UserError
from model.checkpoint import load_bundle, load_checkpoint
from model.ngram import NGram
from model.soft_targets import SoftTargets, compress, dense
from model.tokenizer import load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.conftest import TINY
from trainer import distill as module
from trainer import teachers
from trainer.batches import PAD, Batch, Rows
from trainer.distill import distill, make_teacher, set_up, teacher_line
from trainer.distill_report import show, verdict
from trainer.prepare import Job, framed_ids, prepare
from trainer.score import score
from trainer.teachers import Ensemble, KneserNey, Mixture, fold_of, soften, unigram_rows
from trainer.train import Interrupted, Trainer, train
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
QUICK = ["--train.epochs", "1", "--distill.members", "3", "--distill.member_epochs", "1", "--evaluate.samples", "8"]
QUICK += ["--generate.max_new_tokens", "12"]
PARTS = ["teachers/member_1", "teachers/member_2", "teachers/member_3", "control", "student"]


@pytest.fixture(scope="module")
def corpus(tweets: list[Tweet]) -> Corpus:
    """The made-up tweets, every seventh kept for validation."""
    held = tweets[::7]
    rest = [tweet for tweet in tweets if tweet not in held]
    return Corpus(train=rest, val=held, info={"split": {"hash": "made-up", "train": len(rest), "val": len(held)}})


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


@pytest.fixture(scope="module")
def ensemble(tweets: list[Tweet]) -> tuple[Ensemble, list[list[int]]]:
    """Two random models, five tweets of which each takes several rows, two folds; and the framed tweets."""
    shape = replace(parse("train", TINY)[0].model, block_size=4)
    tokenizer, some = load_tokenizer("gpt2"), [tweets[0], tweets[12], tweets[42], tweets[3], tweets[148]]
    vocabulary = Vocabulary.build(shape, tokenizer, tokenizer.encode_batch([tweet.text for tweet in some]))
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        members.append(GPT(shape, vocabulary.num_rows).eval())
        for parameter in members[-1].parameters():
            parameter.data += torch.randn_like(parameter) / 3  # opinions that can be told apart
    rows, framed = Rows.encode(some, tokenizer, vocabulary, shape.block_size), framed_ids(some, tokenizer)
    base = unigram_rows(NGram.fit(framed, 2), vocabulary)
    return Ensemble(members, vocabulary, rows, base, torch.tensor([0, 1, 1, 0, 1])), framed


@torch.no_grad()
def one_by_one(model: GPT, vocabulary: Vocabulary, tweet: list[int]) -> Tensor:
    """Logits at every place of a framed tweet, in pieces of the block size, each read alone."""
    pieces = vocabulary.to_rows(tweet[:-1]).split(model.config.block_size)
    return torch.cat([model(piece[None])[0] for piece in pieces])


@pytest.mark.parametrize("crossed", [True, False])
def test_targets_are_numbered_as_the_predictions_of_rows(
    ensemble: tuple[Ensemble, list[list[int]]], crossed: bool
) -> None:
    whole, framed = ensemble
    assert whole.folds is not None and len(whole.train.starts) > len(framed)
    asked = whole if crossed else replace(whole, folds=None)
    expected = []
    for tweet, fold in zip(framed, whole.folds.tolist(), strict=True):
        answers = [one_by_one(member, whole.vocabulary, tweet).softmax(-1) for member in whole.members]
        expected.append(answers[fold] if crossed else (answers[0] + answers[1]) / 2)
    targets = asked.targets(whole.vocabulary.num_rows)
    assert len(targets) == whole.train.num_predictions == sum(len(tweet) - 1 for tweet in framed)
    found = dense(targets, torch.arange(len(targets)))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-4)
    assert float((torch.cat(expected)[:-1] - torch.cat(expected)[1:]).abs().amax(-1).min()) > 1e-3  # order matters


def test_a_batch_of_training_gets_the_targets_of_its_places(ensemble: tuple[Ensemble, list[list[int]]]) -> None:
    whole, framed = ensemble
    targets = KneserNey(NGram.fit(framed, 2), whole.vocabulary, framed, framed).targets(whole.vocabulary.num_rows)
    numbered = [row for tweet in framed for row in whole.vocabulary.to_rows(tweet[1:]).tolist()]
    for chosen in whole.train.epoch(3, seed=0, epoch=0):
        batch = whole.train.batch(chosen)
        real = batch.targets != PAD
        assert [numbered[place] for place in batch.index[real].tolist()] == batch.targets[real].tolist()
    assert len(targets) == len(numbered)


def test_a_mixture_is_the_weighted_mean_and_sums_to_one(ensemble: tuple[Ensemble, list[list[int]]]) -> None:
    whole, framed = ensemble
    ngram = KneserNey(NGram.fit(framed, 2), whole.vocabulary, framed, framed)
    mixture = Mixture([whole, ngram], [3.0, 1.0])
    rows = whole.vocabulary.num_rows
    parts = [dense(part.targets(rows), torch.arange(whole.train.num_predictions)) for part in (whole, ngram)]
    full = dense(mixture.targets(rows), torch.arange(whole.train.num_predictions))
    torch.testing.assert_close(full, 0.75 * parts[0] + 0.25 * parts[1], atol=1e-5, rtol=1e-4)
    few = dense(mixture.targets(5), torch.arange(whole.train.num_predictions))
    for distributions in (full, few):
        torch.testing.assert_close(distributions.sum(-1), torch.ones(len(full)), atol=1e-5, rtol=0)
    assert mixture.name == "ensemble of 2 + 2-gram"


def test_chances_are_those_of_gpt2s_tokens(ensemble: tuple[Ensemble, list[list[int]]]) -> None:
    whole, framed = ensemble
    ngram = NGram.fit(framed, 2)
    unseen = [Tweet("The rocket zyzzyva 🚀 hums.", True), Tweet("Cut in the mid", False)]
    val, tokenizer = framed_ids(unseen, load_tokenizer("gpt2")), load_tokenizer("gpt2")
    expected = []
    for tweet in val:
        logits = [one_by_one(member, whole.vocabulary, tweet) for member in whole.members]
        of_tokens = torch.stack([whole.vocabulary.log_probs(one).exp() for one in logits]).mean(0)  # (n, 50257)
        chosen = of_tokens.gather(1, torch.tensor(tweet[1:])[:, None])[:, 0]
        expected.append(0.5 * chosen.double() + 0.5 * torch.from_numpy(ngram.log_probs(tweet)).exp())
    mixture = Mixture([whole, KneserNey(ngram, whole.vocabulary, framed, val)], [1.0, 1.0])
    found = mixture.chances(Rows.encode(unseen, tokenizer, whole.vocabulary, 4))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-9, rtol=1e-4)


def test_softening_is_a_power_of_the_probabilities() -> None:
    p = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).softmax(-1)
    base = torch.full((9,), 1 / 9)
    softer = dense(soften(compress(p, base, 9), temperature=2.0, top_k=9), torch.arange(5))
    torch.testing.assert_close(softer, (p.log() / 2).softmax(-1), atol=1e-6, rtol=1e-4)


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

    asked: list[tuple[int, Batch]] = []
    answer = teachers.expected

    def listen(members: list[GPT], batch: Batch) -> Tensor:
        asked.extend((id(member), batch) for member in members)
        return answer(members, batch)

    monkeypatch.setattr(module, "prepare", spy)
    monkeypatch.setattr(teachers, "expected", listen)
    setting = set_up(settings(*QUICK), corpus)
    mixture = make_teacher(setting)
    targets = mixture.targets(8)
    members = mixture.teachers[0]
    assert isinstance(members, Ensemble) and isinstance(targets, SoftTargets)
    fitted = {id(member): seen[f"member_{n + 1}"] for n, member in enumerate(members.members)}
    owner = members.train.tweet.repeat_interleave(members.train.lengths)
    spoken_on = []
    for member, batch in asked:
        tweets = owner[batch.index[batch.targets != PAD]].unique().tolist()
        assert not {corpus.train[tweet].text for tweet in tweets} & fitted[member]
        spoken_on += tweets
    assert sorted(spoken_on) == list(range(len(corpus.train)))  # each tweet once


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
    assert student["parameters"] == control["parameters"] and student["steps"] == control["steps"] == 4
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

    def update(self: Trainer, rows: Tensor, tokens: Tensor) -> None:
        nonlocal done
        original(self, rows, tokens)
        done += 1
        if done == 5:  # a member is 3 updates: inside the second
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update)
        with pytest.raises(Interrupted, match=r"main\.py distill"):
            distill(parts, corpus)
    assert trained == PARTS[:2]
    trained.clear()
    torch.manual_seed(999)  # a new process would not have this run's random state either
    steps = []

    def note(self: Trainer, rows: Tensor, tokens: Tensor) -> None:
        steps.append(self.state.step)
        original(self, rows, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", note)
        resumed = distill(parts, corpus)
    assert trained == PARTS[1:] and steps[:2] == [2, 0]  # the second goes on at its third update, then the third begins
    whole = distill(settings(*QUICK, "--paths.root", str(tmp_path / "whole")), corpus)
    for who in ("teacher", "student", "control"):
        assert resumed[who]["bits_per_byte"] == whole[who]["bits_per_byte"]


def test_control_is_what_train_left_if_it_was_made_so(settings: SettingsOf, corpus: Corpus, trained: list[str]) -> None:
    config = settings(*QUICK, "--distill.teacher", "ngram")
    train(config, corpus)
    trained.clear()
    assert distill(config, corpus)["control"]["name"].endswith("best_model.pth")
    assert trained == ["student"]
    other = settings(*QUICK, "--distill.teacher", "ngram", "--train.learning_rate", "0.02")
    assert distill(other, corpus)["control"]["name"].endswith("control.pth")
    assert load_checkpoint(config.paths.best_model)["config"]["train"]["learning_rate"] == 0.01  # left as it was


def test_a_checkpoint_teaches_if_it_fits(settings: SettingsOf, corpus: Corpus, tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoints" / "best_model.pth")
    config = settings(*QUICK, "--distill.teacher", path)
    train(config, corpus)
    setting = set_up(config, corpus)
    mixture = make_teacher(setting)
    bits = score(load_bundle(Path(path), setting.device).model, setting.vocabulary, setting.rows("val")).bits_per_byte
    assert teacher_line(setting, mixture)[0]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert len(mixture.targets(8)) == setting.rows("train").num_predictions
    elsewhere = replace(corpus, info={"split": {"hash": "another"}})
    for flags, tweets, words in (
        ([], elsewhere, "another split"),
        (["--model.min_count", "50"], corpus, "another vocabulary"),
        (["--model.block_size", "200"], corpus, "reads 128 tokens, the student 200"),
        (["--distill.teacher", "nothing.pth"], corpus, "no checkpoint at nothing.pth"),
    ):
        with pytest.raises(UserError, match=words):
            make_teacher(set_up(settings(*QUICK, "--distill.teacher", path, *flags), tweets))


def test_a_poor_teacher_is_told_of(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Mixture, "chances", lambda self, val: torch.full((val.num_predictions,), 1e-9).double())
    result = distill(settings(*QUICK, "--distill.teacher", "ngram"), corpus)
    assert "no better than the student without one" in capsys.readouterr().err
    assert "The teacher is not clearly better" in result["verdict"][1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--distill.teacher", "gpt2"], "distill.teacher is 'gpt2': give ensemble, ngram, checkpoints (.pth)"),
        (["--distill.teacher", "[]"], "distill.teacher is"),
        (["--distill.weights", "[1, 2, 3]"], "distill.weights is [1.0, 2.0, 3.0]: give one positive number for each"),
        (["--distill.members", "1"], "distill.members is 1: give 2 or more, or --distill.cross_fit false"),
        (["--distill.weight", "0"], "distill.weight is 0.0: give a share"),
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
