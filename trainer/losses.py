"""Losses. Each is a mean over the real tokens, so padding and the shape of a batch do not change it.

A loss takes logits (N, V), targets (N,) and the index (N,) of each of these N predictions in the dataset. It returns
the value to minimise and the mean nats of the targets, which is what is reported.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from model.fast import Trainable
from model.soft_targets import SoftTargets
from trainer.batches import Batch
from trainer.fused_loss import fused_loss, padded_head, use_fused_loss

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
BatchLoss = Callable[[Trainable, Tensor, Batch], tuple[Tensor, Tensor]]


def with_head(loss: Loss, dtype: torch.dtype, device: torch.device, *, logits: int) -> BatchLoss:
    """`loss` as a function of a batch's hidden states (N, C): of the logits that the model's head gives for them.

    It uses a function of trainer/fused_loss.py if that is faster for products in `dtype` on `device` and a batch with
    this many logits.
    """

    def plain(model: Trainable, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return loss(model.head(hidden).float(), batch.targets, batch.index)

    def fused(model: Trainable, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return fused_loss(model, hidden, batch.targets, batch.index, loss)

    def padded(model: Trainable, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return loss(padded_head(model, hidden).float(), batch.targets, batch.index)

    if use_fused_loss(dtype, device, logits):
        return fused
    return padded if device.type == "cuda" else plain


def cross_entropy(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nats of the targets."""
    nats = F.cross_entropy(logits, targets)
    return nats, nats.detach()


class SoftCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy with SoftTargets, without making the dense target.

    The gradient is (softmax(logits) - target) / N. It is computed in place from the softmax of the forward pass, which
    needs half as many passes over the logits as `log_softmax` and a dense target.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        ids: Tensor,
        probs: Tensor,
        tail: Tensor,
        base: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The loss and the mean nats of `targets` (N,).

        `logits` (N, V), `ids` and `probs` (N, k), `tail` (N,), `base` (V,).
        """
        softmax = logits.softmax(-1)
        normaliser = logits.amax(-1) - softmax.amax(-1).log()  # log of the sum of exponentials
        expected = (probs * logits.gather(1, ids)).sum(-1) + tail * (logits @ base)
        nats = (normaliser - logits.gather(1, targets[:, None])[:, 0]).mean()
        ctx.save_for_backward(softmax, ids, probs, tail, base)
        ctx.mark_non_differentiable(nats)
        return (normaliser - expected).mean(), nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the logits. It overwrites the saved softmax."""
        softmax, ids, probs, tail, base = ctx.saved_tensors
        scale = grad / len(softmax)
        result = softmax.mul_(scale)
        result.addr_(tail * scale, base, alpha=-1.0)
        return result.scatter_add_(1, ids, -probs * scale), *[None] * 5


def soft_cross_entropy(teacher: SoftTargets, *, weight: float | Tensor) -> Loss:
    """(1 - weight) cross-entropy + weight KL(teacher || student), a mean over tokens.

    The teacher's entropy is left out: it is a constant, so the gradient is the same.

    Args:
        weight: the same for all, or (N,) one for each position of the dataset.
    """
    shares = torch.as_tensor(weight, dtype=torch.float32, device=teacher.tail.device).expand(len(teacher))

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        soft, share = teacher.probs[index], shares[index]
        ids = torch.cat([teacher.ids[index].long(), targets[:, None]], 1)
        probs = torch.cat([share[:, None] * soft, 1.0 - share[:, None]], 1)
        found: tuple[Tensor, Tensor]
        target = ids, probs, share * teacher.tail[index], teacher.base
        found = SoftCrossEntropy.apply(logits, targets, *target)  # type: ignore[no-untyped-call]
        return found

    return loss


class TeacherProbs(Protocol):
    """The probabilities of a teacher at each position of the dataset."""

    def at(self, index: Tensor) -> Tensor:
        """Probabilities (n, V) at the positions `index` (n,)."""


def distillation(teacher: TeacherProbs, *, weight: Tensor, temperature: float) -> Loss:
    """(1 - w) cross-entropy + w T^2 KL(teacher || student), a mean over tokens (Hinton et al. 2015).

    The teacher's entropy is left out: it is a constant, so the gradient is the same.

    Args:
        weight: (N,) w at each position of the dataset.
        temperature: T; the logits of teacher and student are divided by it.
    """

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        expected, share = teacher.at(index), weight[index.cpu()].to(logits.device)
        log_probs = logits.log_softmax(-1)
        nats, softened = F.nll_loss(log_probs, targets, reduction="none"), log_probs
        if temperature != 1.0:
            expected = (expected.clamp(min=1e-30).log() / temperature).softmax(-1)
            softened = (logits / temperature).log_softmax(-1)
        soft = -(expected * softened).sum(-1)
        return ((1.0 - share) * nats + share * temperature**2 * soft).mean(), nats.detach().mean()

    return loss
