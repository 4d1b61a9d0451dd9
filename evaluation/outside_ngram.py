"""The baseline of the track `+ outside text`: the tweets' n-gram mixed with an n-gram of other people's text.

    p(token) = (1 - share) p_tweets(token) + share p_outside(token)

The share is fitted on a tenth of the training tweets, which the tweets' n-gram is not fitted to meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.baselines import frame_all
from evaluation.metrics import spread
from model.ngram import Floats, NGram
from model.tokenizer import Tokenizer
from utils.preprocess import Tweet

ORDER = 4  # of the n-gram of outside text, which is longer than the tweets
MAX_CHARACTERS = 12_000_000  # of outside text: an n-gram takes about 300 bytes of memory for each token
HELD_OUT = 10  # every tenth training tweet
ROUNDS = 50  # of expectation-maximisation; it has converged long before


@dataclass(frozen=True)
class OutsideNGram:
    """The mixed baseline.

    Attributes:
        bits_per_byte: on the validation tweets.
        share: of the outside n-gram in the mixture.
        texts: how many outside texts it was fitted to.
    """

    bits_per_byte: float
    share: float
    texts: int


def measure_outside_ngram(
    train: Sequence[Tweet], val: Sequence[Tweet], outside: Sequence[Tweet], tokenizer: Tokenizer, *, order: int
) -> OutsideNGram:
    """Fit both n-grams and the share, and measure the mixture on the validation tweets.

    Args:
        order: of the tweets' n-gram.
    """
    size = sum(len(tweet.text) for tweet in outside)
    if size > MAX_CHARACTERS:
        outside = spread(outside, max(1, len(outside) * MAX_CHARACTERS // size))
    framed, tests = frame_all(train, tokenizer), frame_all(val, tokenizer)
    other = NGram.fit(frame_all(outside, tokenizer), ORDER)
    held_out = framed[HELD_OUT - 1 :: HELD_OUT]
    counted = [tweet for place, tweet in enumerate(framed) if place % HELD_OUT != HELD_OUT - 1]
    share = fit_share(probabilities(NGram.fit(counted, order), held_out), probabilities(other, held_out))
    mixed = (1 - share) * probabilities(NGram.fit(framed, order), tests) + share * probabilities(other, tests)
    num_bytes = sum(len(tweet.text.encode()) + 1 for tweet in val)
    return OutsideNGram(float(-np.log2(mixed).sum() / num_bytes), share, len(outside))


def probabilities(model: NGram, tweets: Sequence[Sequence[int]]) -> Floats:
    """The probability of every predicted token of framed tweets, one after another."""
    return np.exp(np.concatenate([model.log_probs(tweet) for tweet in tweets]))


def fit_share(first: Floats, second: Floats) -> float:
    """The share of the second of two models in their mixture that makes these tokens likeliest.

    By expectation-maximisation (Jelinek and Mercer 1980).

    Args:
        first, second: (n,) the tokens' probabilities under each model.
    """
    share = 0.5
    for _ in range(ROUNDS):
        share = float((share * second / ((1 - share) * first + share * second)).mean())
    return share
