"""What a teacher expects at every place of the training text, small enough to keep: the likeliest ids, and a tail.

A teacher's full distribution at 49,000 places over 8,000 ids is 1.6 GB. Kept are the top k ids of each place; the
probability of all the others is spread over them in proportion to one distribution shared by all places (`base`, the
unigram, say):

    p(v) = sum over k of probs[k] [ids[k] = v]  +  tail * base(v)

The tail reaches every id, so `probs` holds what an id has beyond its part of the tail (slightly negative at times).
A student's cross-entropy then needs no dense target: -(probs . log q[ids]) - tail * (base . log q).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftTargets:
    """Distributions over V ids at N predicted tokens, counted tweet by tweet; each sums to 1.

    Attributes:
        ids: (N, k) int32, the likeliest ids of each place.
        probs: (N, k) float32, their probability beyond tail * base.
        tail: (N,) float32, how much of `base` there is.
        base: (V,) float32, what the tails look like; sums to 1.
    """

    ids: Tensor
    probs: Tensor
    tail: Tensor
    base: Tensor

    def __len__(self) -> int:
        return len(self.tail)

    def take(self, index: Tensor) -> "SoftTargets":
        """The places `index` (n,) only, in that order."""
        return SoftTargets(self.ids[index], self.probs[index], self.tail[index], self.base)

    def to(self, device: torch.device) -> "SoftTargets":
        """The same on another device."""
        return SoftTargets(self.ids.to(device), self.probs.to(device), self.tail.to(device), self.base.to(device))


def compress(dense: Tensor, base: Tensor, top_k: int) -> SoftTargets:
    """Keep the `top_k` likeliest ids of each place and spread the rest by `base`.

    Args:
        dense: (N, V) probabilities; normalised again, so a rounding error in their sum does no harm.
        base: (V,) probabilities, all above 0.
        top_k: ids to keep; V or more keeps everything. The flatter the teacher, the more it takes.
    """
    base = base.double() / base.double().sum()
    assert bool((base > 0).all()), "an id without base probability could never be in a tail"
    top, ids = dense.topk(min(top_k, len(base)), dim=-1)
    total = dense.sum(-1, dtype=torch.float64)
    top = top.double() / total[:, None]
    left = (1.0 - top.sum(-1)).clamp(min=0.0)
    room = 1.0 - base[ids].sum(-1)  # what base gives to the ids that are not kept; none if all are
    tail = torch.where(room > 1e-9, left / room.clamp(min=1e-9), 0.0)
    probs = top - tail[:, None] * base[ids]
    probs += (1.0 - tail - probs.sum(-1))[:, None] / probs.shape[-1]  # rounding, and what no tail could hold
    return SoftTargets(ids.int(), probs.float(), tail.float(), base.float())


def dense(targets: SoftTargets, index: Tensor) -> Tensor:
    """Full distributions (n, V) at the places `index` (n,)."""
    chosen = targets.take(index)
    full = chosen.tail[:, None] * chosen.base
    return full.scatter_add_(1, chosen.ids.long(), chosen.probs)


def concatenate(parts: Sequence[SoftTargets]) -> SoftTargets:
    """All places of `parts`, one after another; they must share one base and one k."""
    base = parts[0].base
    assert all(torch.equal(part.base, base) for part in parts), "soft targets with different bases can't be joined"
    ids, probs, tail = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "probs", "tail"))
    return SoftTargets(ids, probs, tail, base)
