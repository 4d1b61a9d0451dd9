"""Muon (Jordan et al. 2024): gradient descent with momentum, where the update of each matrix is made orthogonal.

The gradient of a matrix is dominated by a few directions, and so is what AdamW does. An orthogonal update has all its
singular values at 1: it moves the matrix equally far in every direction. A small model learns more in a step this way
(benchmarks/LOG.md has by how much).

torch.optim.Muon gives the same update, which a test compares. It always multiplies in bfloat16, which takes twenty
times as long on a processor without instructions for it; this one multiplies in the number format of the training.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

STEPS = 5  # of the iteration
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of its polynomial a x + b x^3 + c x^5, by Jordan: steepest at 0


class Muon(Optimizer):
    """Nesterov momentum with orthogonal updates. A matrix with R times as many rows as columns moves sqrt(R) as far.

    Args:
        matrices: parameters with two dimensions, or groups of them.
        dtype: the number format of the products.
    """

    def __init__(self, matrices: ParamsT, *, lr: float, dtype: torch.dtype, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        assert closure is None, "the loss is computed before"
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                if not self.state[matrix]:
                    self.state[matrix]["mean"] = torch.zeros_like(matrix)  # of the gradient
                mean = self.state[matrix]["mean"].lerp_(matrix.grad, 1.0 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(mean, group["momentum"]), self.dtype)
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T of a matrix (R, C) = U S V^T, by Newton-Schulz iteration.

    Its singular values are 0.7 to 1.2, or less where those of the matrix are below a 500th of its norm.
    """
    a, b, c = COEFFICIENTS
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix  # the products are those of the shorter side
    x = (x / x.norm().clamp(min=1e-7)).to(dtype)
    for _ in range(STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)


class MuonAndAdamW:
    """Both, used like one optimizer. The rate of a group is `lr_scale` times that of AdamW."""

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        self.muon, self.adamw = muon, adamw

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [*self.adamw.param_groups, *self.muon.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none)
        self.muon.zero_grad(set_to_none)

    def step(self) -> None:
        """Update the weights."""
        self.adamw.step()
        self.muon.step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
