"""A teacher's probabilities, recorded at the places where it was asked, and as targets for a student.

Of each distribution the TOP_K likeliest tokens are kept, always with the end mark. They have about 80% of the
probability. Of the rest, all other tokens, a few are drawn; in a target each has an equal part of what the rest has. So
the mean of many targets is what the teacher expects, token by token (Anshumann et al. 2025), and in a single target the
rest is still about where it should be. The end mark is never part of the rest: one draw of it would weigh a fortieth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.soft_targets import SoftTargets
from model.tokenizer import END
from model.vocabulary import Vocabulary

TOP_K = 100  # tokens kept of each distribution
REST = 8  # tokens drawn from the rest
RECORD = np.dtype([("ids", "<u2", (TOP_K,)), ("probs", "<f2", (TOP_K,)), ("rest", "<u2", (REST,))])  # of one place
ROWS = 16  # distributions that are looked at together: they fit a CPU's cache


@dataclass(frozen=True)
class Recorded:
    """The likeliest GPT-2 tokens at n places.

    Attributes:
        ids: (n, k) uint16 GPT-2 ids, the end mark among them.
        probs: (n, k) float16 their probabilities.
        rest: (n, REST) uint16 GPT-2 ids, drawn from all others.
    """

    ids: NDArray[np.uint16]
    probs: NDArray[np.float16]
    rest: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, logits: Tensor, uniform: Tensor) -> "Recorded":
        """From logits (n, 50257), and a number (n,) from 0 to 1 for each, from which the draws follow."""
        parts = zip(logits.split(ROWS), uniform.split(ROWS), strict=True)
        return cls.join([cls.of_rows(rows.float(), numbers.to(rows.device)) for rows, numbers in parts])

    @classmethod
    def of_rows(cls, logits: Tensor, uniform: Tensor) -> "Recorded":
        """`of` few rows."""
        probs = logits.softmax(-1)
        ids = probs.topk(TOP_K, dim=-1).indices
        ids[:, -1] = torch.where((ids == END).any(-1), ids[:, -1], END)
        top = probs.gather(1, ids)
        rest = draw(probs.scatter_(1, ids, 0.0), uniform)
        tokens = torch.cat([ids, rest], 1).cpu().numpy().astype(np.uint16)
        return cls(tokens[:, :TOP_K], top.cpu().numpy().astype(np.float16), tokens[:, TOP_K:])

    @classmethod
    def certain(cls, token: int) -> "Recorded":
        """One place, at which only this token is expected."""
        ids, probs = np.full((1, TOP_K), END, np.uint16), np.zeros((1, TOP_K), np.float16)
        ids[0, 0], probs[0, 0] = token, 1.0
        return cls(ids, probs, np.full((1, REST), token, np.uint16))

    @classmethod
    def nothing(cls, size: int) -> "Recorded":
        """As many places at which nothing is known: all probabilities are 0."""
        file = np.zeros(size, RECORD)
        file["ids"] = END
        return cls.from_file(file)

    @classmethod
    def from_file(cls, file: NDArray[np.void]) -> "Recorded":
        """From an array of RECORD."""
        return cls(*(file[name].copy() for name in ("ids", "probs", "rest")))

    @classmethod
    def join(cls, parts: Sequence["Recorded"]) -> "Recorded":
        """The places of all parts, one after another."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "probs", "rest")))

    def part(self, places: slice) -> "Recorded":
        """Some of the places."""
        return Recorded(self.ids[places], self.probs[places], self.rest[places])

    def at(self, place: int) -> "Recorded":
        """One place."""
        return self.part(slice(place, place + 1))

    def targets(self, vocabulary: Vocabulary) -> SoftTargets:
        """The same as targets over the ids of a student."""
        tokens = torch.from_numpy(np.concatenate([self.ids, self.rest], 1).astype(np.int32))
        top = torch.from_numpy(self.probs.astype(np.float32))
        left = (1.0 - top.sum(-1, keepdim=True)).clamp(min=0.0)
        probs = torch.cat([top, (left / REST).expand(-1, REST)], 1)
        probs /= probs.sum(-1, keepdim=True)  # float16 has rounded them
        ids, size = vocabulary.id_of.int()[tokens], vocabulary.vocab_size
        return SoftTargets(ids, probs, torch.zeros(len(self)), torch.full((size,), 1.0 / size))


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """REST ids (n, REST) for each row of probs (n, V), which need not sum to 1.

    One id at each of REST places that are evenly spaced in the row's cumulative distribution, the first of them by a
    number (n,) from 0 to 1: systematic sampling, which varies less than independent draws do.
    """
    edges = probs.cumsum(-1)
    places = ((uniform[:, None] + torch.arange(REST, device=probs.device)) / REST).float() * edges[:, -1:]
    return torch.searchsorted(edges, places, right=True).clamp(max=probs.shape[1] - 1)
