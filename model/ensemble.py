"""Several models and an n-gram as one model, whose probabilities are the weighted mean of theirs."""

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

AT_ONCE = 64  # rows read together


@dataclass(frozen=True)
class Member:
    """A model in a ensemble, with its vocabulary and its share of what the ensemble says."""

    model: GPT
    vocabulary: Vocabulary
    share: float


class Caches:
    """The caches of all members, and the tokens read, (B, block_size); used as `model.transformer.Cache` is."""

    def __init__(self, parts: list[Cache], read: Tensor) -> None:
        self.parts, self.read, self._lengths = parts, read, [0] * len(read)

    @property
    def lengths(self) -> list[int]:
        """Tokens read of each text; what lies behind is forgotten."""
        return self._lengths

    @lengths.setter
    def lengths(self, values: list[int]) -> None:
        self._lengths = list(values)
        for part in self.parts:
            part.lengths = list(values)

    def keep(self, rows: list[int]) -> None:
        """Keep only these texts, in this order."""
        for part in self.parts:
            part.keep(rows)
        self.read, self._lengths = self.read[rows], [self._lengths[row] for row in rows]

    def join(self, other: "Caches") -> None:
        """Take the texts of another cache in, behind those that are here."""
        for part, more in zip(self.parts, other.parts, strict=True):
            part.join(more)
        self.read = torch.cat([self.read[: len(self._lengths)], other.read])
        self._lengths = self._lengths + other.lengths

    def drop(self, row: int) -> None:
        """Forget a text; the last one takes its place."""
        for part in self.parts:
            part.drop(row)
        last = len(self._lengths) - 1
        self.read[row] = self.read[last]
        self._lengths[row] = self._lengths[last]
        self._lengths.pop()


class Ensemble(nn.Module):
    """Several models, and maybe an n-gram, as one: its probabilities are the weighted mean of theirs.

    It is used as a GPT: `generate` writes with it, `score` judges it. What `trunk` gives at a place, (K,), is each
    member's last vector and then the ids of the tokens that the n-gram looks back on, for `head` to make log
    probabilities of.

    Args:
        members: their shares and the n-gram's are weights, they need not sum to 1.
        config: the student's; its context is that of the member with the shortest, at most.
        vocabulary: the rows it reads and speaks in. A member with another one gets, for a shared row, the likeliest
            token that shares it; what it expects of tokens that share a row is summed.
        ngram, ngram_share: fitted to the training tweets; None: there is none.
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
        assert members or ngram, "a ensemble of nobody"
        self.members, self.vocabulary, self.ngram = list(members), vocabulary, ngram
        contexts = [config.block_size, *(member.model.config.block_size for member in members)]
        self.config = replace(config, block_size=min(contexts))
        self.models = nn.ModuleList(member.model for member in members)
        self.wte = members[0].model.wte if members else nn.Embedding(1, 1)  # tells the device and type, as in a GPT
        total = sum(member.share for member in members) + (ngram_share if ngram else 0.0)
        self.shares, self.ngram_share = [member.share / total for member in members], ngram_share / total
        self.looks_back = len(ngram.levels) - 1 if ngram else 0
        self.unigram = to_vocabulary(ngram.unigram(), vocabulary) if ngram else None
        likeliest = torch.zeros(vocabulary.vocab_size, dtype=torch.long)
        order = vocabulary.log_prior.argsort(stable=True)  # the likeliest last, so it stays
        likeliest[vocabulary.id_of[order]] = order
        self.token_of = torch.where(vocabulary.gpt2_ids >= 0, vocabulary.gpt2_ids, likeliest)
        self.known = vocabulary.gpt2_ids  # of each row; -1 where it is shared, so the n-gram never saw it

    def new_cache(self, batch_size: int) -> Caches:
        """An empty cache for `batch_size` texts."""
        read = torch.zeros(batch_size, self.config.block_size, dtype=torch.long)
        return Caches([member.model.new_cache(batch_size) for member in self.members], read)

    def trunk(self, rows: Tensor, cache: Caches | None = None) -> Tensor:
        """What there is to know at each place, (B, T, K), for rows (B, T); with a cache they continue what it has."""
        parts = []
        for number, member in enumerate(self.members):
            own = rows
            if member.vocabulary is not self.vocabulary:
                own = member.vocabulary.id_of[self.token_of[rows.cpu()]].to(rows.device)
            parts.append(member.model.trunk(own, cache.parts[number] if cache else None).float())
        if self.ngram:
            parts.append(self.before(rows.cpu(), cache).to(rows.device, torch.float32))
        if cache:
            cache._lengths = [length + rows.shape[1] for length in cache.lengths]
        return torch.cat(parts, -1)

    def before(self, rows: Tensor, cache: Caches | None) -> Tensor:
        """GPT-2 ids (B, T, looks_back) of each place's own token, last, and those before it; MISSING where none is."""
        B, T = rows.shape
        ids = self.known[rows]
        if cache is None:
            place = torch.arange(T).expand(B, T)
        else:
            place = torch.tensor(cache.lengths)[:, None] + torch.arange(T)
            cache.read[torch.arange(B)[:, None], place] = ids
            ids = cache.read[:B]
        columns = []
        for back in reversed(range(self.looks_back)):
            column = ids.gather(1, (place - back).clamp(min=0))
            columns.append(torch.where(place >= back, column, MISSING))
        return torch.stack(columns, -1) if columns else torch.zeros(B, T, 0)

    @torch.no_grad()
    def head(self, memory: Tensor) -> Tensor:
        """Log probabilities (..., V) of the next row, from what `trunk` gave (..., K)."""
        flat = memory.reshape(-1, memory.shape[-1])
        return self.expect(flat).clamp_(min=1e-30).log_().view(*memory.shape[:-1], -1)

    @torch.no_grad()
    def expect(self, flat: Tensor) -> Tensor:
        """Probabilities (n, V) of the next row, from what `trunk` gave at n places, (n, K)."""
        total, start = flat.new_zeros(len(flat), self.vocabulary.vocab_size), 0
        for member, share in zip(self.members, self.shares, strict=True):
            width = member.model.config.n_embd
            probs = member.model.head(flat[:, start : start + width].to(self.wte.weight.dtype)).float().softmax(-1)
            total.add_(self.to_vocabulary(probs, member.vocabulary), alpha=share)
            start += width
        if self.ngram and self.unigram is not None:
            last = flat[:, start:].long().cpu().numpy()
            counted = self.ngram.spread(self.ngram.contexts(last), self.unigram, self.vocabulary.id_of.numpy())
            total.add_(torch.from_numpy(counted).to(total), alpha=self.ngram_share)
        return total

    def to_vocabulary(self, probs: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Probabilities (n, V) from those of a member with another vocabulary; none is lost."""
        if vocabulary is self.vocabulary:
            return probs
        of_tokens = probs[:, vocabulary.id_of.to(probs.device)] * vocabulary.log_prior.exp().to(probs.device)
        assert of_tokens.shape[1] == NUM_TOKENS
        ours = probs.new_zeros(len(probs), self.vocabulary.vocab_size)
        return ours.index_add_(1, self.vocabulary.id_of.to(probs.device), of_tokens)

    def forward(self, rows: Tensor, cache: Caches | None = None) -> Tensor:
        """Log probabilities (B, T, V) of the row after each."""
        return self.head(self.trunk(rows, cache))

    def num_parameters(self) -> int:
        """Of all members, and the grams that the n-gram counted."""
        grams = sum(len(level.counts) for level in self.ngram.levels) if self.ngram else 0
        return grams + sum(member.model.num_parameters() for member in self.members)
