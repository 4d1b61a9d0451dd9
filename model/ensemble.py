"""Several models and an n-gram as one model. Its probabilities are the weighted mean of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from config.schema import ModelConfig
from model.cache import Cache
from model.ngram import MISSING, NGram, to_vocabulary
from model.tokenizer import NUM_TOKENS
from model.transformer import GPT
from model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Member:
    """A model in an ensemble.

    Attributes:
        share: its weight in the mean; the ensemble divides all weights by their sum.
    """

    model: GPT
    vocabulary: Vocabulary
    share: float


class EnsembleCache:
    """The caches of all members, and the tokens read so far; it is used as `model.cache.Cache` is.

    Args:
        parts: one cache for each member.
        gpt2_ids: (B, block_size) GPT-2 ids of the tokens read, for the n-gram.
    """

    def __init__(self, parts: list[Cache], gpt2_ids: Tensor) -> None:
        self.parts, self.gpt2_ids, self._lengths = parts, gpt2_ids, [0] * len(gpt2_ids)

    @property
    def lengths(self) -> list[int]:
        """How many tokens of each text were read. A smaller number makes the cache forget the last ones."""
        return self._lengths

    @lengths.setter
    def lengths(self, values: list[int]) -> None:
        self._lengths = list(values)
        for part in self.parts:
            part.lengths = list(values)

    def advance(self, count: int) -> None:
        """Count `count` more tokens of every text; the members' caches have counted them already."""
        self._lengths = [length + count for length in self._lengths]

    def keep(self, texts: list[int]) -> None:
        """Keep only these texts, in this order."""
        for part in self.parts:
            part.keep(texts)
        self.gpt2_ids, self._lengths = self.gpt2_ids[texts], [self._lengths[text] for text in texts]

    def join(self, other: "EnsembleCache") -> None:
        """Append the texts of another cache."""
        for part, more in zip(self.parts, other.parts, strict=True):
            part.join(more)
        self.gpt2_ids = torch.cat([self.gpt2_ids[: len(self._lengths)], other.gpt2_ids])
        self._lengths = self._lengths + other.lengths

    def drop(self, text: int) -> None:
        """Forget a text; the last one takes its place."""
        for part in self.parts:
            part.drop(text)
        last = len(self._lengths) - 1
        self.gpt2_ids[text] = self.gpt2_ids[last]
        self._lengths[text] = self._lengths[last]
        self._lengths.pop()


class Ensemble(nn.Module):
    """Several models, and optionally an n-gram, as one `LanguageModel`.

    Its hidden state at a position, (K,), is each member's hidden state, one after another, and then the GPT-2 ids of
    the tokens that the n-gram looks at. `head` turns it into log probabilities, which serve as logits.

    Args:
        members: their shares and the n-gram's are weights; they need not sum to 1.
        config: of the model that learns from the ensemble; the context becomes that of the member with the shortest.
        vocabulary: of the ids that the ensemble reads and predicts. A member with another vocabulary reads, for a
            shared id, the likeliest token that shares it; its probabilities of tokens that share an id are summed.
        ngram, ngram_share: an n-gram fitted to the training tweets, and its weight; None: there is none.
    """

    def __init__(
        self,
        members: Sequence[Member],
        vocabulary: Vocabulary,
        *,
        config: ModelConfig,
        ngram: NGram | None = None,
        ngram_share: float = 0.0,
    ) -> None:
        super().__init__()
        assert members or ngram, "an ensemble needs a member or an n-gram"
        self.members, self.vocabulary, self.ngram = list(members), vocabulary, ngram
        contexts = [config.block_size, *(member.model.config.block_size for member in members)]
        self.config = replace(config, block_size=min(contexts))
        self.models = nn.ModuleList(member.model for member in members)
        self.wte = members[0].model.wte if members else nn.Embedding(1, 1)  # gives device and type, as in a GPT
        total = sum(member.share for member in members) + (ngram_share if ngram else 0.0)
        self.shares, self.ngram_share = [member.share / total for member in members], ngram_share / total
        self.ngram_context = len(ngram.levels) - 1 if ngram else 0  # tokens that the n-gram looks at
        self.unigram = to_vocabulary(ngram.unigram(), vocabulary) if ngram else None
        likeliest = torch.zeros(vocabulary.vocab_size, dtype=torch.long)
        order = vocabulary.log_prior.argsort(stable=True)  # the likeliest comes last, so its assignment stays
        likeliest[vocabulary.id_of[order]] = order
        self.likeliest = torch.where(vocabulary.gpt2_ids >= 0, vocabulary.gpt2_ids, likeliest)

    def new_cache(self, batch_size: int) -> EnsembleCache:
        """An empty cache for `batch_size` texts."""
        gpt2_ids = torch.zeros(batch_size, self.config.block_size, dtype=torch.long)
        return EnsembleCache([member.model.new_cache(batch_size) for member in self.members], gpt2_ids)

    def trunk(self, ids: Tensor, cache: EnsembleCache | None = None) -> Tensor:
        """Hidden states (B, T, K) of ids (B, T); with a cache the ids continue what it has read."""
        parts = []
        for number, member in enumerate(self.members):
            own = ids
            if member.vocabulary is not self.vocabulary:
                own = member.vocabulary.id_of[self.likeliest[ids.cpu()]].to(ids.device)
            parts.append(member.model.trunk(own, cache.parts[number] if cache else None).float())
        if self.ngram:
            parts.append(self.last_tokens(ids.cpu(), cache).to(ids.device, torch.float32))
        if cache:
            cache.advance(ids.shape[1])
        return torch.cat(parts, -1)

    def last_tokens(self, ids: Tensor, cache: EnsembleCache | None) -> Tensor:
        """GPT-2 ids (B, T, ngram_context) of the tokens up to each position, its own token last.

        MISSING stands where a text has not begun yet. A shared id is -1: the n-gram has never counted such a token.
        """
        B, T = ids.shape
        gpt2_ids = self.vocabulary.gpt2_ids[ids]
        if cache is None:
            position = torch.arange(T).expand(B, T)
        else:
            position = torch.tensor(cache.lengths)[:, None] + torch.arange(T)
            cache.gpt2_ids[torch.arange(B)[:, None], position] = gpt2_ids
            gpt2_ids = cache.gpt2_ids[:B]
        columns = []
        for back in reversed(range(self.ngram_context)):
            column = gpt2_ids.gather(1, (position - back).clamp(min=0))
            columns.append(torch.where(position >= back, column, MISSING))
        return torch.stack(columns, -1) if columns else torch.zeros(B, T, 0)

    @torch.no_grad()
    def head(self, hidden: Tensor) -> Tensor:
        """Log probabilities (..., V) of the next token, from hidden states (..., K)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        return self.probs(flat).clamp_(min=1e-30).log_().view(*hidden.shape[:-1], -1)

    @torch.no_grad()
    def probs(self, hidden: Tensor) -> Tensor:
        """Probabilities (n, V) of the next token, from hidden states (n, K)."""
        total, start = hidden.new_zeros(len(hidden), self.vocabulary.vocab_size), 0
        for member, share in zip(self.members, self.shares, strict=True):
            end = start + member.model.config.n_embd
            logits = member.model.head(hidden[:, start:end].to(self.wte.weight.dtype))
            total.add_(self.from_member(logits.float().softmax(-1), member.vocabulary), alpha=share)
            start = end
        if self.ngram and self.unigram is not None:
            last = hidden[:, start:].long().cpu().numpy()
            counted = self.ngram.next_probs(self.ngram.contexts(last), self.unigram, self.vocabulary.id_of.numpy())
            total.add_(torch.from_numpy(counted).to(total), alpha=self.ngram_share)
        return total

    def from_member(self, probs: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Probabilities (n, V) over the ensemble's vocabulary, from a member's over its own, (n, its V)."""
        if vocabulary is self.vocabulary:
            return probs
        of_tokens = probs[:, vocabulary.id_of.to(probs.device)] * vocabulary.log_prior.exp().to(probs.device)
        assert of_tokens.shape[1] == NUM_TOKENS
        ours = probs.new_zeros(len(probs), self.vocabulary.vocab_size)
        return ours.index_add_(1, self.vocabulary.id_of.to(probs.device), of_tokens)

    def forward(self, ids: Tensor, cache: EnsembleCache | None = None) -> Tensor:
        """Log probabilities (B, T, V) of the token after each of the ids (B, T)."""
        return self.head(self.trunk(ids, cache))

    def num_parameters(self) -> int:
        """Parameters of all members, and the n-grams that were counted."""
        counted = sum(len(level.counts) for level in self.ngram.levels) if self.ngram else 0
        return counted + sum(member.model.num_parameters() for member in self.members)
