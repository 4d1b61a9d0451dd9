"""The matrix product of every layer and of the head, with all cores at work where torch would use one."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 8  # rows; of more torch's own product keeps all cores busy
LARGE = 1 << 17  # weights; a smaller product is done before a second core has heard of it


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., O), of x (..., C), weight (O, C) and bias (O,): F.linear, to a rounding.

    Writing a text is products of one row, and these are read from memory by one core alone: here each takes its part of
    the outputs, as one product of a batch.
    """
    if weight.numel() < LARGE or torch.is_grad_enabled() or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    (outputs, C), cores = weight.shape, torch.get_num_threads()
    rows = x.numel() // C
    if cores == 1 or not fewest() <= rows <= FEW:
        return F.linear(x, weight, bias)
    even = outputs - outputs % cores  # those that can be dealt out
    shared = x.reshape(1, rows, C).expand(cores, rows, C)
    parts = weight[:even].unflatten(0, (cores, -1)).transpose(1, 2)  # (cores, C, even / cores)
    y = torch.bmm(shared, parts) if bias is None else torch.baddbmm(bias[:even].view(cores, 1, -1), shared, parts)
    y = y.transpose(0, 1).reshape(*x.shape[:-1], even)
    if even == outputs:
        return y
    return torch.cat([y, F.linear(x, weight[even:], None if bias is None else bias[even:])], dim=-1)


@cache
def fewest() -> int:
    """Rows from which on sharing pays; MKL itself shares fewer on Intel's processors, and on no others."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return 4 if str(able.get("cpu_name", "")).startswith("Intel") else 1


def lay_out_for_writing(model: nn.Module) -> None:
    """Lay weights with more outputs than inputs out column by column, if the model is on a CPU.

    The numbers and shapes are the same, but torch reads them two to three times as fast for a product of few rows.
    For a model that writes and is not saved any more: what is saved should not depend on what was done with it.
    """
    for weight in model.parameters():
        if weight.dim() == 2 and weight.shape[0] > weight.shape[1] and weight.device.type == "cpu":
            weight.data = weight.data.t().contiguous().t()


class Linear(nn.Linear):
    """torch's, with `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)
