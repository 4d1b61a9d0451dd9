"""Rare tokens put right: how often tokens of each kind are expected where the model has not read the tweet.

A model that reads few tweets many times learns their rare tokens by heart, each in its place, and expects too few of
them anywhere else. How often they will come is known without holding tweets back: take out each training tweet in turn
and count how its tokens stand in all the others, those that do not stand there at all included (Good 1953). So after
training, one number for each kind of token, added to the output bias, makes the model expect each kind that often: on
average over tweets that nobody has read, because a Kneser-Ney model of the training tweets wrote them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from config.schema import Config
from generate.generate import generate
from model.checkpoint import Bundle
from model.ensemble import Ensemble
from model.ngram import NGram
from model.tokenizer import NUM_TOKENS, Tokenizer
from model.transformer import GPT
from model.vocabulary import SHAPES, Vocabulary, shapes_of
from trainer.batches import PAD, TweetDataset
from utils.preprocess import Tweet

CONTEXTS = 250  # tweets written to look at: about 3,500 places
MOST_OFTEN = 256  # tokens used so often or more are of one kind
KINDS = len(SHAPES) + MOST_OFTEN.bit_length()


@dataclass(frozen=True)
class Calibration:
    """What is needed to put a model right, at any time in its training.

    Attributes:
        kinds: (V,) the kind of each row; see `kind_of`.
        expected: (KINDS,) the share of each kind among the tokens of a tweet that was taken out.
        contexts: tweets that no model has read.
    """

    kinds: Tensor
    expected: Tensor
    contexts: TweetDataset

    @torch.no_grad()
    def offsets(self, model: GPT) -> Tensor:
        """What to add to the output bias of each row, (V,); the model is used as it stands."""
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
        for chosen in self.contexts.in_order(64):
            batch = self.contexts.batch(chosen)
            hidden = model.trunk(batch.inputs.to(device))[(batch.targets != PAD).to(device)]
            expected = model.head(hidden).float().softmax(-1).cpu()
            parts.append(torch.zeros(len(expected), KINDS).index_add_(1, kinds, expected))
        return torch.cat(parts)


def kind_of(counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The kind (n,) of tokens used `counts` (n,) times: below `least` their shape (n,); then 1; 2 and 3; 4 to 7; ..."""
    often = len(SHAPES) + counts.clamp(1, MOST_OFTEN).double().log2().long()
    return torch.where(counts >= least, often, shapes)


def taken_out(tweets: Sequence[Sequence[int]], counts: Tensor, shapes: Tensor, least: int) -> Tensor:
    """The share of each kind, (KINDS,), among the tokens of framed tweets, each tweet taken out of `counts` (50257,).

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
    writer = Ensemble([], vocabulary, config=config.model, ngram=ngram, ngram_share=1.0).eval()
    author = Bundle(writer, tokenizer, vocabulary, config, {})
    longest = config.model.block_size
    settings = replace(config.generate.unshaped(), num_samples=CONTEXTS, max_new_tokens=longest, seed=0)
    written = [Tweet(sample.text, sample.finish_reason == "stop") for sample in generate(author, [""], settings)]
    contexts = TweetDataset.encode(written, tokenizer, vocabulary, longest)
    return Calibration(kinds, taken_out(tweets, counts, shapes, least), contexts)
