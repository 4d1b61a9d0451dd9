"""model/soft_targets.py: compressed distributions against the full ones."""

import math

import pytest
import torch
from torch import Tensor

from model.soft_targets import SoftTargets, compress, concatenate, dense

N, V = 300, 2000
BASE = torch.arange(1, V + 1).double().pow(-1.0)
BASE /= BASE.sum()


def peaked(number: int = N, *, sharpness: float = 4.0, seed: int = 0) -> Tensor:
    """Distributions like those of a language model: the unigram times random factors of very different sizes."""
    noise = torch.randn(number, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (BASE.log() + sharpness * noise).softmax(-1)


def full(targets: SoftTargets) -> Tensor:
    return dense(targets, torch.arange(len(targets)))


def divergence(p: Tensor, q: Tensor) -> float:
    """Mean KL(p || q) over places."""
    return float((p * (p.clamp(min=1e-12) / q).log()).sum(-1).mean())


def test_stored_ids_are_exact_and_the_rest_is_proportional_to_the_base() -> None:
    teacher = peaked()
    targets = compress(teacher, BASE, 20)
    assert targets.ids.shape == targets.probs.shape == (N, 20) and targets.ids.dtype == torch.int32
    assert targets.probs.dtype == targets.tail.dtype == targets.base.dtype == torch.float32
    found = full(targets).double()
    for place in range(0, N, 50):
        kept = sorted(range(V), key=lambda index: -float(teacher[place, index]))[:20]
        others = [index for index in range(V) if index not in kept]
        torch.testing.assert_close(found[place, kept], teacher[place, kept], atol=1e-7, rtol=1e-5)
        left = 1.0 - float(teacher[place, kept].sum())
        expected = left * BASE[others] / BASE[others].sum()
        torch.testing.assert_close(found[place, others], expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("top_k", [1, 64, V - 1, V, 2 * V])
def test_sums_to_one(top_k: int) -> None:
    targets = compress(peaked().float(), BASE, top_k)
    torch.testing.assert_close(full(targets).sum(-1), torch.ones(N), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.probs.sum(-1) + targets.tail, torch.ones(N), atol=1e-6, rtol=0)


def test_storing_all_ids_gives_the_teacher() -> None:
    torch.testing.assert_close(full(compress(peaked(), BASE, V)).double(), peaked(), atol=1e-7, rtol=1e-5)


def test_one_hot_and_the_base_itself() -> None:
    teacher = torch.stack([torch.eye(V, dtype=torch.float64)[7], BASE])
    found = full(compress(teacher, BASE, 5)).double()
    torch.testing.assert_close(found, teacher, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("top_k", "sharpness", "entropy"), [(64, 6.0, 1.4), (256, 5.0, 1.8), (512, 4.0, 2.4)])
def test_gives_the_full_divergence_within_one_percent(top_k: int, sharpness: float, entropy: float) -> None:
    """The flatter the teacher (the higher its entropy), the more of the 2,000 ids must be stored."""
    teacher = peaked(sharpness=sharpness)
    assert divergence(teacher, torch.ones(V, dtype=torch.float64)) == pytest.approx(-entropy, abs=0.1)
    found = full(compress(teacher, BASE, top_k)).double()
    far = BASE.expand(N, V)
    for student in (far, 0.5 * far + 0.5 * peaked(seed=1, sharpness=2.0), 0.3 * teacher + 0.7 * far):
        assert divergence(found, student) == pytest.approx(divergence(teacher, student), rel=0.01)


def test_storing_more_ids_loses_less_of_a_flat_teacher() -> None:
    teacher = peaked(sharpness=1.5)
    losses = [divergence(teacher, full(compress(teacher, BASE, top_k)).double()) for top_k in (16, 64, 256, V)]
    assert losses == sorted(losses, reverse=True) and losses[-1] == pytest.approx(0.0, abs=1e-5)


def test_cross_entropy_without_the_full_form() -> None:
    targets = compress(peaked(), BASE, 32)
    log_q = peaked(seed=1, sharpness=1.0).log().float()
    sparse = -(targets.probs * log_q.gather(1, targets.ids.long())).sum(-1) - targets.tail * (log_q @ targets.base)
    torch.testing.assert_close(sparse, -(full(targets) * log_q).sum(-1), rtol=1e-5, atol=1e-5)


def test_take_concatenate_and_to() -> None:
    teacher = peaked()
    whole = compress(teacher, BASE, 32)
    joined = concatenate([compress(part, BASE, 32) for part in teacher.split(70)])
    torch.testing.assert_close(full(joined), full(whole))
    index = torch.tensor([5, 3, 299, 3])
    torch.testing.assert_close(full(whole.take(index)), full(whole)[index])
    torch.testing.assert_close(dense(whole.to(torch.device("cpu")), index), full(whole)[index])


def test_different_bases_are_not_joined() -> None:
    with pytest.raises(AssertionError, match="different bases"):
        concatenate([compress(peaked(4), BASE, 8), compress(peaked(4), BASE.flip(0), 8)])


def test_rounding_in_the_teacher_does_no_harm() -> None:
    targets = compress((peaked() * (1 + 3e-4)).half(), BASE, 64)
    assert math.isclose(float(full(targets).sum(-1).mean()), 1.0, abs_tol=1e-5)
