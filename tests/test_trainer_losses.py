"""Losses against their closed forms, and independence of padding."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.soft_targets import SoftTargets, compress
from trainer.losses import cross_entropy, distillation

N, V = 12, 40


def exact(probabilities: Tensor) -> SoftTargets:
    """Soft targets that keep everything."""
    return compress(probabilities, torch.full((V,), 1 / V), V)


@pytest.fixture
def logits() -> Tensor:
    """A student's logits."""
    return torch.randn(N, V, generator=torch.Generator().manual_seed(1), requires_grad=True)


TARGETS = torch.arange(N) % V
INDEX = torch.arange(N)


def test_one_hot_teacher_gives_cross_entropy(logits: Tensor) -> None:
    teacher = exact(F.one_hot(TARGETS, V).float())
    for temperature in (1.0, 2.0):
        soft, nats = distillation(teacher, weight=1.0, temperature=temperature)(logits, TARGETS, INDEX)
        expected = temperature**2 * F.cross_entropy(logits / temperature, TARGETS)
        assert soft.item() == pytest.approx(expected.item(), rel=1e-4)
        assert nats.item() == pytest.approx(F.cross_entropy(logits, TARGETS).item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_teacher_equal_to_student_gives_no_gradient(logits: Tensor, temperature: float) -> None:
    teacher = exact((logits.detach() / temperature).softmax(-1))
    soft, _ = distillation(teacher, weight=1.0, temperature=temperature)(logits, TARGETS, INDEX)
    entropy = torch.distributions.Categorical(logits=logits.detach() / temperature).entropy().mean() * temperature**2
    assert soft.item() == pytest.approx(entropy.item(), rel=1e-4)  # cross-entropy with itself: KL is 0
    (gradient,) = torch.autograd.grad(soft, logits)
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_value_and_gradient_equal_the_dense_formula(logits: Tensor, temperature: float, weight: float) -> None:
    probabilities = (3 * torch.randn(N, V, generator=torch.Generator().manual_seed(2))).softmax(-1)
    loss, _ = distillation(exact(probabilities), weight=weight, temperature=temperature)(logits, TARGETS, INDEX)
    soft = -(probabilities * (logits / temperature).log_softmax(-1)).sum(-1).mean()
    dense = (1 - weight) * F.cross_entropy(logits, TARGETS) + weight * temperature**2 * soft
    assert loss.item() == pytest.approx(dense.item(), rel=1e-5)
    ours, theirs = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(dense, logits)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_weight_zero_is_plain_cross_entropy(logits: Tensor) -> None:
    teacher = exact(torch.full((N, V), 1 / V))
    loss, nats = distillation(teacher, weight=0.0, temperature=1.0)(logits, TARGETS, INDEX)
    assert loss.item() == pytest.approx(cross_entropy(logits, TARGETS, INDEX)[0].item(), rel=1e-6)
    assert nats.item() == pytest.approx(loss.item(), rel=1e-6)


def test_the_teacher_is_looked_up_by_index(logits: Tensor) -> None:
    probabilities = torch.randn(N, V, generator=torch.Generator().manual_seed(3)).softmax(-1)
    loss = distillation(exact(probabilities), weight=1.0, temperature=1.0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    straight, _ = loss(logits, TARGETS, INDEX)
    mixed, _ = loss(logits[order], TARGETS[order], INDEX[order])
    assert mixed.item() == pytest.approx(straight.item(), rel=1e-6)
