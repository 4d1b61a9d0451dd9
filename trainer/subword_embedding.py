"""Rows that learn from their relatives: while it is trained, the embedding of a token is a sum of vectors.

" rocket", "Rocket" and " Rockets" are three tokens, and 50,000 tokens of text use most of them once or twice. So each
row is its own vector, plus one for everything that it has in common with others: its word in all its forms, the stem of
the word, how it begins and ends, its shape and its length. A token seen once begins with what its relatives have
learnt, and if it is a word it has nothing else: a vector of its own could only learn the one place by heart. After
training the sums are added up: what is kept is a plain embedding table. (Sums of shared parts: Bojanowski et al. 2017,
there with all letter n-grams.)
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

from model.tokenizer import Tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary

SUFFIXES = (b"ing", b"ers", b"er", b"ed", b"es", b"ly", b"s", b"e", b"y")  # what a stem has lost
SHORTEST = 3  # letters that a stem has at least
BEGINNINGS, ENDINGS = (3, 4), (1, 2, 3)  # letters, of words that have two more at least
LONGEST = 8  # letters: longer words count as that long
STD = 0.014  # of the first vectors, shared and own: a row made of two has GPT-2's 0.02


@dataclass(frozen=True)
class SubwordGroups:
    """Who is related to whom.

    Attributes:
        groups: (V, G) the groups of each row; 0: there it has no relatives.
        single: (V,) whether a row has a vector of its own besides.
    """

    groups: Tensor
    single: Tensor


class SumOfGroups(torch.autograd.Function):
    """The sum of each row's groups, (V, C), from the vectors of the groups, (M, C).

    The gradient of a group is the sum over its rows: the same sum, with the lists of who belongs to whom turned over.
    `embedding_bag`'s own gradient sorts these lists again in every step.
    """

    @staticmethod
    def forward(ctx: Any, shared: Tensor, groups: Tensor, of_row: Tensor, rows: Tensor, of_group: Tensor) -> Tensor:
        """Row v's groups begin at of_row[v] in `groups` (n,), group m's rows at of_group[m] in `rows` (n,)."""
        ctx.save_for_backward(rows, of_group)
        return F.embedding_bag(groups, shared, of_row, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the groups' vectors."""
        rows, of_group = ctx.saved_tensors
        return F.embedding_bag(rows, grad.contiguous(), of_group, mode="sum"), None, None, None, None


class SubwordEmbedding(nn.Module):
    """Adds to each row, (V, C), the vectors of its groups."""

    single: Tensor
    groups: Tensor
    of_row: Tensor
    rows: Tensor
    of_group: Tensor

    def __init__(self, relations: SubwordGroups, width: int) -> None:
        super().__init__()
        self.register_buffer("single", relations.single.float()[:, None], persistent=False)
        size, (rows, columns) = int(relations.groups.max()) + 1, relations.groups.nonzero(as_tuple=True)
        groups = relations.groups[rows, columns]
        lists = {
            "groups": groups,
            "of_row": starts(rows, len(relations.groups)),
            "rows": rows[groups.argsort(stable=True)],
            "of_group": starts(groups, size),
        }
        for name, values in lists.items():
            self.register_buffer(name, values, persistent=False)
        self.shared = nn.Parameter(STD * torch.randn(size, width))  # the first is never used

    def forward(self, own: Tensor) -> Tensor:
        lists = self.groups, self.of_row, self.rows, self.of_group
        summed: Tensor = SumOfGroups.apply(self.shared, *lists)  # type: ignore[no-untyped-call]
        return torch.addcmul(summed, own, self.single)  # own * single + summed


def starts(owners: Tensor, size: int) -> Tensor:
    """Where the entries of each owner 0 ... size - 1 begin if they lie in the order of owners, (size,)."""
    counts = torch.bincount(owners, minlength=size)
    return counts.cumsum(0) - counts


def subword_groups_of(vocabulary: Vocabulary, tokenizer: Tokenizer, counts: Tensor) -> SubwordGroups:
    """The relations of all rows; `counts` (V,) says how often each stands in the training tweets."""
    tokens = [tokenizer.token_bytes[index] if index >= 0 else b"" for index in vocabulary.gpt2_ids.tolist()]
    words = torch.tensor([re.search(rb"[A-Za-z]", token) is not None for token in tokens])
    return SubwordGroups(groups_of(tokens), (counts > 1) | ~words)


def groups_of(tokens: Sequence[bytes]) -> Tensor:
    """The groups of each token, (V, G), numbered from 1; those with a single member are none."""
    columns, first = [], 1
    for names in zip(*map(traits, tokens), strict=True):
        members = Counter(name for name in names if name)
        number = {name: first + place for place, name in enumerate(n for n, count in members.items() if count > 1)}
        columns.append([number.get(name, 0) for name in names])
        first += len(number)
    return torch.tensor(columns).T.contiguous()


def traits(token: bytes) -> list[bytes]:
    """What a token may have in common with others, always as many; empty where it has no such trait."""
    word, space = token.strip().lower(), token[:1] == b" "
    plain = re.fullmatch(rb"[a-z]+", word) is not None
    found = [word, stem(word), shape(token)]
    found += [b"%d" % min(len(word), LONGEST) + b" " * space if plain else b""]
    found += [word[:size] if plain and len(word) >= size + 2 else b"" for size in BEGINNINGS]
    return found + [word[-size:] + b" " * space if plain and len(word) >= size + 2 else b"" for size in ENDINGS]


def stem(word: bytes) -> bytes:
    """A word without its ending, roughly: what "rockets", "rocketed" and "rocket" have in common."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= SHORTEST:
            return word[: -len(suffix)]
    return word


def shape(token: bytes) -> bytes:
    """A token with letters and digits told apart only by kind, runs as one: " Rockets" is " Aa", "2023" is "9"."""
    for kind, pattern in ((b"a", rb"[a-z]+"), (b"A", rb"[A-Z]+"), (b"9", rb"[0-9]+")):
        token = re.sub(pattern, kind, token)
    return token


def add_subword_features(model: GPT, relations: SubwordGroups) -> None:
    """Let the rows of a fresh model share vectors from here on; see `SubwordEmbedding`."""
    with torch.no_grad():
        model.wte.weight.mul_(STD / 0.02)
    parametrize.register_parametrization(model.wte, "weight", SubwordEmbedding(relations, model.config.n_embd))


def merged_state_dict(model: GPT) -> dict[str, Tensor]:
    """The weights of a model as a plain GPT has them: sums added up, names as if nothing had ever been shared."""
    return {
        **{name: value for name, value in model.state_dict().items() if ".parametrizations." not in name},
        "wte.weight": model.wte.weight.detach(),
    }
