"""Dropout against what it promises: a share, a mean, a gradient, and silence where it is off."""

import pytest
import torch

from model.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.001, 0.1, 0.4, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeroes_a_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(1001, 999, dtype=dtype), p)  # not a multiple of the eight that share a number
    assert (found == 0).double().mean().item() == pytest.approx(p, abs=0.004)
    assert found.double().mean().item() == pytest.approx(1.0, rel=0.02)
    assert len(found.unique()) == 2


def test_places_are_independent() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.3) > 0).double() - 0.7
    for apart in (1, 2, 3, 4, 7, 8, 16):
        together = (kept[apart:] * kept[:-apart]).mean().item() / 0.21  # correlation
        assert abs(together) < 0.01, apart


def test_gradient_flows_where_numbers_are_kept() -> None:
    torch.manual_seed(0)
    x = torch.full((50, 50), 2.0, requires_grad=True)
    found = dropout(x, 0.25)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, found.detach() / 2.0)


def test_the_seed_decides_and_evaluation_changes_nothing() -> None:
    layer, x = Dropout(0.5), torch.randn(7, 3)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    before = torch.get_rng_state()
    assert layer.eval()(x) is x and dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), before)
