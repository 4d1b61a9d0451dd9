"""Dropout whose random numbers cost a sixth on a CPU, where torch draws each of them with double precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 8  # a probability is a multiple of 1 / LEVELS on a CPU


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number of x with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    On a CPU eight of them share one 64-bit random number, and p is the nearest multiple of 1 / 256 between 0 and 1
    (not where this is compiled: torch can't trace such a draw).
    """
    if p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    zeroed = min(max(1, round(p * LEVELS)), LEVELS - 1)
    drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.int8)
    kept = drawn[: x.numel()].view(x.shape) >= zeroed - LEVELS // 2
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - zeroed))


class Dropout(nn.Module):
    """`dropout` while training, nothing else."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
