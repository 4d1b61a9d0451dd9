"""Dropout whose random numbers cost a third on a CPU, where torch draws each of them with double precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 16  # a probability is a multiple of 1 / LEVELS


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number of x with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    Four of them share one 64-bit random number.
    """
    if p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    zeroed = round(p * LEVELS)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[: x.numel()].view(x.shape) >= zeroed - LEVELS // 2
    return x * kept.to(x.dtype).mul_(LEVELS / max(1, LEVELS - zeroed))


class Dropout(nn.Module):
    """`dropout` while training, nothing else."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
