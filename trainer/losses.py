"""Losses, per real token: a mean over tokens, so that padding and batch shape never change them.

A loss takes logits (N, V), targets (N,) and the numbers of these N predictions among all of the training text (N,),
and returns what to minimise and, beside it, the plain nats of the targets, which is what gets reported.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.soft_targets import SoftTargets

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nats of the targets."""
    nats = F.cross_entropy(logits, targets)
    return nats, nats.detach()


class SoftCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of distributions given as SoftTargets; the dense target is never made.

    The gradient is (softmax(logits) - target) / N. The exponentials of the forward pass become it in place, so logits
    of 450 tokens over 8,000 rows are gone through half as often as with `log_softmax` and a dense target.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, rows: Tensor, probs: Tensor, tail: Tensor, base: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss and the mean nats of `targets` (N,).

        `logits` (N, V), `rows` and `probs` (N, k), `tail` (N,), `base` (V,).
        """
        highest = logits.amax(-1, keepdim=True)
        exponentials = (logits - highest).exp_()
        total = exponentials.sum(-1, keepdim=True)
        normaliser = (highest + total.log())[:, 0]
        expected = (probs * logits.gather(1, rows)).sum(-1) + tail * (logits @ base)
        nats = (normaliser - logits.gather(1, targets[:, None])[:, 0]).mean()
        ctx.save_for_backward(exponentials, total, rows, probs, tail, base)
        ctx.mark_non_differentiable(nats)
        return (normaliser - expected).mean(), nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Gradient with respect to the logits only; uses up what the forward pass kept."""
        exponentials, total, rows, probs, tail, base = ctx.saved_tensors
        share = grad / len(total)
        result = exponentials.mul_(share / total)
        result.addr_(tail * share, base, alpha=-1.0)
        return result.scatter_add_(1, rows, -probs * share), None, None, None, None, None


def distillation(teacher: SoftTargets, *, weight: float, temperature: float) -> Loss:
    """(1 - weight) cross-entropy + weight T^2 KL(teacher || student), per token (Hinton et al. 2015).

    The teacher's distributions must have been softened with the same temperature T when they were stored. Its entropy
    is left out: it is a constant, so KL and cross-entropy have the same gradient.
    """

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        soft = teacher.take(index)
        rows = soft.rows.long()
        if temperature == 1.0:  # both parts have one softmax: mix the targets instead of the losses
            rows = torch.cat([rows, targets[:, None]], 1)
            hard = torch.full_like(soft.probs[:, :1], 1.0 - weight)
            probs = torch.cat([weight * soft.probs, hard], 1)
            return SoftCrossEntropy.apply(logits, targets, rows, probs, weight * soft.tail, soft.base)
        softened, _ = SoftCrossEntropy.apply(logits / temperature, targets, rows, soft.probs, soft.tail, soft.base)
        nats = F.cross_entropy(logits, targets)
        return (1.0 - weight) * nats + weight * temperature**2 * softened, nats.detach()

    return loss
