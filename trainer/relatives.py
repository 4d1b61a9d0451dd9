"""Rows that learn from their relatives: while it is trained, the embedding of a token is a sum of vectors.

" rocket", "Rocket" and " Rockets" are three tokens, and 50,000 tokens of text use most of them once or twice. So each
row is its own vector, plus one that all forms of its word share, plus one that all words of its stem share. A token
seen once begins with what its relatives have learnt. After training the sums are added up: what is kept is a plain
embedding table. (Sums of shared parts: Bojanowski et al. 2017, there with all letter n-grams.)
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from model.tokenizer import Tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary

ENDINGS = (b"ing", b"ers", b"er", b"ed", b"es", b"ly", b"s", b"e", b"y")
SHORTEST = 3  # letters that a stem has at least
STD = 0.014  # of the first vectors, shared and own: a row made of two has GPT-2's 0.02


class Relatives(nn.Module):
    """Adds to each row, (V, C), the vectors of its groups.

    Args:
        groups: (V, 2) the groups of each row: of its word and of its stem; 0: it has no relatives there.
        width: C.
    """

    groups: Tensor

    def __init__(self, groups: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("groups", groups, persistent=False)
        self.shared = nn.Parameter(STD * torch.randn(int(groups.max()) + 1, width))  # the first is never used

    def forward(self, own: Tensor) -> Tensor:
        return own + F.embedding_bag(self.groups, self.shared, mode="sum", padding_idx=0)


def groups_of(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Tensor:
    """The groups of each row, (V, 2), numbered from 1; those with a single member are none."""
    words = [tokenizer.token_bytes[index].strip().lower() if index >= 0 else b"" for index in vocabulary.ids.tolist()]
    columns, first = [], 1
    for names in (words, [stem(word) for word in words]):
        members = Counter(name for name in names if name)
        number = {name: first + place for place, name in enumerate(n for n, count in members.items() if count > 1)}
        columns.append([number.get(name, 0) for name in names])
        first += len(number)
    return torch.tensor(columns).T.contiguous()


def stem(word: bytes) -> bytes:
    """A word without its ending, roughly: what "rockets", "rocketed" and "rocket" have in common."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            return word[: -len(ending)]
    return word


def relate(model: GPT, groups: Tensor) -> None:
    """Let the rows of a fresh model share vectors from here on; see `Relatives`."""
    with torch.no_grad():
        model.wte.weight.mul_(STD / 0.02)
    parametrize.register_parametrization(model.wte, "weight", Relatives(groups, model.config.n_embd))


def settled(model: GPT) -> dict[str, Tensor]:
    """The weights of a model as a plain GPT has them: sums added up, names as if nothing had ever been shared."""
    return {
        **{name: value for name, value in model.state_dict().items() if ".parametrizations." not in name},
        "wte.weight": model.wte.weight.detach(),
    }
