"""Parameter groups, the learning rate's course, and the average of the weights."""

import math

import torch
from torch import Tensor, nn

from config.schema import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); matrices and embeddings decay, biases and LayerNorm gains do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def lr_at(step: int, total_steps: int, config: TrainConfig) -> float:
    """Learning rate of update `step` (from 0): a straight climb, then half a cosine down to the final share.

    The first update already learns (step 0 has 1/warmup of the peak), the last one has exactly the final rate.
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    share = config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


class WeightAverage:
    """An exponential moving average of a model's weights over about `epochs` epochs (Polyak & Juditsky 1992).

    The last few hundred noisy steps agree better with unseen tweets together than any one of them does.
    """

    def __init__(self, model: nn.Module, averaged: nn.Module, *, epochs: float, steps_per_epoch: int) -> None:
        self.live: list[Tensor] = list(model.parameters())
        self.mean: list[Tensor] = list(averaged.parameters())
        self.decay = math.exp(-1.0 / (epochs * steps_per_epoch)) if epochs > 0 else 0.0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step` (from 0); early on, the average is over the few steps there are."""
        decay = min(self.decay, step / (step + 10.0))
        torch._foreach_lerp_(self.mean, self.live, 1.0 - decay)
