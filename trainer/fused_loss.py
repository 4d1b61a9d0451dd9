"""Faster twins of `loss(model.head(hidden))`, chosen in trainer/losses.py and held equal to it by tests.

`fused_loss`, on a CPU: head and loss as one function, faster in bfloat16 and with a third of the memory.
`padded_head`, on a CUDA GPU: a product whose number of outputs is a multiple of 64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.transformer import GPT

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # of trainer/losses.py
MULTIPLE = 64  # tokens: a product in bfloat16 has so many, or twice or thrice ...
MANY = 1 << 25  # logits of a batch, 128 MB: with more of them memory counts
BLOCK = 128  # tokens whose loss is taken together: their logits stay in the CPU's cache


class FusedLoss(torch.autograd.Function):
    """The loss of the head's logits, block of tokens by block of tokens.

    Forward turns the logits of each block into their gradient, in the same memory, so logits and gradients of all
    tokens lie there once, in the numbers that are multiplied; as in Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Loss,
        targets: Tensor,
        index: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Loss and plain nats, means over the N tokens of `hidden` (N, C).

        `weight` (V, C) and `bias` (V,) are the head's, `dtype` is that of the products. For `loss` and what it takes
        see trainer/losses.py.
        """
        tokens = len(hidden)
        rows, half = filled(hidden, dtype), weight.to(dtype)
        scores = rows @ half.t()  # without the bias: torch would first write it into every row
        scores[tokens:] = 0
        of_bias = None if bias is None else torch.zeros_like(bias)
        sums = torch.zeros(2, device=hidden.device)
        for first in range(0, tokens, BLOCK):
            here = slice(first, min(tokens, first + BLOCK))
            block = scores[here]  # logits, and then their gradient
            logits = block.float() if bias is None else block.float().add_(bias)
            logits.requires_grad_()
            with torch.enable_grad():
                means = loss(logits, targets[here], index[here])
                value, nats = (mean * (len(block) / tokens) for mean in means)
            (grad,) = torch.autograd.grad(value, logits)
            block.copy_(grad)
            sums += torch.stack([value.detach(), nats])
            if of_bias is not None:
                of_bias += grad.sum(0)
        ctx.tokens = tokens
        ctx.save_for_backward(rows, half, scores, of_bias)
        value, nats = sums.unbind()
        ctx.mark_non_differentiable(nats)
        return value, nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to hidden, weight and bias."""
        rows, half, scores, of_bias = ctx.saved_tensors
        of_hidden, of_weight = (scores @ half)[: ctx.tokens] * grad, (scores.t() @ (rows * grad)).float()
        return of_hidden, of_weight, None if of_bias is None else of_bias * grad, *[None] * 4


def fused_loss(model: GPT, hidden: Tensor, targets: Tensor, index: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """`loss` of the model's logits, and the plain nats, in the precision of the autocast around it."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        head = hidden.float(), model.wte.weight, model.head_bias
        found: tuple[Tensor, Tensor]
        found = FusedLoss.apply(*head, loss, targets, index, dtype)  # type: ignore[no-untyped-call]
    return found


def filled(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows (N, C) as `dtype`, in bfloat16 with rows of zeros after them up to a multiple of MULTIPLE.

    Batches hardly ever have the same number of tokens, and a CPU's library first makes code for each shape of a product
    in bfloat16: 0.4 ms, where the product takes 0.1. That code is kept (model/device.py) if the shapes are few.
    """
    if dtype != torch.bfloat16:
        return hidden.to(dtype)
    rows = hidden.new_zeros(-(-len(hidden) // MULTIPLE) * MULTIPLE, hidden.shape[1], dtype=dtype)
    rows[: len(hidden)] = hidden
    return rows


def pays(dtype: torch.dtype, device: torch.device, logits: int) -> bool:
    """Whether `fused_loss` is worth it: on a CPU in bfloat16, or for so many logits that memory counts."""
    return device.type == "cpu" and (dtype == torch.bfloat16 or logits > MANY)


def padded_head(model: GPT, hidden: Tensor) -> Tensor:
    """Logits (N, V) of GPT.head, computed with the outputs filled up to a multiple of MULTIPLE.

    On an H200 the head of GPT-2's 50,257 tokens takes three times as long as that of 50,304 (benchmarks/README.md).
    """
    vocab_size = model.wte.num_embeddings
    weight = F.pad(model.wte.weight, (0, 0, 0, -vocab_size % MULTIPLE))
    logits = F.linear(hidden, weight)[:, :vocab_size]
    return logits if model.head_bias is None else logits + model.head_bias
