"""Losses against their closed forms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.soft_targets import SoftTargets, compress
from trainer.losses import Loss, cross_entropy, distillation, soft_cross_entropy

N, V = 12, 40


def exact(probabilities: Tensor) -> SoftTargets:
    """Soft targets that store every id."""
    return compress(probabilities, torch.full((V,), 1 / V), V)


class GivenProbs:
    """A teacher with the given probabilities (N, V)."""

    def __init__(self, probabilities: Tensor) -> None:
        self.probabilities = probabilities

    def at(self, index: Tensor) -> Tensor:
        return self.probabilities[index]


def both(probabilities: Tensor, *, weight: float, temperature: float) -> list[Loss]:
    """The losses that have a teacher, with these settings; soft_cross_entropy only at temperature 1."""
    losses = [distillation(GivenProbs(probabilities), weight=torch.full((N,), weight), temperature=temperature)]
    return losses + [soft_cross_entropy(exact(probabilities), weight=weight)] * (temperature == 1.0)


@pytest.fixture
def logits() -> Tensor:
    """A student's logits."""
    return torch.randn(N, V, generator=torch.Generator().manual_seed(1), requires_grad=True)


TARGETS = torch.arange(N) % V
INDEX = torch.arange(N)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_one_hot_teacher_gives_cross_entropy(logits: Tensor, temperature: float) -> None:
    one_hot = F.one_hot(TARGETS, V).float()
    for loss in both(one_hot, weight=1.0, temperature=temperature):
        soft, nats = loss(logits, TARGETS, INDEX)
        expected = temperature**2 * F.cross_entropy(logits / temperature, TARGETS)
        assert soft.item() == pytest.approx(expected.item(), rel=1e-4)
        assert nats.item() == pytest.approx(F.cross_entropy(logits, TARGETS).item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_teacher_equal_to_student_gives_no_gradient(logits: Tensor, temperature: float) -> None:
    softened = torch.distributions.Categorical(logits=logits.detach() / temperature)
    entropy = softened.entropy().mean() * temperature**2
    for loss in both(logits.detach().softmax(-1), weight=1.0, temperature=temperature):
        soft, _ = loss(logits, TARGETS, INDEX)
        assert soft.item() == pytest.approx(entropy.item(), rel=1e-4)  # cross-entropy with itself: KL is 0
        (gradient,) = torch.autograd.grad(soft, logits)
        assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_value_and_gradient_equal_the_dense_formula(logits: Tensor, temperature: float, weight: float) -> None:
    probabilities = (3 * torch.randn(N, V, generator=torch.Generator().manual_seed(2))).softmax(-1)
    softened = probabilities ** (1 / temperature)
    softened /= softened.sum(-1, keepdim=True)
    for loss in both(probabilities, weight=weight, temperature=temperature):
        found, _ = loss(logits, TARGETS, INDEX)
        soft = -(softened * (logits / temperature).log_softmax(-1)).sum(-1).mean()
        dense = (1 - weight) * F.cross_entropy(logits, TARGETS) + weight * temperature**2 * soft
        assert found.item() == pytest.approx(dense.item(), rel=1e-5)
        ours, theirs = torch.autograd.grad(found, logits)[0], torch.autograd.grad(dense, logits)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_weight_zero_is_plain_cross_entropy(logits: Tensor) -> None:
    for loss in both(torch.full((N, V), 1 / V), weight=0.0, temperature=1.0):
        found, nats = loss(logits, TARGETS, INDEX)
        assert found.item() == pytest.approx(cross_entropy(logits, TARGETS, INDEX)[0].item(), rel=1e-6)
        assert nats.item() == pytest.approx(found.item(), rel=1e-6)


def test_each_place_has_its_own_weight(logits: Tensor) -> None:
    probabilities = torch.randn(N, V, generator=torch.Generator().manual_seed(3)).softmax(-1)
    weight = (INDEX % 2).float()
    found, _ = distillation(GivenProbs(probabilities), weight=weight, temperature=1.0)(logits, TARGETS, INDEX)
    log_q = logits.log_softmax(-1)
    hard, soft = -log_q.gather(1, TARGETS[:, None])[:, 0], -(probabilities * log_q).sum(-1)
    assert found.item() == pytest.approx(torch.where(weight == 1, soft, hard).mean().item(), rel=1e-5)


def test_the_teacher_is_looked_up_by_index(logits: Tensor) -> None:
    probabilities = torch.randn(N, V, generator=torch.Generator().manual_seed(3)).softmax(-1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for loss in both(probabilities, weight=1.0, temperature=1.0):
        straight, _ = loss(logits, TARGETS, INDEX)
        mixed, _ = loss(logits[order], TARGETS[order], INDEX[order])
        assert mixed.item() == pytest.approx(straight.item(), rel=1e-6)
