"""Losses: a mean over the real tokens, so that padding and batch shape never change them.

A loss takes logits (N, V), targets (N,) and the numbers of these N predictions in the dataset (N,). It returns what to
minimise and the plain nats of the targets, which are what is reported.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from model.soft_targets import SoftTargets
from model.transformer import GPT
from trainer.batches import Batch
from trainer.fused_loss import fused_loss, padded_head, pays

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
BatchLoss = Callable[[GPT, Tensor, Batch], tuple[Tensor, Tensor]]


def with_head(loss: Loss, dtype: torch.dtype, device: torch.device, *, logits: int) -> BatchLoss:
    """`loss` of the model's logits, from the hidden states (N, C) of a batch.

    Where a twin of trainer/fused_loss.py is faster, for products in `dtype` on `device` and so many logits, it is used.
    """

    def plain(model: GPT, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return loss(model.head(hidden).float(), batch.targets, batch.index)

    def as_one(model: GPT, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return fused_loss(model, hidden, batch.targets, batch.index, loss)

    def padded(model: GPT, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return loss(padded_head(model, hidden).float(), batch.targets, batch.index)

    if pays(dtype, device, logits):
        return as_one
    return padded if device.type == "cuda" else plain


def cross_entropy(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nats of the targets."""
    nats = F.cross_entropy(logits, targets)
    return nats, nats.detach()


class SoftCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of distributions given as SoftTargets; the dense target is never made.

    The gradient is (softmax(logits) - target) / N. The softmax of the forward pass becomes it in place, so the logits
    are gone through half as often as with `log_softmax` and a dense target.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, ids: Tensor, probs: Tensor, tail: Tensor, base: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss and the mean nats of `targets` (N,).

        `logits` (N, V), `ids` and `probs` (N, k), `tail` (N,), `base` (V,).
        """
        likely = logits.softmax(-1)
        normaliser = logits.amax(-1) - likely.amax(-1).log()  # log of the sum of exponentials
        expected = (probs * logits.gather(1, ids)).sum(-1) + tail * (logits @ base)
        nats = (normaliser - logits.gather(1, targets[:, None])[:, 0]).mean()
        ctx.save_for_backward(likely, ids, probs, tail, base)
        ctx.mark_non_differentiable(nats)
        return (normaliser - expected).mean(), nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Gradient with respect to the logits only; uses up what the forward pass kept."""
        likely, ids, probs, tail, base = ctx.saved_tensors
        share = grad / len(likely)
        result = likely.mul_(share)
        result.addr_(tail * share, base, alpha=-1.0)
        return result.scatter_add_(1, ids, -probs * share), None, None, None, None, None


def soft_cross_entropy(teacher: SoftTargets, *, weight: float) -> Loss:
    """Cross-entropy with targets of which `weight` is what a teacher expects, and the rest the token itself.

    That is (1 - weight) cross-entropy + weight KL(teacher || student), less the teacher's entropy, a constant.
    """

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        soft = teacher.probs[index]
        ids = torch.cat([teacher.ids[index].long(), targets[:, None]], 1)
        probs = torch.cat([weight * soft, torch.full_like(soft[:, :1], 1.0 - weight)], 1)
        tail = weight * teacher.tail[index]
        found: tuple[Tensor, Tensor]
        found = SoftCrossEntropy.apply(logits, targets, ids, probs, tail, teacher.base)  # type: ignore[no-untyped-call]
        return found

    return loss


class TeacherProbs(Protocol):
    """What teachers expect at each place of the dataset."""

    def at(self, index: Tensor) -> Tensor:
        """Probabilities (n, V) at the places `index` (n,)."""


def distillation(teacher: TeacherProbs, *, weight: Tensor, temperature: float) -> Loss:
    """(1 - w) cross-entropy + w T^2 KL(teacher || student), a mean over tokens (Hinton et al. 2015).

    The teacher's entropy is left out: it is a constant, so KL and cross-entropy have the same gradient.

    Args:
        weight: (N,) w at each place of the dataset.
        temperature: T; both sides are softened by it.
    """

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        expected, share = teacher.at(index), weight[index.cpu()].to(logits.device)
        log_probs = logits.log_softmax(-1)
        nats, softened = F.nll_loss(log_probs, targets, reduction="none"), log_probs
        if temperature != 1.0:
            expected = (expected.clamp(min=1e-30).log() / temperature).softmax(-1)
            softened = (logits / temperature).log_softmax(-1)
        taught = -(expected * softened).sum(-1)
        return ((1.0 - share) * nats + share * temperature**2 * taught).mean(), nats.detach().mean()

    return loss
