"""Calibration of rare tokens: the model expects tokens of each kind as often as they occur in tweets it has not read.

A model that reads few tweets many times learns their rare tokens by heart, each in its place, and expects too few of
them anywhere else. How often they will occur is known without holding tweets back: leave out each training tweet in
turn and count how often its tokens occur in all the others, zero times included (Good 1953). So after training, one
number for each kind of token is added to the output bias. With it the model expects each kind that often, on average
over new tweets, which are drawn from a Kneser-Ney model of the training tweets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from config.schema import Config
from model.ngram import NGram
from model.tokenizer import NUM_TOKENS, Tokenizer
from model.transformer import GPT
from model.vocabulary import SHAPES, Vocabulary, shapes_of
from trainer.batches import TweetDataset
from utils.preprocess import Tweet

CONTEXTS = 250  # tweets drawn: about 3,500 places
MOST_OFTEN = 256  # tokens used so often or more are of one kind
KINDS = len(SHAPES) + MOST_OFTEN.bit_length()


@dataclass(frozen=True)
class Calibration:
    """What is needed to calibrate a model, at any time in its training.

    Attributes:
        kinds: (V,) the kind of each id; see `kind_of`.
        expected: (KINDS,) the share of each kind among the tokens of a tweet that was left out.
        contexts: new tweets.
    """

    kinds: Tensor
    expected: Tensor
    contexts: TweetDataset

    @torch.no_grad()
    def offsets(self, model: GPT) -> Tensor:
        """What to add to the output bias of each id, (V,); the model is used as it stands."""
        found = self.shares(model)
        there = found.mean(0) > 0
        wanted = self.expected[there] / self.expected[there].sum()
        offsets = torch.zeros(KINDS)
        for _ in range(100):  # iterative scaling (Darroch & Ratcliff 1972): each kind is moved by what it lacks
            moved = found * offsets.exp()
            step = (wanted / (moved / moved.sum(1, keepdim=True)).mean(0)[there]).log()
            offsets[there] += step
            if float(step.abs().max()) < 1e-4:
                break
        return offsets[self.kinds]

    def shares(self, model: GPT) -> Tensor:
        """The probability that the model gives to each kind, at each place of `contexts`, (N, KINDS)."""
        device, kinds, parts = model.wte.weight.device, self.kinds, []
        for examples in self.contexts.in_order(64):
            batch = self.contexts.batch(examples, device)
            hidden = batch.real(model.trunk(batch.ids))
            expected = model.head(hidden).float().softmax(-1).cpu()
            parts.append(torch.zeros(len(expected), KINDS).index_add_(1, kinds, expected))
        return torch.cat(parts)


def kind_of(counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The kind (n,) of tokens used `counts` (n,) times: below `least` their shape (n,); then 1; 2 and 3; 4 to 7; ..."""
    often = len(SHAPES) + counts.clamp(1, MOST_OFTEN).double().log2().long()
    return torch.where(counts >= least, often, shapes)


def left_out_shares(tweets: Sequence[Sequence[int]], counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The share of each kind, (KINDS,), among the tokens of framed tweets, each tweet left out of `counts` (50257,).

    `shapes` (50257,) and `least`: see `kind_of`.
    """
    total = torch.full((KINDS,), 0.5)  # half a token for each kind, so that none is impossible
    for tweet in tweets:
        ids, own = torch.tensor(tweet[1:], dtype=torch.long).unique(return_counts=True)
        total.index_add_(0, kind_of(counts[ids] - own, shapes[ids], least), own.float())
    return total / total.sum()


def make_calibration(
    config: Config, tweets: Sequence[Sequence[int]], ngram: NGram, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> Calibration:
    """For models of this vocabulary, trained on these framed tweets; `ngram` is fitted to them."""
    shapes, least = shapes_of(tokenizer), config.model.min_count if config.model.vocabulary == "corpus" else 1
    flat = torch.tensor([index for tweet in tweets for index in tweet[1:]])
    counts = torch.bincount(flat, minlength=NUM_TOKENS)
    kinds = torch.zeros(vocabulary.vocab_size, dtype=torch.long)
    kinds[vocabulary.id_of] = kind_of(counts, shapes, least)
    sampled = ngram.sample(CONTEXTS, counts.numpy() > 0, length=config.model.block_size, seed=0)
    drawn = [Tweet(tokenizer.decode(ids).replace("\ufffd", ""), finished) for ids, finished in sampled]
    contexts = TweetDataset.encode(drawn, tokenizer, vocabulary, config.model.block_size)
    return Calibration(kinds, left_out_shares(tweets, counts, shapes, least), contexts)
