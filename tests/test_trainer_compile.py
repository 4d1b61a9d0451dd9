"""machine.compile: training with compiled blocks gives the same losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from config.schema import Config, UserError
from model.checkpoint import load_bundle
from trainer.train import train
from utils.preprocess import Corpus
from utils.run_log import read_log

CALM = ["--train.learning_rate", "0.003", "--train.batch_size", "20", "--model.n_layer", "3"]
CALM += ["--model.block_size", "24"]
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch causes it itself
SettingsOf = Callable[..., Config]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts the graphs that torch.compile would make code for. They run uncompiled, so no compiler is needed."""
    counter, original = CompileCounterWithBackend("aot_eager"), nn.Module.compile

    def with_counter(module: nn.Module, **how: Any) -> None:
        original(module, backend=counter, **how)

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", with_counter)
    return counter


def losses(config: Config, corpus: Corpus) -> list[float]:
    """The validation loss after each epoch."""
    train(config, corpus)
    return [line["val/loss"] for line in read_log(config.paths.metrics) if "val/loss" in line]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_losses_are_the_same(
    settings: SettingsOf, corpus: Corpus, tmp_path: Path, made: CompileCounterWithBackend, precision: str
) -> None:
    flags = ("--model.dropout", "0", "--train.output_dropout", "0", "--machine.precision", precision)
    plain = losses(settings(*CALM, *flags, "--paths.root", str(tmp_path / "plain")), corpus)
    assert made.frame_count == 0
    config = settings(*CALM, *flags, "--machine.compile", "true", "--paths.root", str(tmp_path / "compiled"))
    compiled = losses(config, corpus)
    assert compiled == pytest.approx(plain, abs=1e-5 if precision == "f32" else 0.01) and plain[0] - plain[-1] > 0.2
    last = len(corpus.train) % config.train.batch_size  # the last batch of an epoch has another shape
    assert last and made.frame_count == 2  # for all layers, all steps
    names = load_bundle(config.paths.best_model, torch.device("cpu")).model.state_dict()
    assert not any("orig_mod" in name for name in names)


def test_dropout_is_compiled_too(settings: SettingsOf, corpus: Corpus, made: CompileCounterWithBackend) -> None:
    found = losses(settings(*CALM, "--model.dropout", "0.2", "--machine.compile", "true"), corpus)
    assert made.frame_count == 2 and found[0] - found[-1] > 0.2


def test_without_a_compiler_it_says_so(
    settings: SettingsOf, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        train(settings("--machine.compile", "true"), corpus)
