"""Which of GPT-2's 50,257 tokens have a row of their own in the model, and what the others share.

The tweets use about 8,000 of GPT-2's tokens. A row for each of the other 42,000 would cost most of the computing and
learn nothing. So those share a few rows, one for each shape (a small word after a space, a capital one, the middle of
a word, ...). The model learns when a token of that shape comes that it never saw, and a fixed prior says which:

    p(token) = p(shared row) * prior(token)          (model/prior.py)

That is still a proper distribution over all 50,257 tokens.
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

SHAPES = (rb" [a-z]+", rb" [A-Z][a-z]*", rb"[a-z]+", rb"[A-Z][a-z]*", rb"(?s:.*)")  # the last takes what is left


class Vocabulary:
    """The map between GPT-2 token ids and rows of the model: first the rows with an id of their own, then the shared.

    Args:
        id_of: (50257,) row of each id.
        log_prior: (50257,) log probability of each id within its row; 0 where it has the row to itself.

    Attributes:
        vocab_size: rows in the model's embedding.
        gpt2_ids: (vocab_size,) GPT-2 id of each row, -1 where it is shared.
        is_shared: (vocab_size,) whether several ids share the row.
        end: row of the end mark.

    Raises:
        UserError: these are not maps of GPT-2's vocabulary.
    """

    def __init__(self, id_of: Tensor, log_prior: Tensor) -> None:
        if id_of.shape != (NUM_TOKENS,) or log_prior.shape != (NUM_TOKENS,) or int(id_of.min()) < 0:
            raise UserError(f"the vocabulary does not cover GPT-2's {NUM_TOKENS:,} tokens")
        self.id_of, self.log_prior = id_of.long(), log_prior.float()
        users = torch.bincount(self.id_of)
        self.vocab_size = len(users)
        self.is_shared = users > 1
        self.gpt2_ids = torch.full((self.vocab_size,), -1)
        self.gpt2_ids[self.id_of] = torch.arange(NUM_TOKENS)
        self.gpt2_ids[self.is_shared] = -1
        self.shared = self.is_shared.nonzero()[:, 0]
        self.end = int(self.id_of[END])

    @classmethod
    def build(cls, config: ModelConfig, tokenizer: Tokenizer, train_ids: Iterable[Iterable[int]]) -> "Vocabulary":
        """The vocabulary of `config` for these training tweets (token ids of each)."""
        counts = Counter(index for tweet in train_ids for index in tweet)
        return cls.from_counts(config, tokenizer, torch.tensor([counts[index] for index in range(NUM_TOKENS)]))

    @classmethod
    def from_counts(cls, config: ModelConfig, tokenizer: Tokenizer, counts: Tensor) -> "Vocabulary":
        """The vocabulary of `config` for training tweets that use GPT-2's tokens so often, (50257,)."""
        if config.vocabulary == "full":
            return cls(torch.arange(NUM_TOKENS), torch.zeros(NUM_TOKENS))
        kept = counts >= config.min_count
        kept[END] = True
        own = kept.nonzero()[:, 0]
        id_of = torch.full((NUM_TOKENS,), -1)
        id_of[own] = torch.arange(len(own))
        log_prior = torch.zeros(NUM_TOKENS)
        rows, shapes = len(own), shapes_of(tokenizer)
        log_weights = unseen_log_weights(counts, id_of < 0, shapes, tokenizer)
        for shape in range(len(SHAPES)):
            unseen = (shapes == shape) & (id_of < 0)
            if bool(unseen.any()):
                id_of[unseen] = rows
                log_prior[unseen] = log_weights[unseen].log_softmax(0).float()
                rows += 1
        return cls(id_of, log_prior)

    def unk_ids(self, tokenizer: Tokenizer) -> Tensor:
        """For each row, (vocab_size,), the shared row of tokens of its shape; -1 where there is none."""
        shapes = shapes_of(tokenizer)
        shared = torch.full((len(SHAPES),), -1)
        unseen = self.is_shared[self.id_of]
        shared[shapes[unseen]] = self.id_of[unseen]
        return torch.where(self.gpt2_ids >= 0, shared[shapes[self.gpt2_ids]], -1)

    def from_gpt2(self, ids: Iterable[int]) -> Tensor:
        """Rows (n,) of GPT-2 ids (n,)."""
        rows = self._row_list
        return torch.tensor([rows[index] for index in ids], dtype=torch.long)

    def to_gpt2(self, rows: Iterable[int]) -> list[int]:
        """GPT-2 ids of rows that are not shared."""
        ids = self._id_list
        return [ids[row] for row in rows]

    @cached_property
    def _row_list(self) -> list[int]:  # a list is asked for a single token in a tenth of a tensor's time
        return self.id_of.tolist()

    @cached_property
    def _id_list(self) -> list[int]:
        return self.gpt2_ids.tolist()

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log probabilities over all of GPT-2's tokens, (..., 50257), from logits over rows, (..., vocab_size)."""
        return logits.log_softmax(-1)[..., self.id_of] + self.log_prior.to(logits.dtype)

    def forbid_shared(self, logits: Tensor) -> Tensor:
        """Logits (..., vocab_size) in which no shared row can be drawn: it stands for no token in particular."""
        return logits.index_fill(-1, self.shared.to(logits.device), float("-inf"))


@lru_cache(maxsize=1)
def shapes_of(tokenizer: Tokenizer) -> Tensor:
    """Which of SHAPES each GPT-2 token has, (50257,); found once, so not to be changed."""
    patterns = [re.compile(shape) for shape in SHAPES]
    return torch.tensor([next(i for i, p in enumerate(patterns) if p.fullmatch(b)) for b in tokenizer.token_bytes])
