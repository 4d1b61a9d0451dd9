"""The learning rate schedule and the parameter groups of the optimizer."""

from collections.abc import Callable

import pytest

from config.schema import Config
from model.transformer import GPT
from trainer.optim import lr_at, make_optimizer

SettingsOf = Callable[..., Config]


def test_learning_rate_at_known_steps(settings: SettingsOf) -> None:
    flags = ("--train.learning_rate", "1", "--train.warmup_fraction", "0.1", "--train.final_lr_fraction", "0.2")
    config = settings(*flags).train
    assert lr_at(0, 100, config) == pytest.approx(1 / 11)  # above 0 at the first update
    assert lr_at(9, 100, config) == pytest.approx(10 / 11)
    assert lr_at(10, 100, config) == pytest.approx(1.0)
    middle = 10 + 89 / 2
    assert lr_at(int(middle), 100, config) == pytest.approx(0.6, abs=0.02)  # half way down between 1 and 0.2
    assert lr_at(99, 100, config) == pytest.approx(0.2)


def test_learning_rate_of_short_and_odd_runs(settings: SettingsOf) -> None:
    config = settings("--train.warmup_fraction", "1").train
    rates = [lr_at(step, 5, config) for step in range(5)]
    assert rates == sorted(rates) and rates[0] > 0  # warm-up to the very end
    assert lr_at(0, 1, settings("--train.warmup_fraction", "0").train) > 0


def test_every_parameter_is_in_one_group_and_only_matrices_decay(settings: SettingsOf) -> None:
    config = settings("--train.weight_decay", "0.5")
    model = GPT(config.model, 30)
    optimizer = make_optimizer(model, config.train)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        matrix = name.endswith(".weight") and "ln_" not in name
        expected = 0.5 if matrix else 0.0
        assert decays[id(parameter)] == expected, name
