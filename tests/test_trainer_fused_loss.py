"""Head and loss computed in blocks, against the loss of all logits at once and against autocast."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.cli import parse
from model.soft_targets import SoftTargets, compress
from model.transformer import GPT
from tests.conftest import TINY
from trainer import fused_loss
from trainer.fused_loss import MULTIPLE, FusedLoss, pad_rows, padded_head
from trainer.losses import Loss, cross_entropy, distillation, soft_cross_entropy

N, C, V = 301, 16, 97  # three blocks on a CPU, the last of them smaller
Leaves = tuple[Tensor, Tensor, Tensor]


class GivenProbs:
    """A teacher with given probabilities at every position."""

    def __init__(self, probabilities: Tensor) -> None:
        self.probabilities = probabilities

    def at(self, index: Tensor) -> Tensor:
        return self.probabilities[index]


def leaves(seed: int = 0) -> Leaves:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((N, C), (V, C), (V,))
    hidden, weight, bias = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return hidden, weight, bias


def losses() -> dict[str, Loss]:
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.randn(2 * N, V, generator=generator).softmax(-1)
    soft: SoftTargets = compress(probabilities, torch.full((V,), 1 / V), 5)
    share = torch.rand(2 * N, generator=generator)
    return {
        "plain": cross_entropy,
        "soft": soft_cross_entropy(soft, weight=0.5),
        "taught": distillation(GivenProbs(probabilities), weight=share, temperature=2.0),
    }


def places() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(V, (N,), generator=generator), torch.randperm(2 * N, generator=generator)[:N]


@pytest.mark.parametrize("name", ["plain", "soft", "taught"])
@pytest.mark.parametrize("biased", [True, False])
def test_blocks_give_the_loss_and_gradient_of_the_whole(name: str, biased: bool) -> None:
    loss, (targets, index) = losses()[name], places()
    ours, whole = leaves(), leaves()
    kept = slice(None) if biased else slice(2)
    value, nats = FusedLoss.apply(*ours[:2], ours[2] if biased else None, loss, targets, index, torch.float32)
    (0.25 * value).backward()
    expected, plain = loss(F.linear(whole[0], whole[1], whole[2] if biased else None), targets, index)
    (0.25 * expected).backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert nats.item() == pytest.approx(plain.item(), rel=1e-6)
    for mine, other in zip(ours[kept], whole[kept], strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-7, rtol=1e-5)


def test_the_gradient_is_proportional_to_that_of_the_result() -> None:
    once, thrice = leaves(), leaves()
    for mine, factor in ((once, 1.0), (thrice, 3.0)):
        value, _ = FusedLoss.apply(*mine, cross_entropy, *places(), torch.float32)
        (factor * value).backward()
    for one, three in zip(once, thrice, strict=True):
        assert one.grad is not None and three.grad is not None
        torch.testing.assert_close(3.0 * one.grad, three.grad)


def test_in_bfloat16_it_is_what_autocast_does() -> None:
    targets, index = places()
    ours, torchs = leaves(), leaves()
    value, _ = FusedLoss.apply(*ours, cross_entropy, targets, index, torch.bfloat16)
    value.backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = F.linear(*torchs)
    F.cross_entropy(logits.float(), targets).backward()
    assert value.item() == pytest.approx(F.cross_entropy(logits.float(), targets).item(), rel=1e-3)
    for mine, other in zip(ours, torchs, strict=True):
        assert mine.grad is not None and other.grad is not None and mine.grad.dtype == torch.float32
        assert nn.functional.cosine_similarity(mine.grad.flatten(), other.grad.flatten(), dim=0) > 0.9999
        assert (mine.grad - other.grad).norm() < 0.01 * other.grad.norm()


def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if all tokens are in one block."""
    found = []
    for size in (7, 10_000):
        monkeypatch.setattr(fused_loss, "BLOCK", size)
        mine = leaves()
        value, nats = FusedLoss.apply(*mine, losses()["soft"], *places(), torch.float32)
        value.backward()
        found.append([value.detach(), nats, *(leaf.grad for leaf in mine)])
    for few, all_of_them in zip(*found, strict=True):
        torch.testing.assert_close(few, all_of_them, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("count", [1, MULTIPLE, MULTIPLE + 1])
def test_rows_of_zeros_are_appended_only_in_bfloat16(count: int) -> None:
    rows = torch.randn(count, C)
    half = pad_rows(rows, torch.bfloat16)
    assert len(half) % MULTIPLE == 0 and len(half) - count < MULTIPLE
    assert torch.equal(half[:count], rows.bfloat16()) and not half[count:].any()
    assert pad_rows(rows, torch.float32).shape == rows.shape


@pytest.mark.parametrize("flags", [[], ["--model.output_bias", "false"]])
def test_a_padded_head_gives_the_logits_of_the_plain_one(flags: list[str]) -> None:
    torch.manual_seed(0)
    model = GPT(parse("train", [*TINY, *flags])[0].model, V)
    assert V % MULTIPLE != 0
    ours, plain = (torch.randn(N, 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    goal = torch.randn(N, V)
    gradients = []
    for hidden, logits in ((ours, padded_head(model, ours)), (plain, model.head(plain))):
        (logits * goal).sum().backward()
        gradients.append([hidden.grad, model.wte.weight.grad.clone()])  # type: ignore[union-attr]
        model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded_head(model, ours), model.head(plain), atol=1e-6, rtol=1e-5)
