"""Tweets as examples, and examples as batches.

    END t1 t2 ... tn END      a complete tweet: the model learns to predict its end
    END t1 t2 ... tn          a tweet that the API cut off: it has no end mark to predict

An example is one tweet, so tweets never attend to each other. A text longer than the context is cut into several
examples, each of which ends with a sentence. The first begins with the end mark, which always means that a text begins;
each of the others begins with the last token of the example before it, usually a full stop. Only the last one predicts
the end mark. Every token is predicted exactly once, so the bits per byte of a long text are those of the whole text.

The order of an epoch depends only on (seed, number), so (epoch, step) is all that must be saved to resume. The tokens
of a batch are read when it is made, as they may be in a file far larger than memory.
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
POOL = 32  # batches whose examples are sorted by length together: enough to save padding, few enough to stay random
CHUNK = 1 << 24  # random numbers drawn together
# The last token of a sentence ends with a punctuation mark, maybe with quotes and brackets after it, and the next token
# begins with a space. After full-width marks no space is needed.
SENTENCE_END = re.compile(rb"(?s:.*)(?:[.!?]|\xe2\x80\xa6)(?:[\"')\]}]|\xe2\x80[\x99\x9d]|\xc2\xbb)*")
WIDE_END = re.compile(rb"(?s:.*)\xe3\x80\x82|(?s:.*)\xef\xbc[\x81\x9f]")


@dataclass(frozen=True)
class Batch:
    """B examples of similar length, padded to T positions each; N of the B * T positions are real, not padding.

    Attributes:
        ids: (B, T) what the model reads; padding has the id of the end mark.
        places: (N,) the indices of the real positions among all B * T positions.
        targets: (N,) the id to predict at each real position, example by example.
        index: (N,) the index of each of these predictions in the whole dataset.
        share: the number of predictions in this batch divided by that in its step.
    """

    ids: Tensor
    places: Tensor
    targets: Tensor
    index: Tensor
    share: float = 1.0

    def real(self, hidden: Tensor) -> Tensor:
        """The hidden states (N, C) of the real positions, from those of all positions, (B, T, C)."""
        return hidden.flatten(0, 1).index_select(0, self.places)


@dataclass(frozen=True)
class Epoch:
    """One pass over a dataset: the examples of each step, and the tokens that are replaced by UNK ids.

    Attributes:
        steps: the numbers of the examples of each step.
        replaced: (k,) the indices of the replaced tokens in `dataset.tokens.ids`, in order.
        unk: (k,) the shared UNK id that replaces each of them.
    """

    dataset: "TweetDataset"
    steps: Sequence[Tensor]
    replaced: Tensor
    unk: Tensor

    def parts(
        self, examples: Tensor, *, size: int, ranks: Ranks, device: torch.device, pad_to_multiple_of: int = 1
    ) -> Iterator[Batch]:
        """This process's examples of a step, as batches of at most `size` examples on `device`.

        The examples are sorted by length, so process r takes the examples r, r + size of `ranks`, and so on.
        """
        predictions = self.dataset.lengths[examples].sum()
        for part in examples[ranks.rank :: ranks.size].split(size):
            if len(part):
                batch = self.dataset.batch(part, device, replaced=self, pad_to_multiple_of=pad_to_multiple_of)
                yield replace(batch, share=float(self.dataset.lengths[part].sum() / predictions))


@dataclass(frozen=True)
class TweetDataset:
    """Texts, cut into examples that fit the context.

    Attributes:
        tokens: all texts, one after another; each begins with the end mark.
        vocabulary: maps GPT-2's ids to the model's.
        unk_ids: (V,) the shared id that may replace each id; see Vocabulary.unk_ids.
        starts: (n,) where each example begins in `tokens.ids`.
        lengths: (n,) predictions in each example: one less than its tokens.
        tweet: (n,) which text each example belongs to (a text longer than the context makes several examples).
        num_bytes: (tweets,) UTF-8 bytes of the text, plus one for its end.
        finished: (tweets,) whether the text is complete and so has an end mark after it.
        counted_in: the dataset in which it is counted which tokens occur once; None: this one. Its texts must be the
            first texts of this dataset.
        epochs_per_pass: epochs that together read every example once: 2 for a model that is validated twice a pass.
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
    epochs_per_pass: int = 1

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
        """The dataset of these tweets. A tweet with more than `block_size` predictions makes several examples."""
        return cls.from_tokens(
            Tokens.encode(tweets, tokenizer), tokenizer, vocabulary, block_size, counted_in=counted_in
        )

    @classmethod
    def from_tokens(
        cls,
        tokens: Tokens,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        block_size: int,
        *,
        counted_in: "TweetDataset | None" = None,
    ) -> "TweetDataset":
        """The dataset of texts that are already encoded."""
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
        """(n,) the number of predictions before each example."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def num_predictions(self) -> int:
        """Number of tokens to predict, end marks included."""
        return int(self.lengths.sum())

    def batch(
        self,
        examples: Tensor,
        device: torch.device = CPU,
        *,
        replaced: Epoch | None = None,
        pad_to_multiple_of: int = 1,
    ) -> Batch:
        """These examples (B,) as a batch on `device`.

        Args:
            replaced: the epoch whose tokens are replaced by UNK ids; None: no token is.
            pad_to_multiple_of: T is a multiple of this.
        """
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
        """The targets of these examples as GPT-2 ids, (N,), in the order of their batch."""
        lengths = self.lengths[examples]
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        where = self.starts[examples].repeat_interleave(lengths) + within + 1
        return torch.from_numpy(self.tokens.ids[where.numpy()].astype(np.int64))

    def in_order(self, batch_size: int) -> list[Tensor]:
        """All examples in batches of similar length, each as the numbers of its examples. For evaluation."""
        return list(self.lengths.argsort(stable=True).split(batch_size))

    def num_steps(self, batch_size: int, epochs: int) -> int:
        """The number of steps in so many epochs."""
        return -(-len(self) // batch_size) * epochs // self.epochs_per_pass

    def epoch(self, batch_size: int, *, seed: int, number: int, unk_rate: float) -> Epoch:
        """Epoch `number`: steps in random order, each with examples of similar length.

        Args:
            batch_size: examples in a step.
            unk_rate: the share of the tokens that occur once which are replaced by UNK ids.
        """
        first, last = (self.num_steps(batch_size, number % self.epochs_per_pass + more) for more in (0, 1))
        number //= self.epochs_per_pass
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        steps = of_similar_length(self.lengths, batch_size, generator)[first:last]
        generator.manual_seed(seed * 1_000_003 + number + 500_000)
        return Epoch(self, steps, *self.singleton_unk_replacement(unk_rate, generator))

    @cached_property
    def id_counts(self) -> Tensor:
        """How often each of the model's ids occurs in `tokens`, (V,)."""
        by_gpt2_id = torch.from_numpy(self.tokens.counts())
        return torch.zeros(self.vocabulary.vocab_size, dtype=torch.long).index_add_(
            0, self.vocabulary.id_of, by_gpt2_id
        )

    @cached_property
    def singletons(self) -> Tensor:
        """The indices in `tokens.ids` of the tokens whose id occurs only once, in order."""
        if self.counted_in is not None:
            return self.counted_in.singletons
        wanted = (self.id_counts == 1)[self.vocabulary.id_of]
        return torch.from_numpy(self.tokens.places_of(wanted.numpy()))

    def singleton_unk_replacement(self, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose tokens that occur once. Returns their indices and the shared UNK ids that replace them, both (k,).

        A token that occurs once in training is the best model of one that does not occur at all (Good 1953). From these
        replacements the model learns how likely an unseen token is in each context.
        """
        gpt2_ids = torch.from_numpy(self.tokens.ids[self.singletons.numpy()].astype(np.int64))
        unk = self.unk_ids[self.vocabulary.id_of[gpt2_ids]]
        has_unk = unk >= 0
        places, unk = self.singletons[has_unk], unk[has_unk]
        if rate == 0 or len(places) == 0:
            return places[:0], unk[:0]
        chosen = torch.zeros(len(places), dtype=torch.bool)
        for first in range(0, len(self.tokens.ids), CHUNK):  # one for every token, so that the chunks do not matter
            drawn = torch.rand(min(CHUNK, len(self.tokens.ids) - first), generator=generator) < rate
            here = slice(*torch.searchsorted(places, torch.tensor([first, first + CHUNK])).tolist())
            chosen[here] = drawn[places[here] - first]
        return places[chosen], unk[chosen]

    def sample(self, limit: int, tokenizer: Tokenizer) -> "TweetDataset":
        """A dataset of evenly spaced examples with about `limit` predictions, or this one if it has no more.

        A text that makes several examples may be in it in part.
        """
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
    """The start, the number of predictions and the text of each example; (n,) each."""
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
    order = np.argsort(start)  # in the order of the texts
    return start[order], length[order], owner[order]


@cache
def sentence_marks(tokenizer: Tokenizer) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Three arrays over GPT-2's tokens, (50257,).

    Whether a sentence ends with the token if a space follows; whether one ends with it in any case; whether the token
    begins with a space.
    """
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
    """Where each example of a framed text begins in it, and the index of its last token.

    An example has as many sentences as fit into `block_size` predictions. If not even one fits, it is cut after
    `block_size` predictions.

    Args:
        ids: (n,) the framed text.
        last, wide, spaced: the arrays of `sentence_marks`.
    """
    ends = np.flatnonzero(wide[ids[:-1]] | (last[ids[:-1]] & spaced[ids[1:]]))
    edges = [0]
    while len(ids) - 1 - edges[-1] > block_size:
        furthest = edges[-1] + block_size
        place = int(np.searchsorted(ends, furthest, side="right")) - 1
        found = int(ends[place]) if place >= 0 else 0
        edges.append(found if found > edges[-1] else furthest)
    return [*edges, len(ids) - 1]


def of_similar_length(
    lengths: Tensor, batch_size: int, generator: torch.Generator, *, pool: int = POOL
) -> list[Tensor]:
    """The numbers of all examples in batches of similar length, in random order.

    Args:
        lengths: (examples,).
        pool: batches whose examples are sorted by length together.
    """
    order = torch.randperm(len(lengths), generator=generator)
    pools = [part[lengths[part].argsort(stable=True)] for part in order.split(batch_size * pool)]
    groups = [group for part in pools for group in part.split(batch_size)]
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def framed(ids: list[int], *, finished: bool) -> list[int]:
    """A tweet's token ids with the end mark before them, and after them if the tweet is complete."""
    return [END, *ids, END] if finished else [END, *ids]
