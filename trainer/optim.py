"""The optimizer and the learning rate schedule."""

import math

import torch
from torch import nn

from config.schema import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019). Weight decay applies to matrices and embeddings only."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def lr_at(step: int, total_steps: int, config: TrainConfig) -> float:
    """Learning rate of update `step` (from 0): linear warm-up to the peak, then cosine decay to the final rate.

    It is above 0 at the first update, 1/(warm-up steps + 1) of the peak, and exactly the final rate at the last.
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    share = config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share
