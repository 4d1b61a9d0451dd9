"""The vocabulary: the model's ids, and how they map to GPT-2's 50,257 token ids.

The tweets use about 8,000 of GPT-2's tokens. An embedding for each of the other 42,000 would take most of the computing
time and learn nothing. So the model has fewer ids: one for each token that occurs in training, and a few shared UNK
ids, each for all unseen tokens of one shape (a lower-case word after a space, a capitalised one, the middle of a word,
...). The model predicts the shared id, and a fixed prior divides its probability among the tokens that share it:

    p(token) = p(shared id) * prior(token)          (model/prior.py)

The probabilities of all 50,257 tokens still sum to 1.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from config.schema import ModelConfig, UserError
from model.prior import unseen_log_weights
from model.tokenizer import END, NUM_TOKENS, Tokenizer

SHAPES = (rb" [a-z]+", rb" [A-Z][a-z]*", rb"[a-z]+", rb"[A-Z][a-z]*", rb"(?s:.*)")  # the last matches all others


class Vocabulary:
    """The map between GPT-2's token ids and the model's ids. The ids of single tokens come first, then the shared ones.

    Args:
        id_of: (50257,) the model's id of each GPT-2 token.
        log_prior: (50257,) log probability of each token among those that share its id; 0 if it shares with none.

    Attributes:
        vocab_size: number of the model's ids, V.
        gpt2_ids: (V,) the GPT-2 id of each of the model's ids; -1 if it is shared.
        is_shared: (V,) whether several tokens share the id.
        shared_ids: the ids that are shared.
        end: the model's id of the end mark.

    Raises:
        UserError: `id_of` and `log_prior` do not have one entry for each GPT-2 token.
    """

    def __init__(self, id_of: Tensor, log_prior: Tensor) -> None:
        if id_of.shape != (NUM_TOKENS,) or log_prior.shape != (NUM_TOKENS,) or int(id_of.min()) < 0:
            raise UserError(f"the vocabulary does not cover GPT-2's {NUM_TOKENS:,} tokens")
        self.id_of, self.log_prior = id_of.long(), log_prior.float()
        num_tokens = torch.bincount(self.id_of)  # that have each id
        self.vocab_size = len(num_tokens)
        self.is_shared = num_tokens > 1
        self.gpt2_ids = torch.full((self.vocab_size,), -1)
        self.gpt2_ids[self.id_of] = torch.arange(NUM_TOKENS)
        self.gpt2_ids[self.is_shared] = -1
        self.shared_ids = self.is_shared.nonzero()[:, 0]
        self.end = int(self.id_of[END])

    @classmethod
    def full(cls) -> "Vocabulary":
        """GPT-2's whole vocabulary: each id is its own."""
        return cls(torch.arange(NUM_TOKENS), torch.zeros(NUM_TOKENS))

    @classmethod
    def build(cls, config: ModelConfig, tokenizer: Tokenizer, train_ids: Iterable[Iterable[int]]) -> "Vocabulary":
        """The vocabulary of `config` for training tweets given as GPT-2 ids."""
        counts = Counter(index for tweet in train_ids for index in tweet)
        return cls.from_counts(config, tokenizer, torch.tensor([counts[index] for index in range(NUM_TOKENS)]))

    @classmethod
    def from_counts(cls, config: ModelConfig, tokenizer: Tokenizer, counts: Tensor) -> "Vocabulary":
        """The vocabulary of `config` for training tweets that use each GPT-2 token `counts` (50257,) times."""
        if config.vocabulary == "full":
            return cls.full()
        kept = counts >= config.min_count
        kept[END] = True
        own = kept.nonzero()[:, 0]
        id_of = torch.full((NUM_TOKENS,), -1)
        id_of[own] = torch.arange(len(own))
        log_prior = torch.zeros(NUM_TOKENS)
        next_id, shapes = len(own), shapes_of(tokenizer)
        log_weights = unseen_log_weights(counts, id_of < 0, shapes, tokenizer)
        for shape in range(len(SHAPES)):
            unseen = (shapes == shape) & (id_of < 0)
            if bool(unseen.any()):
                id_of[unseen] = next_id
                log_prior[unseen] = log_weights[unseen].log_softmax(0).float()
                next_id += 1
        return cls(id_of, log_prior)

    def unk_ids(self, tokenizer: Tokenizer) -> Tensor:
        """(V,) For each id of a single token, the shared id for unseen tokens of its shape; -1 if there is none."""
        shapes = shapes_of(tokenizer)
        shared = torch.full((len(SHAPES),), -1)
        unseen = self.is_shared[self.id_of]
        shared[shapes[unseen]] = self.id_of[unseen]
        return torch.where(self.gpt2_ids >= 0, shared[shapes[self.gpt2_ids]], -1)

    def from_gpt2(self, ids: Iterable[int]) -> Tensor:
        """The model's ids (n,) of GPT-2 ids (n,)."""
        id_list = self._id_list
        return torch.tensor([id_list[index] for index in ids], dtype=torch.long)

    def to_gpt2(self, ids: Iterable[int]) -> list[int]:
        """The GPT-2 ids of ids that are not shared; -1 for one that is."""
        gpt2_list = self._gpt2_list
        return [gpt2_list[index] for index in ids]

    @cached_property
    def _id_list(self) -> list[int]:  # reading one entry of a list takes a tenth of the time it takes in a tensor
        return self.id_of.tolist()

    @cached_property
    def _gpt2_list(self) -> list[int]:
        return self.gpt2_ids.tolist()

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log probabilities of all of GPT-2's tokens, (..., 50257), from the model's logits, (..., V)."""
        return logits.log_softmax(-1)[..., self.id_of] + self.log_prior.to(logits.dtype)

    def forbid_shared(self, logits: Tensor) -> Tensor:
        """Logits (..., V) with -inf for the shared ids, which stand for no particular token and so can't be written."""
        return logits.index_fill(-1, self.shared_ids.to(logits.device), float("-inf"))


@lru_cache(maxsize=1)
def shapes_of(tokenizer: Tokenizer) -> Tensor:
    """Which of SHAPES each GPT-2 token has, (50257,). The result is cached, so callers must not change it."""
    patterns = [re.compile(shape) for shape in SHAPES]
    return torch.tensor([next(i for i, p in enumerate(patterns) if p.fullmatch(b)) for b in tokenizer.token_bytes])
