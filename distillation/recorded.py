"""A teacher's probabilities, recorded at the places where it was asked, and as targets for a student.

Of each distribution the TOP_K likeliest tokens are kept, always with the end mark. They have about 80% of the
probability. What is left is spread over all other tokens by how frequent they are. The end mark is never part of that
rest: a thousandth of it at every place would end a tenth of the tweets too early.

Frequency says nothing about the place. So in tweets that the teacher wrote, most of the rest is given to the token that
it wrote, if that is one of the rest: see `with_drawn`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.soft_targets import SoftTargets, concatenate
from model.tokenizer import END
from model.vocabulary import Vocabulary

TOP_K = 100  # tokens kept of each distribution: 600 bytes
RECORD = np.dtype([("ids", "<u2", (TOP_K,)), ("probs", "<f2", (TOP_K,))])  # of one place, in a file
AT_ONCE = 1 << 16  # places that are turned into targets together
RARE = 1e-9  # the end mark's part of the rest
SPREAD = 0.3  # share of the rest that is spread by frequency in tweets that the teacher wrote


@dataclass(frozen=True)
class Recorded:
    """The likeliest GPT-2 tokens at n places.

    Attributes:
        ids: (n, k) uint16 GPT-2 ids, the end mark among them.
        probs: (n, k) float16 their probabilities.
    """

    ids: NDArray[np.uint16]
    probs: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, logits: Tensor) -> "Recorded":
        """From logits (n, 50257)."""
        top, ids = logits.topk(min(TOP_K, logits.shape[1]), dim=-1)
        normaliser = logits.logsumexp(-1, keepdim=True)
        absent = ~(ids == END).any(-1)
        ids[:, -1] = torch.where(absent, END, ids[:, -1])
        top[:, -1] = torch.where(absent, logits[:, END], top[:, -1])
        probs = (top - normaliser).exp()
        return cls(ids.cpu().numpy().astype(np.uint16), probs.cpu().numpy().astype(np.float16))

    @classmethod
    def certain(cls, token: int) -> "Recorded":
        """One place, at which only this token is expected."""
        ids, probs = np.full((1, TOP_K), END, np.uint16), np.zeros((1, TOP_K), np.float16)
        ids[0, 0], probs[0, 0] = token, 1.0
        return cls(ids, probs)

    @classmethod
    def join(cls, parts: Sequence["Recorded"]) -> "Recorded":
        """The places of all parts, one after another."""
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate([part.probs for part in parts]))

    def lacks(self, tokens: NDArray[np.uint16]) -> Tensor:
        """Whether each of `tokens` (n,), at the last n places, is one of the rest there."""
        return torch.from_numpy(~(self.ids[len(self) - len(tokens) :] == tokens[:, None]).any(-1))

    def without(self, tokens: NDArray[np.bool_], places: NDArray[np.intp]) -> "Recorded":
        """The same, but that none of `tokens` (50257,) is expected at `places`: the others share its probability."""
        probs = self.probs[places].astype(np.float32)
        gone = tokens[self.ids[places]]
        left = 1.0 - (probs * gone).sum(-1, keepdims=True)
        changed = self.probs.copy()
        changed[places] = np.where(gone, 0.0, probs / left.clip(min=1e-3))
        return Recorded(self.ids, changed)

    def at(self, place: int) -> "Recorded":
        """One place."""
        return Recorded(self.ids[place : place + 1], self.probs[place : place + 1])

    def targets(self, vocabulary: Vocabulary, base: Tensor) -> SoftTargets:
        """The same as targets over the ids of a student.

        Args:
            base: (V,) how the rest is spread; see `spread_of`.
        """
        parts = (Recorded(self.ids[i : i + AT_ONCE], self.probs[i : i + AT_ONCE]) for i in range(0, len(self), AT_ONCE))
        return concatenate([part.some_targets(vocabulary, base) for part in parts])

    def some_targets(self, vocabulary: Vocabulary, base: Tensor) -> SoftTargets:
        """`targets` of few places: the order of each place's ids takes several times the memory of the result."""
        ids = vocabulary.id_of[torch.from_numpy(self.ids.astype(np.int64))]
        probs = torch.from_numpy(self.probs.astype(np.float32))
        order = ids.argsort(-1)
        ids, probs = ids.gather(-1, order), probs.gather(-1, order)
        first = torch.ones_like(ids, dtype=torch.bool)  # of equal ids, which tokens that share an id have
        first[:, 1:] = ids[:, 1:] != ids[:, :-1]
        covered = base[ids] * first
        tail = (1.0 - probs.sum(-1)).clamp(min=0.0) / (1.0 - covered.sum(-1)).clamp(min=RARE)
        probs -= tail[:, None] * covered
        probs += ((1.0 - tail - probs.sum(-1)) / probs.shape[1])[:, None]  # float16 has rounded them
        return SoftTargets(ids.int(), probs, tail, base)


def spread_of(counts: Tensor, end: int) -> Tensor:
    """The distribution (V,) of the rest: that of a student's ids with these counts (V,), hardly ever the end mark."""
    base = counts.double() + 0.5
    base[end] = 0.0
    base /= base.sum()
    base[end] = RARE
    return (base / base.sum()).float()


def with_drawn(targets: SoftTargets, drawn: Tensor, of_rest: Tensor, spread: Tensor) -> SoftTargets:
    """Targets whose rest is, but for a share that is spread by frequency, the token that was drawn at the place.

    A place where that token is one of the rest gets 1 - spread more for it, other places get nothing. As this happens
    with the probability of the rest, the mean over draws is the rest itself, token by token; a single target sums to
    more or less than 1.

    Args:
        drawn: (n,) the student's ids of the tokens that were drawn at the last n places, of the whole distribution.
        of_rest: (n,) whether each is one of the rest.
        spread: (n,) the share that stays spread.
    """
    first = len(targets) - len(drawn)
    share = torch.cat([torch.ones(first), spread])  # before them nothing changes
    given = torch.cat([torch.zeros(first), (1.0 - spread) * of_rest])
    tail = share * targets.tail
    probs = targets.probs + (targets.tail - tail)[:, None] * targets.base[targets.ids]  # what the tail does not cover
    ids = torch.cat([torch.zeros(first, dtype=torch.int32), drawn.int()])
    return SoftTargets(
        torch.cat([targets.ids, ids[:, None]], 1), torch.cat([probs, given[:, None]], 1), tail, targets.base
    )
