"""What `train` left is used by a distillation only if these very settings made it."""

from collections.abc import Callable
from typing import Any

import pytest

from config.schema import Config
from distillation.runs import set_up, steps_by_train
from model.checkpoint import load_checkpoint, save_checkpoint
from trainer.train import Trainer, train
from utils.preprocess import Corpus

SettingsOf = Callable[..., Config]


@pytest.fixture
def left(settings: SettingsOf, corpus: Corpus) -> Config:
    """Settings of a finished run."""
    config = settings()
    train(config, corpus)
    return config


def steps(config: Config, corpus: Corpus) -> int | None:
    return steps_by_train(set_up(config, corpus))


def test_it_is_used_with_its_own_settings_alone(left: Config, settings: SettingsOf, corpus: Corpus) -> None:
    assert steps(left, corpus) == load_checkpoint(left.paths.last_model)["state"]["step"]
    assert steps(settings("--train.sample_every", "3"), corpus), "that changes nothing in what is learnt"
    for flags in (("--train.learning_rate", "0.02"), ("--train.epochs", "3"), ("--model.n_embd", "32")):
        assert steps(settings(*flags), corpus) is None
    assert steps(left, Corpus(corpus.train, corpus.val, {"split": {"hash": "another"}})) is None


@pytest.mark.parametrize("which", ["best_model.pth", "last_model.pth"])
def test_it_is_not_used_where_the_run_went_on_at_another_rate(left: Config, corpus: Corpus, which: str) -> None:
    """The best epoch came before the change, or after it."""
    path = left.paths.checkpoints / which
    content = load_checkpoint(path)
    content["config"]["train"]["learning_rate"] = 0.02
    save_checkpoint(path, content)
    assert steps(left, corpus) is None


@pytest.mark.parametrize(
    "change", [{"rate_changed": True}, {"epoch": 1}, {"best_epoch": 7}], ids=lambda it: next(iter(it))
)
def test_what_the_run_says_of_itself_counts(left: Config, corpus: Corpus, change: dict[str, Any]) -> None:
    content = load_checkpoint(left.paths.last_model)
    content["state"] |= change
    save_checkpoint(left.paths.last_model, content)
    assert steps(left, corpus) is None


def test_a_run_that_went_on_at_another_rate_and_was_best_after_it(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Trainer) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    end_epoch = Trainer.end_epoch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "end_epoch", stop)
        train(settings(), corpus)
    other = settings("--train.learning_rate", "0.005", "--train.resume", "true")
    assert train(other, corpus).best_epoch == 2, "so the best model says 0.005"
    assert load_checkpoint(other.paths.last_model)["state"]["rate_changed"]
    assert steps(other, corpus) is None


def test_without_a_run_there_is_nothing_to_use(settings: SettingsOf, corpus: Corpus) -> None:
    assert steps(settings(), corpus) is None
