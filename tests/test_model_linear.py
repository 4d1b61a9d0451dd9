"""The product that all cores share, against the same sum in float64."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import model.linear
from config.cli import parse
from model.linear import FEW, Linear, lay_out_for_writing, product
from model.transformer import GPT


@pytest.fixture(params=[1, 2, 3])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("outputs", [2, 7, 60, 61])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (FEW, 1), (FEW + 1, 1), (0, 1), (1,), ()])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_sum(
    monkeypatch: pytest.MonkeyPatch, cores: int, outputs: int, shape: tuple[int, ...], with_bias: bool
) -> None:
    monkeypatch.setattr(model.linear, "LARGE", 1)
    monkeypatch.setattr(model.linear, "fewest", lambda: 1)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape, 5), torch.randn(outputs, 5), torch.randn(outputs) if with_bias else None
    truth = torch.einsum("...c,oc->...o", x.double(), weight.double()) + (0.0 if bias is None else bias.double())
    with torch.no_grad():
        for x_, weight_ in ((x, weight), (x.mT.contiguous().mT if x.dim() > 1 else x, weight.T.contiguous().T)):
            found = product(x_, weight_, bias)
            torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=1e-5)


def test_the_parts_are_all_there_is(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(model.linear, "LARGE", 1)
    monkeypatch.setattr(model.linear, "fewest", lambda: 1)
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *_: pytest.fail("torch's own product was asked"))
    layer = Linear(8, 6 * cores)
    if cores > 1:
        with torch.inference_mode():
            assert layer(torch.randn(2, 3, 8)).shape == (2, 3, 6 * cores)
    with pytest.raises(pytest.fail.Exception):  # one with a gradient, many rows
        layer(torch.randn(2, 3, 8))
    with torch.no_grad(), pytest.raises(pytest.fail.Exception):
        layer(torch.randn(3, 3, 8))


def test_another_layout_is_the_same_model() -> None:
    torch.manual_seed(0)
    settings = replace(parse("train", [])[0].model, n_layer=2, n_head=2, n_embd=16, block_size=8)
    model, rows = GPT(settings, vocab_size=40).eval(), torch.arange(6)[None]
    attention, mlp = model.get_submodule("h.0.attn.c_attn"), model.get_submodule("h.0.mlp.c_proj")
    before, logits = copy.deepcopy(model.state_dict()), model(rows)
    lay_out_for_writing(model)
    assert not model.wte.weight.is_contiguous() and not attention.get_parameter("weight").is_contiguous()
    assert mlp.get_parameter("weight").is_contiguous()  # torch reads this one faster as it is
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    torch.testing.assert_close(model(rows), logits)
    with torch.no_grad():
        cache, step = model.new_cache(1), []
        for row in rows[0]:
            step.append(model(row.view(1, 1), cache)[0, 0])
    torch.testing.assert_close(torch.stack(step), logits[0])


def test_training_goes_the_usual_way() -> None:
    layer = Linear(4, 3)
    x = torch.randn(2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 4))
