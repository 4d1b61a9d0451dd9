"""Tweets as examples, and examples as batches.

    END t1 t2 ... tn END      a whole tweet: the end mark is learnt
    END t1 t2 ... tn          a tweet that the API cut off: it is not

An example is one tweet, so no tweet sees another. A text longer than the context goes on in further examples, cut where
a sentence ends; the end mark is learnt in the last one alone. A further example begins with the token before its first
prediction, usually the full stop, and not with the end mark: that always means that a text begins. Every token is
predicted exactly once, from its own example alone, so the bits per byte of a long text are those of the whole text.

The order of an epoch depends on (seed, number) alone, so the position (epoch, step) is all that must be remembered to
go on. A batch reads its tokens when its turn comes: they may lie in a file far larger than memory.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer import END, Tokenizer
from model.vocabulary import Vocabulary
from trainer.parallel import Ranks
from trainer.tokens import Tokens
from utils.preprocess import Tweet

CPU = torch.device("cpu")
POOL = 32  # batches sorted by length together: long enough to save padding, short enough to stay a shuffle
CHUNK = 1 << 24  # random numbers drawn together
# A token that may be a sentence's last: its mark, and quotes and brackets after it; then a space must follow. The
# full-width marks need none.
SENTENCE_END = re.compile(rb"(?s:.*)(?:[.!?]|\xe2\x80\xa6)(?:[\"')\]}]|\xe2\x80[\x99\x9d]|\xc2\xbb)*")
WIDE_END = re.compile(rb"(?s:.*)\xe3\x80\x82|(?s:.*)\xef\xbc[\x81\x9f]")


@dataclass(frozen=True)
class Batch:
    """Some examples of like length, padded to the longest of them. B examples, T places each, N of them real.

    Attributes:
        ids: (B, T) what the model reads; the end mark at places that are padding.
        places: (N,) which of the B * T places are real, no padding.
        targets: (N,) the id to be predicted at each real place, example by example.
        index: (N,) which prediction of the whole dataset each of them is.
        share: which part of a step's predictions this batch holds.
    """

    ids: Tensor
    places: Tensor
    targets: Tensor
    index: Tensor
    share: float = 1.0

    def real(self, hidden: Tensor) -> Tensor:
        """Of the hidden states of all places, (B, T, C), those of the real ones, (N, C)."""
        return hidden.flatten(0, 1).index_select(0, self.places)


@dataclass(frozen=True)
class Epoch:
    """One pass over a dataset: what each step learns from, in this epoch's order.

    Attributes:
        steps: the numbers of the examples of each step.
        replaced: (k,) where in the dataset's tokens the shared UNK id of a token's shape stands in for it; in order.
        unk: (k,) that id.
    """

    dataset: "TweetDataset"
    steps: Sequence[Tensor]
    replaced: Tensor
    unk: Tensor

    def parts(
        self, examples: Tensor, *, size: int, ranks: Ranks, device: torch.device, pad_to_multiple_of: int = 1
    ) -> Iterator[Batch]:
        """This process's share of a step's examples, as batches of at most `size` of them on `device`.

        The processes take the examples in turn, as these are sorted by length.
        """
        predictions = self.dataset.lengths[examples].sum()
        for part in examples[ranks.rank :: ranks.size].split(size):
            if len(part):
                batch = self.dataset.batch(part, device, replaced=self, pad_to_multiple_of=pad_to_multiple_of)
                yield replace(batch, share=float(self.dataset.lengths[part].sum() / predictions))


@dataclass(frozen=True)
class TweetDataset:
    """Texts, cut into examples that the model can read at once.

    Attributes:
        tokens: all texts, end to end; each begins with the end mark.
        vocabulary: gives the model's id of each of GPT-2's tokens.
        unk_ids: (V,) the shared id that may stand in for each id; see Vocabulary.unk_ids.
        starts: (n,) where each example begins in `tokens.ids`.
        lengths: (n,) predictions in each example, one less than its tokens.
        tweet: (n,) which text each example belongs to (one longer than the context makes several examples).
        num_bytes: (tweets,) UTF-8 bytes of the text, and one more for its end.
        finished: (tweets,) whether the end mark is part of it.
        counted_in: the dataset that says which tokens occur once, if it is not this one; its texts come first here.
    """

    tokens: Tokens
    vocabulary: Vocabulary
    unk_ids: Tensor
    starts: Tensor
    lengths: Tensor
    tweet: Tensor
    num_bytes: Tensor
    finished: Tensor
    counted_in: "TweetDataset | None" = None

    @classmethod
    def encode(
        cls,
        tweets: Sequence[Tweet],
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        block_size: int,
        *,
        counted_in: "TweetDataset | None" = None,
    ) -> "TweetDataset":
        """Encode tweets; one that has more than `block_size` predictions goes on in further examples."""
        return cls.of(Tokens.encode(tweets, tokenizer), tokenizer, vocabulary, block_size, counted_in=counted_in)

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        block_size: int,
        *,
        counted_in: "TweetDataset | None" = None,
    ) -> "TweetDataset":
        """The dataset of texts that are encoded already."""
        starts, lengths, tweet = cut_examples(tokens, tokenizer, block_size)
        return cls(
            tokens=tokens,
            vocabulary=vocabulary,
            unk_ids=vocabulary.unk_ids(tokenizer),
            starts=torch.from_numpy(starts),
            lengths=torch.from_numpy(lengths),
            tweet=torch.from_numpy(tweet),
            num_bytes=torch.from_numpy(tokens.num_bytes),
            finished=torch.from_numpy(tokens.finished),
            counted_in=counted_in,
        )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.starts)

    @cached_property
    def first(self) -> Tensor:
        """(n,) how many predictions come before each example."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def num_predictions(self) -> int:
        """Tokens to predict, end marks included."""
        return int(self.lengths.sum())

    def batch(
        self,
        examples: Tensor,
        device: torch.device = CPU,
        *,
        replaced: Epoch | None = None,
        pad_to_multiple_of: int = 1,
    ) -> Batch:
        """These examples (B,) as a batch on `device`; `replaced` has the UNK ids, T is a multiple of the last."""
        lengths = self.lengths[examples][:, None]
        T = -(-int(lengths.max()) // pad_to_multiple_of) * pad_to_multiple_of
        steps = torch.arange(T + 1)
        where = torch.where(steps <= lengths, self.starts[examples][:, None] + steps, 0)  # (B, T + 1) in tokens.ids
        ids = self.vocabulary.id_of[torch.from_numpy(self.tokens.ids[where.numpy()].astype(np.int64))]
        if replaced is not None and len(replaced.replaced):
            found = torch.searchsorted(replaced.replaced, where).clamp(max=len(replaced.replaced) - 1)
            ids = torch.where(replaced.replaced[found] == where, replaced.unk[found], ids)
        real = steps[:T] < lengths
        index = (self.first[examples][:, None] + steps[:T])[real]
        return Batch(
            ids=ids[:, :T].contiguous().to(device),
            places=real.flatten().nonzero()[:, 0].to(device),
            targets=ids[:, 1:][real].to(device),
            index=index.to(device),
        )

    def target_gpt2_ids(self, examples: Tensor) -> Tensor:
        """GPT-2 ids to be predicted, (N,), in the order of these examples' batch."""
        lengths = self.lengths[examples]
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        where = self.starts[examples].repeat_interleave(lengths) + within + 1
        return torch.from_numpy(self.tokens.ids[where.numpy()].astype(np.int64))

    def in_order(self, batch_size: int) -> list[Tensor]:
        """Numbers of the examples of batches of like length; every example once. For evaluation."""
        return list(self.lengths.argsort(stable=True).split(batch_size))

    def epoch(self, batch_size: int, *, seed: int, number: int, unk_rate: float) -> Epoch:
        """Epoch `number`: the examples shuffled, those of like length together; tokens that occur once replaced by UNK.

        Args:
            batch_size: examples of a step.
            unk_rate: the share of the tokens that occur once which is replaced.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        order = torch.randperm(len(self), generator=generator)
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(batch_size * POOL)]
        groups = [group for pool in pools for group in pool.split(batch_size)]
        steps = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
        generator.manual_seed(seed * 1_000_003 + number + 500_000)
        return Epoch(self, steps, *self.singleton_unk_replacement(unk_rate, generator))

    @cached_property
    def id_counts(self) -> Tensor:
        """How often each id of the vocabulary stands in `tokens`, (V,)."""
        by_gpt2_id = torch.from_numpy(self.tokens.counts())
        return torch.zeros(self.vocabulary.vocab_size, dtype=torch.long).index_add_(
            0, self.vocabulary.id_of, by_gpt2_id
        )

    @cached_property
    def singletons(self) -> Tensor:
        """Where in `tokens.ids` the tokens stand whose id occurs only once, in order."""
        if self.counted_in is not None:
            return self.counted_in.singletons
        wanted = (self.id_counts == 1)[self.vocabulary.id_of]
        return torch.from_numpy(self.tokens.places_of(wanted.numpy()))

    def singleton_unk_replacement(self, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where tokens that occur once are replaced by the shared UNK id of their shape, and that id; both (k,).

        A token that training saw once is the nearest thing to one it never saw (Good 1953). Replacing it at times
        teaches the model how likely, and after what, an unseen token comes.
        """
        gpt2_ids = torch.from_numpy(self.tokens.ids[self.singletons.numpy()].astype(np.int64))
        unk = self.unk_ids[self.vocabulary.id_of[gpt2_ids]]
        able = unk >= 0
        places, unk = self.singletons[able], unk[able]
        if rate == 0 or len(places) == 0:
            return places[:0], unk[:0]
        chosen = torch.zeros(len(places), dtype=torch.bool)
        for first in range(0, len(self.tokens.ids), CHUNK):  # a number for every token, so that none depends on others
            drawn = torch.rand(min(CHUNK, len(self.tokens.ids) - first), generator=generator) < rate
            here = slice(*torch.searchsorted(places, torch.tensor([first, first + CHUNK])).tolist())
            chosen[here] = drawn[places[here] - first]
        return places[chosen], unk[chosen]

    def sample(self, limit: int, tokenizer: Tokenizer) -> "TweetDataset":
        """Evenly spread examples with about `limit` predictions, or all if there are no more; of long texts, parts."""
        step = -(-self.num_predictions // limit)
        if step <= 1:
            return self
        chosen = torch.arange(0, len(self.starts), step)
        kept, owner = self.tweet[chosen].unique(return_inverse=True)
        last = torch.cat([self.tweet[1:] != self.tweet[:-1], torch.ones(1, dtype=torch.bool)])[chosen]
        width = torch.tensor([len(token) for token in tokenizer.token_bytes])
        sizes = []
        for example in chosen:
            sizes.append(int(width[self.target_gpt2_ids(example[None])].sum()))
        return replace(
            self,
            starts=self.starts[chosen],
            lengths=self.lengths[chosen],
            tweet=owner,
            num_bytes=torch.zeros(len(kept), dtype=torch.long).index_add_(0, owner, torch.tensor(sizes) + last),
            finished=self.finished[kept],
        )


def cut_examples(
    tokens: Tokens, tokenizer: Tokenizer, block_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each example begins, how many predictions it has, and its text; (n,) each."""
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
    """Where the examples of a framed text begin in it, and the place of its last token.

    Each example ends with the last sentence that ends within `block_size` predictions; if none does, at a token.

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
