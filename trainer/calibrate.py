"""Calibration of rare tokens: their probability becomes their frequency in tweets that were not used in training.

A model that is trained on few tweets for several epochs overfits to their rare tokens: it predicts them where they
occurred in training, and gives them too little probability everywhere else. Their frequency in new tweets can be
estimated from the training tweets alone: leave out each tweet in turn, and count how often its tokens occur in all the
others, zero times included (Good 1953). After training, one number for each kind of token is added to the output bias,
so that the mean probability of the kind is this frequency. The mean is over new tweets, which are drawn from a
Kneser-Ney model of the training tweets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from config.schema import Config
from model.fast import Trainable
from model.ngram import NGram
from model.tokenizer import NUM_TOKENS, Tokenizer
from model.vocabulary import SHAPES, Vocabulary, shapes_of
from trainer.batches import TweetDataset
from utils.preprocess import Tweet

CONTEXTS = 250  # tweets that are drawn: about 3,500 positions
MOST_OFTEN = 256  # all tokens that occur this often or more are of one kind
KINDS = len(SHAPES) + MOST_OFTEN.bit_length()


@dataclass(frozen=True)
class Calibration:
    """Calibrates a model, at any time during its training.

    Attributes:
        kinds: (V,) the kind of each id; see `kind_of`.
        expected: (KINDS,) the share of each kind among the tokens of a tweet that is left out of the counts.
        contexts: the new tweets.
    """

    kinds: Tensor
    expected: Tensor
    contexts: TweetDataset

    @torch.no_grad()
    def offsets(self, model: Trainable) -> Tensor:
        """The numbers (V,) to add to the output bias. The model is not changed."""
        found = self.shares(model)
        there = found.mean(0) > 0
        wanted = self.expected[there] / self.expected[there].sum()
        offsets = torch.zeros(KINDS)
        for _ in range(100):  # iterative scaling (Darroch & Ratcliff 1972)
            moved = found * offsets.exp()
            step = (wanted / (moved / moved.sum(1, keepdim=True)).mean(0)[there]).log()
            offsets[there] += step
            if float(step.abs().max()) < 1e-4:
                break
        return offsets[self.kinds]

    def shares(self, model: Trainable) -> Tensor:
        """The probability of each kind at each position of `contexts`, (N, KINDS)."""
        device, kinds, parts = model.wte.weight.device, self.kinds, []
        for examples in self.contexts.in_order(64):
            batch = self.contexts.batch(examples, device)
            hidden = batch.real(model.trunk(batch.ids))
            expected = model.head(hidden).float().softmax(-1).cpu()
            parts.append(torch.zeros(len(expected), KINDS).index_add_(1, kinds, expected))
        return torch.cat(parts)


def kind_of(counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The kind (n,) of tokens that occur `counts` (n,) times.

    Tokens that occur less than `least` times have their shape (n,) as their kind. The other kinds are: tokens that
    occur once; 2 or 3 times; 4 to 7 times; and so on, up to MOST_OFTEN.
    """
    often = len(SHAPES) + counts.clamp(1, MOST_OFTEN).double().log2().long()
    return torch.where(counts >= least, often, shapes)


def left_out_shares(tweets: Sequence[Sequence[int]], counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The share of each kind, (KINDS,), among the tokens of framed tweets; each is left out of `counts` (50257,).

    `shapes` (50257,) and `least`: see `kind_of`.
    """
    total = torch.full((KINDS,), 0.5)  # half a token for each kind, so that no share is 0
    for tweet in tweets:
        ids, own = torch.tensor(tweet[1:], dtype=torch.long).unique(return_counts=True)
        total.index_add_(0, kind_of(counts[ids] - own, shapes[ids], least), own.float())
    return total / total.sum()


def make_calibration(
    config: Config, tweets: Sequence[Sequence[int]], ngram: NGram, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> Calibration:
    """The calibration for models with this vocabulary that are trained on these framed tweets.

    `ngram` is fitted to the tweets and must have an order of 2 or more.
    """
    shapes, least = shapes_of(tokenizer), config.model.min_count if config.model.vocabulary == "corpus" else 1
    flat = torch.tensor([index for tweet in tweets for index in tweet[1:]])
    counts = torch.bincount(flat, minlength=NUM_TOKENS)
    kinds = torch.zeros(vocabulary.vocab_size, dtype=torch.long)
    kinds[vocabulary.id_of] = kind_of(counts, shapes, least)
    sampled = ngram.sample(CONTEXTS, counts.numpy() > 0, length=config.model.block_size, seed=0)
    drawn = [Tweet(tokenizer.decode(ids).replace("\ufffd", ""), finished) for ids, finished in sampled]
    contexts = TweetDataset.encode(drawn, tokenizer, vocabulary, config.model.block_size)
    return Calibration(kinds, left_out_shares(tweets, counts, shapes, least), contexts)
