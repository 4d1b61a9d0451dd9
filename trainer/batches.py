"""Texts as rows of token numbers, and rows as batches.

    END t1 t2 ... tn END      a whole tweet: the end mark is learnt
    END t1 t2 ... tn          a tweet that the API cut off: it is not

One tweet a row, so no tweet sees another. A text longer than the context goes on in further rows, cut where a sentence
ends; the end mark is learnt in its last row alone. A further row begins with the token before its first prediction,
usually the full stop, and not with the end mark: that always means that a text begins, so what is written from nothing
begins as texts do. Every token is predicted exactly once, with no more to go by than its own row, so the bits per byte
of a long text are those of the whole text.

The order of an epoch depends on (seed, epoch) alone, so the position (epoch, batch) is all that must be remembered to
go on. What a batch needs of the tokens is read when its turn comes: they may lie in a file far larger than memory.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer import END, Tokenizer
from model.vocabulary import Vocabulary
from trainer.tokens import Tokens
from utils.preprocess import Tweet

PAD = -100  # target of a place that is no token; torch's own mark for "do not count"
POOL = 32  # batches sorted by length together: long enough to save padding, short enough to stay a shuffle
CHUNK = 1 << 24  # random numbers drawn together
# A token that may be a sentence's last: its mark, and quotes and brackets after it; then a space must follow. The
# full-width marks need none.
SENTENCE_END = re.compile(rb"(?s:.*)(?:[.!?]|\xe2\x80\xa6)(?:[\"')\]}]|\xe2\x80[\x99\x9d]|\xc2\xbb)*")
WIDE_END = re.compile(rb"(?s:.*)\xe3\x80\x82|(?s:.*)\xef\xbc[\x81\x9f]")


@dataclass(frozen=True)
class Batch:
    """Rows of like length, padded to the longest: all (B, T).

    Attributes:
        inputs: rows of the vocabulary; padding holds the end mark.
        targets: the row after each input; PAD where there is none.
        index: which prediction of all of `Rows` each place is, counted tweet by tweet (for soft targets).
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor


@dataclass(frozen=True)
class TweetDataset:
    """All texts, end to end.

    Attributes:
        tokens: the texts; every one begins with the end mark.
        vocabulary: gives the row of each token in the model.
        starts: (n,) where each row begins in `tokens.ids`.
        lengths: (n,) predictions in each row, one less than its tokens.
        tweet: (n,) which text each row belongs to (one longer than the context takes several rows).
        num_bytes: (tweets,) UTF-8 bytes of the text, and one more for its end.
        finished: (tweets,) whether the end mark is part of it.
    """

    tokens: Tokens
    vocabulary: Vocabulary
    starts: Tensor
    lengths: Tensor
    tweet: Tensor
    num_bytes: Tensor
    finished: Tensor

    @classmethod
    def encode(
        cls, tweets: Sequence[Tweet], tokenizer: Tokenizer, vocabulary: Vocabulary, block_size: int
    ) -> "TweetDataset":
        """Encode tweets; one that has more than `block_size` predictions goes on in further rows."""
        return cls.of(Tokens.encode(tweets, tokenizer), tokenizer, vocabulary, block_size)

    @classmethod
    def of(cls, tokens: Tokens, tokenizer: Tokenizer, vocabulary: Vocabulary, block_size: int) -> "TweetDataset":
        """Rows of texts that are encoded already."""
        starts, lengths, tweet = cut_rows(tokens, tokenizer, block_size)
        return cls(
            tokens=tokens,
            vocabulary=vocabulary,
            starts=torch.from_numpy(starts),
            lengths=torch.from_numpy(lengths),
            tweet=torch.from_numpy(tweet),
            num_bytes=torch.from_numpy(tokens.num_bytes),
            finished=torch.from_numpy(tokens.finished),
        )

    @cached_property
    def first(self) -> Tensor:
        """(n,) how many predictions come before each row."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def num_predictions(self) -> int:
        """Tokens to predict, end marks included."""
        return int(self.lengths.sum())

    def places(self, rows: Tensor, *, multiple: int = 1) -> tuple[Tensor, Tensor]:
        """Which places of these rows' batch are real, and where in `tokens.ids` their inputs stand; both (B, T)."""
        longest = int(self.lengths[rows].max())
        steps = torch.arange(-(-longest // multiple) * multiple)
        real = steps < self.lengths[rows][:, None]
        return real, torch.where(real, self.starts[rows][:, None] + steps, 0)

    def ids_at(self, places: Tensor) -> Tensor:
        """GPT-2 ids at these places of `tokens.ids`, in the same shape."""
        return torch.from_numpy(self.tokens.ids[places.numpy()].astype(np.int64))

    def batch(self, rows: Tensor, unseen: tuple[Tensor, Tensor] | None = None, *, multiple: int = 1) -> Batch:
        """These rows (B,) as a batch; `unseen`, from `unk_replacements`, says which tokens play the unseen.

        T is a multiple of `multiple`, for there is code to be made for each T.
        """
        real, places = self.places(rows, multiple=multiple)

        def rows_at(places: Tensor) -> Tensor:
            own = self.vocabulary.id_of[self.ids_at(places)]
            if unseen is None or len(unseen[0]) == 0:
                return own
            players, shared = unseen
            found = torch.searchsorted(players, places).clamp(max=len(players) - 1)
            return torch.where(players[found] == places, shared[found], own)

        return Batch(
            inputs=rows_at(places),
            targets=torch.where(real, rows_at(places + 1), PAD),
            index=torch.where(real, self.first[rows][:, None] + torch.arange(real.shape[1]), 0),
        )

    def prior_of(self, rows: Tensor) -> Tensor:
        """Log prior of the targets of these rows' batch, (B, T); 0 at padding."""
        real, places = self.places(rows)
        return torch.where(real, self.vocabulary.log_prior[self.ids_at(places + 1)], 0.0)

    def in_order(self, batch_size: int) -> list[Tensor]:
        """Row numbers of batches of like length; every row once. For evaluation."""
        return list(self.lengths.argsort(stable=True).split(batch_size))

    def epoch(self, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
        """Row numbers of one epoch's batches: shuffled, rows of like length together; every row once."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.starts), generator=generator)
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(batch_size * POOL)]
        batches = [batch for pool in pools for batch in pool.split(batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    @cached_property
    def row_counts(self) -> Tensor:
        """How often each row of the vocabulary stands in `tokens`, (vocab_size,)."""
        by_id = torch.from_numpy(self.tokens.counts())
        return torch.zeros(self.vocabulary.vocab_size, dtype=torch.long).index_add_(0, self.vocabulary.id_of, by_id)

    @cached_property
    def once(self) -> Tensor:
        """Where in `tokens.ids` the tokens stand whose row occurs only once, in order."""
        wanted = (self.row_counts == 1)[self.vocabulary.id_of]
        return torch.from_numpy(self.tokens.places_of(wanted.numpy()))

    def unk_replacements(self, unk_ids: Tensor, *, rate: float, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Where tokens that occur once play the shared row of their shape this epoch, and that row; both (k,).

        A token that training saw once is the nearest thing to one it never saw (Good 1953): letting it stand for
        the unseen at times teaches the model how likely, and after what, an unseen token comes.
        """
        shared = unk_ids[self.vocabulary.id_of[self.ids_at(self.once)]]
        able = shared >= 0
        places, shared = self.once[able], shared[able]
        if rate == 0 or len(places) == 0:
            return places[:0], shared[:0]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch + 500_000)
        plays = torch.zeros(len(places), dtype=torch.bool)
        for first in range(0, len(self.tokens.ids), CHUNK):  # a number for every token: the same ones as ever
            drawn = torch.rand(min(CHUNK, len(self.tokens.ids) - first), generator=generator) < rate
            here = slice(*torch.searchsorted(places, torch.tensor([first, first + CHUNK])).tolist())
            plays[here] = drawn[places[here] - first]
        return places[plays], shared[plays]

    def sample(self, limit: int, tokenizer: Tokenizer) -> "TweetDataset":
        """Rows evenly apart with about `limit` predictions, or all if there are no more; of long texts, parts."""
        step = -(-self.num_predictions // limit)
        if step <= 1:
            return self
        chosen = torch.arange(0, len(self.starts), step)
        kept, owner = self.tweet[chosen].unique(return_inverse=True)
        last = torch.cat([self.tweet[1:] != self.tweet[:-1], torch.ones(1, dtype=torch.bool)])[chosen]
        width = torch.tensor([len(token) for token in tokenizer.token_bytes])
        sizes = []
        for part in chosen.split(1024):
            real, places = self.places(part)
            sizes.append(torch.where(real, width[self.ids_at(places + 1)], 0).sum(1))
        return replace(
            self,
            starts=self.starts[chosen],
            lengths=self.lengths[chosen],
            tweet=owner,
            num_bytes=torch.zeros(len(kept), dtype=torch.long).index_add_(0, owner, torch.cat(sizes) + last),
            finished=self.finished[kept],
        )


def cut_rows(
    tokens: Tokens, tokenizer: Tokenizer, block_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each row begins, how many predictions it has, and its text; (n,) each."""
    sizes = np.diff(tokens.bounds) - 1
    fits = (sizes > 0) & (sizes <= block_size)
    starts, lengths, owners = [tokens.bounds[:-1][fits]], [sizes[fits]], [np.flatnonzero(fits)]
    long = np.flatnonzero(sizes > block_size)
    if len(long) == 0:
        return starts[0], lengths[0], owners[0]
    last, wide, spaced = sentence_marks(tokenizer)
    for text in long.tolist():
        begin = int(tokens.bounds[text])
        edges = begin + np.array(cut_text(tokens.ids[begin : tokens.bounds[text + 1]], last, wide, spaced, block_size))
        starts.append(edges[:-1])
        lengths.append(np.diff(edges))
        owners.append(np.full(len(edges) - 1, text))
    start, length, owner = (np.concatenate(parts) for parts in (starts, lengths, owners))
    order = np.argsort(start)  # text by text, as if none were long
    return start[order], length[order], owner[order]


@cache
def sentence_marks(tokenizer: Tokenizer) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each GPT-2 token, (50257,): may a sentence end with it before a space, does one in any case, is it spaced."""
    text = tokenizer.token_bytes
    return (
        np.array([SENTENCE_END.fullmatch(token) is not None for token in text]),
        np.array([WIDE_END.fullmatch(token) is not None for token in text]),
        np.array([token[:1] == b" " for token in text]),
    )


def cut_text(
    ids: NDArray[np.uint16],
    last: NDArray[np.bool_],
    wide: NDArray[np.bool_],
    spaced: NDArray[np.bool_],
    block_size: int,
) -> list[int]:
    """Where the rows of a framed text begin in it, and the place of its last token.

    Each row ends with the last sentence that ends within `block_size` predictions; if none does, at a token.

    Args:
        ids: (n,) the framed text.
        last, wide, spaced: see `sentence_marks`.
    """
    ends = np.flatnonzero(wide[ids[:-1]] | (last[ids[:-1]] & spaced[ids[1:]]))
    edges = [0]
    while len(ids) - 1 - edges[-1] > block_size:
        furthest = edges[-1] + block_size
        place = int(np.searchsorted(ends, furthest, side="right")) - 1
        found = int(ends[place]) if place >= 0 else 0
        edges.append(found if found > edges[-1] else furthest)
    return [*edges, len(ids) - 1]


def framed(ids: list[int], *, finished: bool) -> list[int]:
    """A tweet's token ids with the end mark before it, and after it if it is whole."""
    return [END, *ids, END] if finished else [END, *ids]
