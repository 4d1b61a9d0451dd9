"""Several models and an n-gram as one model, and what they expect of a text, kept small.

A teacher's probabilities at 200,000 places over 8,000 rows are 6 GB. But they follow from little: each model's last
vector before its head, and for the n-gram the two tokens before. That is what is kept (`Memory`), and it is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from config.schema import ModelConfig
from model.cache import Cache
from model.ngram import MISSING, NGram, into_rows
from model.soft_targets import SoftTargets, dense
from model.tokenizer import NUM_TOKENS
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import PAD, Rows

AT_ONCE = 64  # rows read together


@dataclass(frozen=True)
class Voice:
    """A model in a committee, with its vocabulary and its share of what the committee says."""

    model: GPT
    vocabulary: Vocabulary
    share: float


class Caches:
    """The caches of all voices, and the tokens read, (B, block_size); used as `model.transformer.Cache` is."""

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


class Committee(nn.Module):
    """Several models, and maybe an n-gram, as one: its probabilities are the weighted mean of theirs.

    It is used as a GPT: `generate` writes with it, `score` judges it. What `trunk` gives at a place, (K,), is each
    voice's last vector and then the ids of the tokens that the n-gram looks back on, for `head` to make log
    probabilities of.

    Args:
        voices: their shares and the n-gram's are weights, they need not sum to 1.
        config: the student's; its context is that of the voice with the shortest, at most.
        vocabulary: the rows it reads and speaks in. A voice with another one gets, for a shared row, the likeliest
            token that shares it; what it expects of tokens that share a row is summed.
        ngram, ngram_share: fitted to the training tweets; None: there is none.
    """

    def __init__(
        self,
        voices: Sequence[Voice],
        vocabulary: Vocabulary,
        *,
        config: ModelConfig,
        ngram: NGram | None = None,
        ngram_share: float = 0.0,
    ) -> None:
        super().__init__()
        assert voices or ngram, "a committee of nobody"
        self.voices, self.vocabulary, self.ngram = list(voices), vocabulary, ngram
        contexts = [config.block_size, *(voice.model.config.block_size for voice in voices)]
        self.config = replace(config, block_size=min(contexts))
        self.models = nn.ModuleList(voice.model for voice in voices)
        self.wte = voices[0].model.wte if voices else nn.Embedding(1, 1)  # tells the device and type, as in a GPT
        total = sum(voice.share for voice in voices) + (ngram_share if ngram else 0.0)
        self.shares, self.ngram_share = [voice.share / total for voice in voices], ngram_share / total
        self.looks_back = len(ngram.levels) - 1 if ngram else 0
        self.unigram = into_rows(ngram.unigram(), vocabulary) if ngram else None
        likeliest = torch.zeros(vocabulary.num_rows, dtype=torch.long)
        order = vocabulary.log_prior.argsort(stable=True)  # the likeliest last, so it stays
        likeliest[vocabulary.row_of[order]] = order
        self.token_of = torch.where(vocabulary.ids >= 0, vocabulary.ids, likeliest)
        self.known = vocabulary.ids  # of each row; -1 where it is shared, so the n-gram never saw it

    def new_cache(self, batch_size: int) -> Caches:
        """An empty cache for `batch_size` texts."""
        read = torch.zeros(batch_size, self.config.block_size, dtype=torch.long)
        return Caches([voice.model.new_cache(batch_size) for voice in self.voices], read)

    def trunk(self, rows: Tensor, cache: Caches | None = None) -> Tensor:
        """What there is to know at each place, (B, T, K), for rows (B, T); with a cache they continue what it has."""
        parts = []
        for number, voice in enumerate(self.voices):
            own = rows
            if voice.vocabulary is not self.vocabulary:
                own = voice.vocabulary.row_of[self.token_of[rows.cpu()]].to(rows.device)
            parts.append(voice.model.trunk(own, cache.parts[number] if cache else None).float())
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
        total, start = flat.new_zeros(len(flat), self.vocabulary.num_rows), 0
        for voice, share in zip(self.voices, self.shares, strict=True):
            width = voice.model.config.n_embd
            said = voice.model.head(flat[:, start : start + width].to(voice.model.wte.weight.dtype)).float().softmax(-1)
            total.add_(self.in_our_rows(said, voice.vocabulary), alpha=share)
            start += width
        if self.ngram and self.unigram is not None:
            last = flat[:, start:].long().cpu().numpy()
            counted = self.ngram.spread(self.ngram.contexts(last), self.unigram, self.vocabulary.row_of.numpy())
            total.add_(torch.from_numpy(counted).to(total), alpha=self.ngram_share)
        return total

    def in_our_rows(self, said: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Probabilities (n, V) from those of a voice with another vocabulary; none is lost."""
        if vocabulary is self.vocabulary:
            return said
        of_tokens = said[:, vocabulary.row_of.to(said.device)] * vocabulary.log_prior.exp().to(said.device)
        assert of_tokens.shape[1] == NUM_TOKENS
        ours = said.new_zeros(len(said), self.vocabulary.num_rows)
        return ours.index_add_(1, self.vocabulary.row_of.to(said.device), of_tokens)

    def forward(self, rows: Tensor, cache: Caches | None = None) -> Tensor:
        """Log probabilities (B, T, V) of the row after each."""
        return self.head(self.trunk(rows, cache))

    def num_parameters(self) -> int:
        """Of all voices, and the grams that the n-gram counted."""
        grams = sum(len(level.counts) for level in self.ngram.levels) if self.ngram else 0
        return grams + sum(voice.model.num_parameters() for voice in self.voices)


@dataclass(frozen=True)
class Part:
    """What one committee has to say: at the places (n,) whose memory (n, K) is kept."""

    committee: Committee
    places: Tensor
    memory: Tensor


@torch.no_grad()
def listen(committee: Committee, rows: Rows, chosen: Tensor | None = None) -> Part:
    """Let a committee read these rows (n,) of a text (None: all) and keep what it knows at each prediction of them."""
    chosen = torch.arange(len(rows.starts)) if chosen is None else chosen
    places, memory = [torch.zeros(0, dtype=torch.long)], []
    device = committee.wte.weight.device
    for some in chosen[rows.lengths[chosen].argsort(stable=True)].split(AT_ONCE):
        batch = rows.batch(some)
        real = batch.targets != PAD
        places.append(batch.index[real])
        memory.append(committee.trunk(batch.inputs.to(device))[real.to(device)])
    return Part(committee, torch.cat(places), torch.cat(memory) if memory else torch.zeros(0, 0))


class Memory:
    """What teachers expect at N places, found once, made into probabilities when they are asked for.

    Args:
        parts: who speaks where; at most one at each place.
        places: N.
        ngram: an n-gram's own answers at the first places, each with its tweet left out; None: there are none.
        ngram_share: its share there; the rest is what `parts` say, if anybody does.
        dtype: in which the heads multiply.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        places: int,
        ngram: SoftTargets | None = None,
        ngram_share: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parts, self.ngram, self.ngram_share, self.dtype = parts, ngram, ngram_share, dtype
        self.speaker = torch.full((places,), -1)
        self.slot = torch.zeros(places, dtype=torch.long)
        for number, part in enumerate(parts):
            assert bool((self.speaker[part.places] < 0).all()), "two committees speak at one place"
            self.speaker[part.places] = number
            self.slot[part.places] = torch.arange(len(part.places))

    def __len__(self) -> int:
        return len(self.speaker)

    @torch.no_grad()
    def at(self, index: Tensor) -> Tensor:
        """Probabilities (n, V) at the places `index` (n,), on its device."""
        here = index.cpu()
        base = self.ngram.base if self.ngram else None
        num_rows = self.parts[0].committee.vocabulary.num_rows if self.parts else len(base)  # type: ignore[arg-type]
        found = torch.zeros(len(here), num_rows)
        for number, part in enumerate(self.parts):
            mine = self.speaker[here] == number
            if bool(mine.any()):
                with torch.autocast(index.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    found[mine] = part.committee.expect(part.memory[self.slot[here[mine]]]).cpu()
        if self.ngram is not None:
            real = here < len(self.ngram)
            alone = self.speaker[here[real]] < 0
            share = torch.where(alone, 1.0, self.ngram_share)[:, None]
            found[real] = (1.0 - share) * found[real] + share * dense(self.ngram, here[real])
        return found.to(index.device)
