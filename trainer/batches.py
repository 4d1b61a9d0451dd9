"""Tweets as rows of token numbers, and rows as batches.

    END t1 t2 ... tn END      a whole tweet: the end mark is learnt
    END t1 t2 ... tn          a tweet that the API cut off: it is not

One tweet a row, so no tweet sees another. The order of an epoch depends on (seed, epoch) alone, so the position
(epoch, batch) is all that must be remembered to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.tokenizer import END, Tokenizer
from model.vocabulary import Vocabulary
from utils.preprocess import Tweet

PAD = -100  # target of a place that is no token; torch's own mark for "do not count"
POOL = 32  # batches sorted by length together: long enough to save padding, short enough to stay a shuffle


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
class Rows:
    """All tweets, end to end.

    Attributes:
        tokens: (total,) vocabulary rows; every tweet begins with the end mark.
        log_prior: (total,) log prior of the token within its row; 0 where it has the row to itself.
        starts: (n,) where each row begins in `tokens`.
        lengths: (n,) predictions in each row, one less than its tokens.
        tweet: (n,) which tweet each row belongs to (a text longer than the context takes several rows).
        num_bytes: (tweets,) UTF-8 bytes of the text, and one more for its end.
        finished: (tweets,) whether the end mark is part of it.
    """

    tokens: Tensor
    log_prior: Tensor
    starts: Tensor
    lengths: Tensor
    tweet: Tensor
    num_bytes: Tensor
    finished: Tensor

    @classmethod
    def encode(cls, tweets: Sequence[Tweet], tokenizer: Tokenizer, vocabulary: Vocabulary, block_size: int) -> "Rows":
        """Encode tweets; one that has more than `block_size` predictions goes on in further rows."""
        starts: list[int] = []
        lengths: list[int] = []
        owner: list[int] = []
        ids: list[int] = []
        for number, (tweet, body) in enumerate(
            zip(tweets, tokenizer.encode_batch([t.text for t in tweets]), strict=True)
        ):
            first = len(ids)
            ids += framed(body, finished=tweet.finished)
            for start in range(first, len(ids) - 1, block_size):
                starts.append(start)
                lengths.append(min(block_size, len(ids) - 1 - start))
                owner.append(number)
        flat = torch.tensor(ids)
        return cls(
            tokens=vocabulary.row_of[flat],
            log_prior=vocabulary.log_prior[flat],
            starts=torch.tensor(starts),
            lengths=torch.tensor(lengths),
            tweet=torch.tensor(owner),
            num_bytes=torch.tensor([len(tweet.text.encode()) + 1 for tweet in tweets]),
            finished=torch.tensor([tweet.finished for tweet in tweets]),
        )

    @property
    def num_predictions(self) -> int:
        """Tokens to predict, end marks included."""
        return int(self.lengths.sum())

    def places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which places of these rows' batch are real, and where in `tokens` their inputs stand; both (B, T)."""
        steps = torch.arange(int(self.lengths[rows].max()))
        real = steps < self.lengths[rows][:, None]
        return real, torch.where(real, self.starts[rows][:, None] + steps, 0)

    def batch(self, rows: Tensor, tokens: Tensor | None = None) -> Batch:
        """These rows (B,) as a batch; `tokens` may stand in for `self.tokens`."""
        real, place = self.places(rows)
        source = self.tokens if tokens is None else tokens
        first = (self.lengths.cumsum(0) - self.lengths)[rows][:, None]
        return Batch(
            inputs=source[place],
            targets=torch.where(real, source[place + 1], PAD),
            index=torch.where(real, first + torch.arange(real.shape[1]), 0),
        )

    def prior_of(self, rows: Tensor) -> Tensor:
        """Log prior of the targets of these rows' batch, (B, T); 0 at padding."""
        real, place = self.places(rows)
        return torch.where(real, self.log_prior[place + 1], 0.0)

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

    def with_unseen(self, unseen_rows: Tensor, *, rate: float, seed: int, epoch: int) -> Tensor:
        """`tokens` in which some of those that occur once play the shared row of their shape.

        A token that training saw once is the nearest thing to one it never saw (Good 1953): letting it stand for
        the unseen at times teaches the model how likely, and after what, an unseen token comes.
        """
        if rate == 0:
            return self.tokens
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch + 500_000)
        shared = unseen_rows[self.tokens]
        once = (torch.bincount(self.tokens)[self.tokens] == 1) & (shared >= 0)
        plays = once & (torch.rand(len(self.tokens), generator=generator) < rate)
        return torch.where(plays, shared, self.tokens)


def framed(ids: list[int], *, finished: bool) -> list[int]:
    """A tweet's token ids with the end mark before it, and after it if it is whole."""
    return [END, *ids, END] if finished else [END, *ids]
