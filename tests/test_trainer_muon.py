"""Muon: against torch's own, and against the singular value decomposition; together with AdamW as one optimizer."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from config.schema import Config
from model.transformer import GPT
from trainer.muon import Muon, MuonAndAdamW, orthogonal
from trainer.optim import make_optimizer

SettingsOf = Callable[..., Config]
SHAPES = [(8, 8), (8, 24), (32, 8)]  # square, wide, tall


def test_its_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(matrix.detach().clone()) for matrix in ours]
    mine = Muon(ours, lr=0.02, dtype=torch.bfloat16)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        mine.step()
        peer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)  # they round to bfloat16 at different places


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_has_the_directions_of_the_gradient_and_none_is_much_larger(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    gradient = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))  # a few directions are ten times others
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    along = left.T @ orthogonal(gradient, torch.float32) @ right.T
    assert float((along - along.diag().diag()).abs().max()) < 0.01
    assert float(along.diag().min()) > 0.3 and float(along.diag().max()) < 1.3


def test_each_parameter_is_trained_once_and_only_the_layers_matrices_by_muon(settings: SettingsOf) -> None:
    config = settings("--train.muon", "4", "--train.learning_rate", "0.001")
    model = GPT(config.model, 30)
    optimizer = make_optimizer(model, config.train)
    assert isinstance(optimizer, MuonAndAdamW)
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(map(id, model.parameters()))
    by_muon = {id(parameter) for group in optimizer.muon.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in by_muon) == (name.startswith("h.") and parameter.dim() == 2), name
    assert [group["lr"] for group in optimizer.muon.param_groups] == [0.004]


def test_a_restored_optimizer_takes_the_same_steps(settings: SettingsOf) -> None:
    config = settings("--train.muon", "4")
    torch.manual_seed(0)
    model = GPT(config.model, 30)
    optimizer = make_optimizer(model, config.train)
    ids = torch.randint(30, (4, 9))

    def step(model: nn.Module, optimizer: MuonAndAdamW) -> dict[str, Tensor]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        return model.state_dict()

    assert isinstance(optimizer, MuonAndAdamW)
    step(model, optimizer)
    other = copy.deepcopy(model)
    restored = make_optimizer(other, config.train)
    assert isinstance(restored, MuonAndAdamW)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.manual_seed(2)
    one = step(model.eval(), optimizer)
    two = step(other.eval(), restored)
    assert all(torch.equal(one[name], two[name]) for name in one)
