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
    """Mean cross-entropy of distributions given as SoftTargets; the dense target is never kept.

    The gradient is (softmax(logits) - target) / N, written into one (N, V) tensor.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, probs: Tensor, tail: Tensor, base: Tensor) -> Tensor:
        """`logits` (N, V), `rows` and `probs` (N, k), `tail` (N,), `base` (V,)."""
        normaliser = logits.logsumexp(-1)
        ctx.save_for_backward(logits, normaliser, rows, probs, tail, base)
        expected = (probs * logits.gather(1, rows)).sum(-1) + tail * (logits @ base)
        return (normaliser - expected).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Gradient with respect to the logits only."""
        logits, normaliser, rows, probs, tail, base = ctx.saved_tensors
        result = (logits - normaliser[:, None]).exp_()
        result.addr_(tail, base, alpha=-1.0)
        result.scatter_add_(1, rows, -probs)
        return result.mul_(grad / len(logits)), None, None, None, None


def distillation(teacher: SoftTargets, *, weight: float, temperature: float) -> Loss:
    """(1 - weight) cross-entropy + weight T^2 KL(teacher || student), per token (Hinton et al. 2015).

    The teacher's distributions must have been softened with the same temperature T when they were stored. Its entropy
    is left out: it is a constant, so KL and cross-entropy have the same gradient.
    """

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        soft = teacher.take(index)
        rows = soft.rows.long()
        with torch.no_grad():
            nats = F.cross_entropy(logits, targets)
        if temperature == 1.0:  # both parts have one softmax: mix the targets instead of the losses
            rows = torch.cat([rows, targets[:, None]], 1)
            hard = torch.full_like(soft.probs[:, :1], 1.0 - weight)
            probs = torch.cat([weight * soft.probs, hard], 1)
            return SoftCrossEntropy.apply(logits, rows, probs, weight * soft.tail, soft.base), nats
        softened = SoftCrossEntropy.apply(logits / temperature, rows, soft.probs, soft.tail, soft.base)
        return (1.0 - weight) * F.cross_entropy(logits, targets) + weight * temperature**2 * softened, nats

    return loss
