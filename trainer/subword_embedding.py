"""Subword embeddings: during training, the embedding of a token is a sum of vectors, most of them shared.

" rocket", "Rocket" and " Rockets" are three tokens, and most such tokens occur once or twice in 50,000 tokens of text.
So the embedding of a token is its own vector plus one vector for each subword feature that it shares with other tokens:
the word without case and space, its stem, its first and last letters, its shape and its length. All tokens with the
same feature form a group and share its vector, so a rare token learns from the others of its groups. A word that occurs
once has only the shared vectors: its own vector would overfit to that one occurrence. After training the vectors are
added, and the saved model has a plain embedding. (Sums of shared vectors: Bojanowski et al. 2017, there for all
n-grams of letters.)
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from model.fast import Trainable
from model.tokenizer import Tokenizer
from model.vocabulary import Vocabulary

SUFFIXES = (b"ing", b"ers", b"er", b"ed", b"es", b"ly", b"s", b"e", b"y")  # that are removed to get a stem
SHORTEST = 3  # letters that a stem must have
PREFIX_SIZES, SUFFIX_SIZES = (3, 4), (1, 2, 3)  # letters; the word must have at least two more
LONGEST = 8  # letters; longer words have this length as their feature
STD = 0.014  # of the initial vectors, own and shared: the sum of two has GPT-2's 0.02


@dataclass(frozen=True)
class SubwordGroups:
    """Which ids share vectors.

    Attributes:
        groups: (V, G) for each id and each of G subword features, the number of its group, from 1; 0 for no group.
        own_vector: (V,) whether the id also has a vector of its own.
    """

    groups: Tensor
    own_vector: Tensor


class SumOfGroups(torch.autograd.Function):
    """For each id, the sum of the vectors of its groups, (V, C), from the vectors of all groups, (M, C).

    The gradient of a group is the sum of the gradients of its ids, which is an `embedding_bag` too, with the lists of
    ids by group. torch's own gradient of `embedding_bag` would sort the lists again in each step.
    """

    @staticmethod
    def forward(
        ctx: Any, shared: Tensor, groups: Tensor, group_starts: Tensor, ids: Tensor, id_starts: Tensor
    ) -> Tensor:
        """Id v's groups begin at group_starts[v] in `groups` (n,), group m's ids at id_starts[m] in `ids` (n,)."""
        ctx.save_for_backward(ids, id_starts)
        return F.embedding_bag(groups, shared, group_starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the vectors of the groups."""
        ids, id_starts = ctx.saved_tensors
        return F.embedding_bag(ids, grad.contiguous(), id_starts, mode="sum"), None, None, None, None


class SubwordEmbedding(nn.Module):
    """Adds the vectors of its groups to the vector of each id, (V, C)."""

    own_vector: Tensor | None  # (V, 1), 0 or 1; None: all have one
    groups: Tensor
    group_starts: Tensor
    ids: Tensor
    id_starts: Tensor

    def __init__(self, subword_groups: SubwordGroups, width: int) -> None:
        super().__init__()
        own = None if subword_groups.own_vector.all() else subword_groups.own_vector.float()[:, None]
        self.register_buffer("own_vector", own, persistent=False)
        size, (ids, columns) = int(subword_groups.groups.max()) + 1, subword_groups.groups.nonzero(as_tuple=True)
        groups = subword_groups.groups[ids, columns]
        lists = {
            "groups": groups,
            "group_starts": segment_starts(ids, len(subword_groups.groups)),
            "ids": ids[groups.argsort(stable=True)],
            "id_starts": segment_starts(groups, size),
        }
        for name, values in lists.items():
            self.register_buffer(name, values, persistent=False)
        self.shared = nn.Parameter(STD * torch.randn(size, width))  # (M, C); index 0 is not used

    def forward(self, own: Tensor) -> Tensor:
        lists = self.groups, self.group_starts, self.ids, self.id_starts
        summed: Tensor = SumOfGroups.apply(self.shared, *lists)  # type: ignore[no-untyped-call]
        return summed + own if self.own_vector is None else torch.addcmul(summed, own, self.own_vector)


def segment_starts(owners: Tensor, size: int) -> Tensor:
    """Where the entries of each owner, 0 to size - 1, begin in a list that is sorted by owner; (size,)."""
    counts = torch.bincount(owners, minlength=size)
    return counts.cumsum(0) - counts


def find_subword_groups(vocabulary: Vocabulary, tokenizer: Tokenizer, counts: Tensor) -> SubwordGroups:
    """The groups of all ids. `counts` (V,) is how often each id occurs in the training tweets."""
    tokens = [tokenizer.token_bytes[index] if index >= 0 else b"" for index in vocabulary.gpt2_ids.tolist()]
    words = torch.tensor([re.search(rb"[A-Za-z]", token) is not None for token in tokens])
    return SubwordGroups(groups_of(tokens), (counts > 1) | ~words)


def groups_of(tokens: Sequence[bytes]) -> Tensor:
    """The groups of each token, (V, G), numbered from 1. A feature that only one token has makes no group."""
    columns, first = [], 1
    for names in zip(*map(subword_features, tokens), strict=True):
        members = Counter(name for name in names if name)
        number = {name: first + place for place, name in enumerate(n for n, count in members.items() if count > 1)}
        columns.append([number.get(name, 0) for name in names])
        first += len(number)
    return torch.tensor(columns).T.contiguous()


def subword_features(token: bytes) -> list[bytes]:
    """The G features that a token may share with others; a feature is empty if the token does not have it."""
    word, space = token.strip().lower(), token[:1] == b" "
    plain = re.fullmatch(rb"[a-z]+", word) is not None
    found = [word, stem(word), shape(token)]
    found += [b"%d" % min(len(word), LONGEST) + b" " * space if plain else b""]
    found += [word[:size] if plain and len(word) >= size + 2 else b"" for size in PREFIX_SIZES]
    return found + [word[-size:] + b" " * space if plain and len(word) >= size + 2 else b"" for size in SUFFIX_SIZES]


def stem(word: bytes) -> bytes:
    """A word without its suffix, by a simple rule: "rockets", "rocketed" and "rocket" have the stem "rocket"."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= SHORTEST:
            return word[: -len(suffix)]
    return word


def shape(token: bytes) -> bytes:
    """A token with runs of small letters, capitals and digits as one character: " Rockets" is " Aa", "2023" is "9"."""
    for kind, pattern in ((b"a", rb"[a-z]+"), (b"A", rb"[A-Z]+"), (b"9", rb"[0-9]+")):
        token = re.sub(pattern, kind, token)
    return token


def add_subword_features(model: Trainable, subword_groups: SubwordGroups) -> None:
    """Make the embedding of an untrained model a sum of own and shared vectors; see `SubwordEmbedding`."""
    with torch.no_grad():
        model.wte.weight.mul_(STD / 0.02)
    parametrize.register_parametrization(model.wte, "weight", SubwordEmbedding(subword_groups, model.config.n_embd))


def merged_state_dict(model: Trainable) -> dict[str, Tensor]:
    """The weights of a model under the names of a plain one. The vectors of each embedding are added."""
    if not parametrize.is_parametrized(model.wte):
        plain: dict[str, Tensor] = model.state_dict()
        return plain
    return {
        **{name: value for name, value in model.state_dict().items() if ".parametrizations." not in name},
        "wte.weight": model.wte.weight.detach(),
    }
