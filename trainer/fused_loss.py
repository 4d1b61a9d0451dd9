"""Faster versions of `loss(model.head(hidden))`. trainer/losses.py chooses one; tests compare them with the plain one.

`fused_loss`, on a CPU: head and loss as one function, faster in bfloat16 and with a third of the memory.
`padded_head`, on a CUDA GPU: a matrix product whose number of outputs is a multiple of 64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.fast import Trainable

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # of trainer/losses.py
MULTIPLE = 64  # sizes of matrix products are padded to a multiple of this
MANY = 1 << 25  # logits of a batch, 128 MB: with more, their memory matters
BLOCK = 128  # tokens whose loss is computed together: their logits fit into a CPU's cache


class FusedLoss(torch.autograd.Function):
    """The loss of the head's logits, computed for one block of tokens after another.

    `forward` replaces the logits of each block by their gradient, in the same memory and in the number format of the
    matrix product. So memory is needed for one of the two only, as in Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989).
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
        """The loss and the nats of the targets: means over the N tokens of `hidden` (N, C).

        `weight` (V, C) and `bias` (V,) belong to the head; `dtype` is the number format of the products. `loss`,
        `targets` and `index` are explained in trainer/losses.py.
        """
        tokens = len(hidden)
        padded, cast = pad_rows(hidden, dtype), weight.to(dtype)
        scores = padded @ cast.t()  # without the bias, which torch would first write into every row
        scores[tokens:] = 0
        bias_grad = None if bias is None else torch.zeros_like(bias)
        sums = torch.zeros(2, device=hidden.device)
        for first in range(0, tokens, BLOCK):
            here = slice(first, min(tokens, first + BLOCK))
            block = scores[here]  # logits, later their gradient
            logits = block.float() if bias is None else block.float().add_(bias)
            logits.requires_grad_()
            with torch.enable_grad():
                means = loss(logits, targets[here], index[here])
                value, nats = (mean * (len(block) / tokens) for mean in means)
            (grad,) = torch.autograd.grad(value, logits)
            block.copy_(grad)
            sums += torch.stack([value.detach(), nats])
            if bias_grad is not None:
                bias_grad += grad.sum(0)
        ctx.tokens = tokens
        ctx.save_for_backward(padded, cast, scores, bias_grad)
        value, nats = sums.unbind()
        ctx.mark_non_differentiable(nats)
        return value, nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to hidden, weight and bias."""
        padded, cast, scores, bias_grad = ctx.saved_tensors
        hidden_grad, weight_grad = (scores @ cast)[: ctx.tokens] * grad, (scores.t() @ (padded * grad)).float()
        return hidden_grad, weight_grad, None if bias_grad is None else bias_grad * grad, *[None] * 4


def fused_loss(model: Trainable, hidden: Tensor, targets: Tensor, index: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """`loss` of the model's logits and the nats of the targets, in the number format of the enclosing autocast."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        head = hidden.float(), model.head_weight, model.head_bias
        found: tuple[Tensor, Tensor]
        found = FusedLoss.apply(*head, loss, targets, index, dtype)  # type: ignore[no-untyped-call]
    return found


def pad_rows(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """`hidden` (N, C) as `dtype`. In bfloat16, rows of zeros are appended, up to a multiple of MULTIPLE.

    Batches rarely have the same number of tokens. On a CPU, oneDNN makes code for each new shape of a product in
    bfloat16, which takes 0.4 ms where the product takes 0.1. It caches the code (model/device.py), so the fewer shapes
    there are, the faster.
    """
    if dtype != torch.bfloat16:
        return hidden.to(dtype)
    padded = hidden.new_zeros(-(-len(hidden) // MULTIPLE) * MULTIPLE, hidden.shape[1], dtype=dtype)
    padded[: len(hidden)] = hidden
    return padded


def use_fused_loss(dtype: torch.dtype, device: torch.device, logits: int) -> bool:
    """Whether `fused_loss` is better: on a CPU, in bfloat16 or if a batch has so many logits that memory matters."""
    return device.type == "cpu" and (dtype == torch.bfloat16 or logits > MANY)


def padded_head(model: Trainable, hidden: Tensor) -> Tensor:
    """Logits (N, V) as GPT.head, with the number of outputs padded to a multiple of MULTIPLE for the product.

    On an H200 the head of GPT-2's 50,257 tokens takes three times as long as that of 50,304 (benchmarks/README.md).
    """
    vocab_size = len(model.head_weight)
    weight = F.pad(model.head_weight, (0, 0, 0, -vocab_size % MULTIPLE))
    logits = F.linear(hidden, weight)[:, :vocab_size]
    return logits if model.head_bias is None else logits + model.head_bias
