"""Sampling of the next token: small pure functions on logits (B, V), applied in the order of this file.

The names and the order are those of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p, min-p.
"""

import numpy as np
import torch
from torch import Tensor

from config.schema import GenerateConfig

OFF = float("-inf")


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make ids already used less likely: positive logits are divided, negative ones multiplied (Keskar et al. 2019).

    `seen` (B, V) is true for the ids that each text holds already.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest; exactly k, even if logits are equal."""
    if k >= logits.shape[-1]:
        return logits
    values, places = logits.topk(k, dim=-1)
    return torch.full_like(logits, OFF).scatter(-1, places, values)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the likeliest that together reach probability p, at least one (Holtzman et al. 2020); equal ones stay."""
    ordered = descending(logits)
    reached = ordered.softmax(-1).cumsum(-1)
    last = torch.searchsorted(reached, reached.new_full((*reached.shape[:-1], 1), p)).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(logits < ordered.gather(-1, last), OFF)


def descending(values: Tensor) -> Tensor:
    """Each row sorted, largest first; numpy's vectorised sort is several times faster than torch's on a CPU."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(-values.numpy(), axis=-1)).neg()


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep those at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    log_probabilities = logits.log_softmax(-1)
    floor = log_probabilities.amax(-1, keepdim=True) + torch.tensor(p, device=logits.device).log()
    return logits.masked_fill(log_probabilities < floor, OFF)


def filtered(logits: Tensor, settings: GenerateConfig, seen: Tensor | None = None) -> Tensor:
    """Logits after all settings that are switched on; temperature 0 is handled by `draw`."""
    if settings.repetition_penalty != 1.0 and seen is not None:
        logits = repetition_penalty(logits, seen, settings.repetition_penalty)
    if settings.temperature not in (0.0, 1.0):
        logits = logits / settings.temperature
    if settings.top_k:
        logits = top_k(logits, settings.top_k)
    if settings.top_p < 1.0:
        logits = top_p(logits, settings.top_p)
    if settings.min_p:
        logits = min_p(logits, settings.min_p)
    return logits


def draw(logits: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
    """One id for each text, (B,): the likeliest at temperature 0, else sampled by inverting the distribution.

    `uniform` (B,) in [0, 1) is each text's own random number, so that a text does not depend on the texts beside it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    edges = logits.softmax(-1).double().cumsum(-1)
    wanted = uniform.double()[:, None] * edges[:, -1:]
    return torch.searchsorted(edges, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
