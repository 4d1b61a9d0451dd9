"""Soft targets: a teacher's probabilities at every position of the training text, stored in little memory.

The full distributions of 49,000 positions over 8,000 ids take 1.6 GB. Only the top k ids of each position are stored.
The probability of all other ids, the tail, is divided in proportion to one distribution that all positions share
(`base`, the unigram for example):

    p(v) = sum over k of probs[k] [ids[k] = v]  +  tail * base(v)

The tail covers every id, so `probs` holds the probability of an id minus its part of the tail, which may be slightly
negative. A student's cross-entropy then needs no dense target: -(probs . log q[ids]) - tail * (base . log q).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftTargets:
    """Distributions over V ids at the N predicted positions of a dataset, tweet by tweet.

    Attributes:
        ids: (N, k) int32, the likeliest ids at each position.
        probs: (N, k) float32, their probability minus tail * base.
        tail: (N,) float32, the factor of `base` at each position.
        base: (V,) float32, the distribution of the tails; sums to 1.
    """

    ids: Tensor
    probs: Tensor
    tail: Tensor
    base: Tensor

    def __len__(self) -> int:
        return len(self.tail)

    def take(self, index: Tensor) -> "SoftTargets":
        """The soft targets at the positions `index` (n,), in that order."""
        return SoftTargets(self.ids[index], self.probs[index], self.tail[index], self.base)

    def to(self, device: torch.device) -> "SoftTargets":
        """The same on another device."""
        return SoftTargets(self.ids.to(device), self.probs.to(device), self.tail.to(device), self.base.to(device))


def compress(dense: Tensor, base: Tensor, top_k: int) -> SoftTargets:
    """Store the `top_k` likeliest ids of each position; divide the rest in proportion to `base`.

    Args:
        dense: (N, V) probabilities; normalised here, so their sums may have rounding errors.
        base: (V,) probabilities, all above 0.
        top_k: number of ids to store; V or more stores everything. A flatter distribution needs more.
    """
    base = base.double() / base.double().sum()
    assert bool((base > 0).all()), "an id without base probability could never be in a tail"
    top, ids = dense.topk(min(top_k, len(base)), dim=-1)
    total = dense.sum(-1, dtype=torch.float64)
    top = top.double() / total[:, None]
    left = (1.0 - top.sum(-1)).clamp(min=0.0)
    room = 1.0 - base[ids].sum(-1)  # what base gives to the ids that are not stored; 0 if all are
    tail = torch.where(room > 1e-9, left / room.clamp(min=1e-9), 0.0)
    probs = top - tail[:, None] * base[ids]
    probs += (1.0 - tail - probs.sum(-1))[:, None] / probs.shape[-1]  # rounding errors, and what the tail cannot hold
    return SoftTargets(ids.int(), probs.float(), tail.float(), base.float())


def dense(targets: SoftTargets, index: Tensor) -> Tensor:
    """Full distributions (n, V) at the positions `index` (n,)."""
    chosen = targets.take(index)
    full = chosen.tail[:, None] * chosen.base
    return full.scatter_add_(1, chosen.ids.long(), chosen.probs)


def concatenate(parts: Sequence[SoftTargets]) -> SoftTargets:
    """The positions of all `parts`, one after another. All parts must have the same base and the same k."""
    base = parts[0].base
    assert all(torch.equal(part.base, base) for part in parts), "soft targets with different bases can't be joined"
    ids, probs, tail = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "probs", "tail"))
    return SoftTargets(ids, probs, tail, base)
