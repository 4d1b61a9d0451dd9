"""The optimizer and the learning rate schedule."""

import math

import torch
from torch import Tensor, nn

from config.schema import TrainConfig
from trainer.muon import Muon, MuonAndAdamW

Optimizer = torch.optim.Optimizer | MuonAndAdamW


def make_optimizer(model: nn.Module, config: TrainConfig, dtype: torch.dtype = torch.float32) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019), or with train.muon Muon for the layers' matrices and AdamW for the rest.

    AdamW's weight decay applies to matrices and embeddings only. Muon multiplies in `dtype`.
    """
    named = list(model.named_parameters())
    by_muon = [parameter for name, parameter in named if config.muon and trained_by_muon(name, parameter)]
    taken = set(map(id, by_muon))
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
    matrices = [parameter for parameter in rest if parameter.dim() >= 2]
    vectors = [parameter for parameter in rest if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    if not by_muon:
        return adamw
    muon = Muon([{"params": by_muon, "lr_scale": config.muon}], lr=config.muon * config.learning_rate, dtype=dtype)
    return MuonAndAdamW(muon, adamw)


def trained_by_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon suits a parameter: a matrix by which a vector is multiplied. An embedding is a list of vectors."""
    return parameter.dim() == 2 and (name.startswith("h.") or name.endswith(".projection"))


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
