"""Parameter groups and the learning rate's course."""

import math

import torch
from torch import nn

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
