"""Measures of samples, the tweets that a model wrote: do they end, are they copied, do they vary, do they look real?

Every measure applies to samples and to real tweets, so each figure has one of real tweets beside it. Tweets are
compared as text, and as GPT-2's tokens of that text, whatever model wrote them.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from generate.copies import SPAN, CopyCheck, normalise, spans
from model.ngram import Floats
from model.tokenizer import Tokenizer
from utils.scripts import units

T = TypeVar("T")

RESAMPLES = 10_000  # of a bootstrap: the ends of a 95% interval are then good to about 1% of its width
DRAWS_AT_ONCE = 2_000_000  # random numbers drawn together, to bound the memory
FEATURES = 2**15  # buckets of the classifier's n-grams
PER_SIDE = 500  # tweets of each kind that the classifier sees: its time grows with their cube
FOLDS = 5
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]}*]*$")


@dataclass(frozen=True)
class Written:
    """A tweet, real or written by a model.

    Attributes:
        ids: GPT-2's tokens of the text.
        ended: False if it was cut, by the API or by a length limit.
    """

    text: str
    ids: list[int]
    ended: bool


def as_written(texts: Sequence[str], ended: Sequence[bool], tokenizer: Tokenizer) -> list[Written]:
    """Texts with their tokens; `ended` says of each whether it is whole."""
    ids = tokenizer.encode_batch(list(texts))
    return [Written(text, tweet, end) for text, tweet, end in zip(texts, ids, ended, strict=True)]


def resampled_ratios(top: Floats, bottom: Floats, *, seed: int) -> Floats:
    """sum(top) / sum(bottom) of a bootstrap over tweets, (RESAMPLES,). Source: Efron 1979.

    Args:
        top, bottom: (n,) numerator and denominator of each tweet.
    """
    random, size = np.random.default_rng(seed), len(top)
    ratios = np.empty(RESAMPLES)
    step = max(1, DRAWS_AT_ONCE // size)
    for first in range(0, RESAMPLES, step):
        chosen = random.integers(0, size, (min(step, RESAMPLES - first), size))
        ratios[first : first + step] = top[chosen].sum(1) / bottom[chosen].sum(1)
    return ratios


def interval(ratios: Floats) -> list[float]:
    """The 95% interval [low, high] of resampled figures (n,)."""
    return [float(end) for end in np.quantile(ratios, (0.025, 0.975))]


def paired_difference(nats: Floats, other_nats: Floats, num_bytes: Floats) -> dict[str, Any]:
    """Bits per byte of the first model less those of the second on the same tweets, with a 95% interval.

    Args:
        nats: (n,) cost of each tweet under the first model.
        other_nats: (n,) cost of each tweet under the second.
        num_bytes: (n,) of the tweets.
    """
    bits = (nats - other_nats) / math.log(2)
    low, high = interval(resampled_ratios(bits, num_bytes, seed=0))
    return {"difference": float(bits.sum() / num_bytes.sum()), "low": low, "high": high, "resamples": RESAMPLES}


def difference_of_means(
    first: Floats, second: Floats, *, weights: tuple[Floats, Floats] | None = None
) -> dict[str, float]:
    """Mean of `first` (n,) less mean of `second` (m,), two sets of tweets, with a 95% interval over tweets.

    With `weights` each mean is sum(values) / sum(weights): with nats and tokens, for example, it is nats per token.
    """
    bottoms = weights or (np.ones(len(first)), np.ones(len(second)))
    estimate = first.sum() / bottoms[0].sum() - second.sum() / bottoms[1].sum()
    draws = resampled_ratios(first, bottoms[0], seed=1) - resampled_ratios(second, bottoms[1], seed=2)
    low, high = interval(draws)
    return {"difference": float(estimate), "low": low, "high": high}


def survival(tweets: Sequence[Written]) -> tuple[Floats, float]:
    """Share of tweets longer than k tokens, for k = 0, 1, ..., and the length up to which that is known.

    Of a tweet that was cut we know only that it is longer than what is there. It counts among the tweets that could
    have ended at the lengths up to its own. Without cut tweets this is the plain share. Source: Kaplan and Meier 1958.
    """
    lengths = np.array([len(tweet.ids) for tweet in tweets])
    ended = np.array([tweet.ended for tweet in tweets])
    ends = np.bincount(lengths[ended], minlength=lengths.max() + 1)
    at_risk = np.bincount(lengths)[::-1].cumsum()[::-1]  # as long as k, or longer
    longer = np.cumprod(1.0 - ends / at_risk)
    known = len(longer) - 2.0  # one that was cut at a limit could have ended right there
    return longer, math.inf if longer[-1] < 1e-12 else known


def length_ks(first: Sequence[Written], second: Sequence[Written]) -> float:
    """Largest gap between the two length distributions (Kolmogorov-Smirnov): 0 the same, 1 nothing in common."""
    if not first or not second:
        return math.nan
    (a, known_a), (b, known_b) = survival(first), survival(second)
    size = int(min(max(len(a), len(b)) - 1, known_a, known_b)) + 1
    a, b = (np.pad(longer, (0, max(0, size - len(longer))), mode="edge")[:size] for longer in (a, b))
    return float(np.abs(a - b).max()) if size else math.nan


def stopping(samples: Sequence[Written], real: Sequence[Written]) -> dict[str, float]:
    """How samples end, and their lengths in tokens without the end mark, beside the same of real tweets."""
    return {
        "stop_rate": mean([sample.ended for sample in samples]),
        "mean_length": mean([len(sample.ids) for sample in samples]),
        "real_mean_length": mean([len(tweet.ids) for tweet in real]),
        "length_ks": length_ks(samples, real),
        "sentence_end": mean([bool(SENTENCE_END.search(sample.text)) for sample in samples if sample.ended]),
        "real_sentence_end": mean([bool(SENTENCE_END.search(tweet.text)) for tweet in real if tweet.ended]),
        "empty": mean([not sample.text.strip() for sample in samples]),
    }


def copying(samples: Sequence[Written], real: Sequence[Written], copies: CopyCheck) -> dict[str, Any]:
    """How much of the samples is copied from the training tweets, beside the same of real, unseen tweets.

    The keys with `ngram8` are shares of tweets that share 8 words in a row with a training tweet; `longest_copy` is in
    words too (utils/scripts.py says what a word is in a script without spaces).
    """
    found: dict[str, Any] = {}
    copied = []
    for prefix, tweets in (("", samples), ("real_", real)):
        copied.append(np.array([copies.has_span(tweet.text) for tweet in tweets], dtype=np.float64))
        longest = [copies.longest(tweet.text) for tweet in tweets]
        found[f"{prefix}exact_copies"] = mean([copies.exact(tweet.text) for tweet in tweets if tweet.text.strip()])
        found[f"{prefix}ngram8_in_train"] = mean(copied[-1])
        found[f"{prefix}longest_copy_mean"] = mean(longest)
        found[f"{prefix}longest_copy_p95"] = float(np.quantile(longest, 0.95)) if longest else math.nan
    return {**found, "ngram8_excess": difference_of_means(*copied) if samples and real else None}


def repeats_itself(texts: Sequence[str]) -> float:
    """Share of tweets that share 8 words in a row with another tweet of the list."""
    split = [units(text) for text in texts]
    found = [{tuple(words[start:end]) for start, end in spans(words, SPAN)} for words in split]
    counts = Counter(span for tweet in found for span in tweet)
    return mean([any(counts[span] > 1 for span in tweet) for tweet in found])


def distinct(tweets: Sequence[Written], length: int) -> float:
    """Different n-grams over all n-grams. More text gives less, so compare equal amounts. Source: Li et al. 2016."""
    grams = [tuple(tweet.ids[i : i + length]) for tweet in tweets for i in range(len(tweet.ids) - length + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def diversity(samples: Sequence[Written], real: Sequence[Written]) -> dict[str, float]:
    """How samples vary, beside the same of equally many real tweets."""
    number = min(len(samples), len(real))
    found = {"unique": len({normalise(sample.text) for sample in samples}) / len(samples) if samples else math.nan}
    for length in (1, 2, 3):
        found[f"distinct{length}"] = distinct(spread(samples, number), length)
        found[f"real_distinct{length}"] = distinct(spread(real, number), length)
    found["classifier_auc"] = classifier_auc([t.text for t in real if t.ended], [s.text for s in samples if s.ended])
    return found


def classifier_auc(real: Sequence[str], samples: Sequence[str]) -> float:
    """The AUC of a classifier on bags of n-grams that separates samples from real tweets: 0.5 is guessing, 1 perfect.

    Five-fold cross-validation of a logistic regression. Nan with fewer than 10 tweets of a kind.
    """
    number = min(len(real), len(samples), PER_SIDE)
    if number < 2 * FOLDS:
        return math.nan
    features = ngram_features([*spread(real, number), *spread(samples, number)])
    labels = np.repeat([0.0, 1.0], number)
    folds = np.random.default_rng(0).permutation(2 * number) % FOLDS
    kernel = features @ features.T + 1.0  # 1: the intercept, as one more feature
    areas = []
    for fold in range(FOLDS):
        test, rest = folds == fold, folds != fold
        scores = kernel[np.ix_(test, rest)] @ logistic_regression(kernel[np.ix_(rest, rest)], labels[rest])
        areas.append(auc(scores[labels[test] == 1], scores[labels[test] == 0]))
    return mean(areas)


def ngram_features(texts: Sequence[str]) -> Floats:
    """TF-IDF features (n, FEATURES) of words, pairs of words and 1 to 4 characters, hashed; each row has norm 1."""
    counts = np.zeros((len(texts), FEATURES), dtype=np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]", text)
        grams = [*words, *map(" ".join, pairwise(words))]
        grams += [f"{n}:{text[i : i + n]}" for n in range(1, 5) for i in range(len(text) - n + 1)]
        np.add.at(counts[row], [zlib.crc32(gram.encode()) % FEATURES for gram in grams], 1.0)
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1.0
    weighed = np.log1p(counts) * rarity
    return np.asarray(weighed / np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def logistic_regression(kernel: Floats, labels: Floats, *, ridge: float = 0.1) -> Floats:
    """Weights (n,) of the training texts, so that kernel @ weights are log odds; by Newton's method.

    It minimises sum(log(1 + exp(-+ log odds))) + ridge / 2 * |w|^2, where w are the weights of the features. With
    fewer texts than features it is cheaper to solve for the texts (Rasmussen and Williams 2006, algorithm 3.1).

    Args:
        kernel: (n, n) inner products of the texts' features.
        labels: (n,) 0 or 1.
    """
    weights: Floats = np.zeros(len(labels))
    for _ in range(30):
        odds = kernel @ weights
        chance = 1.0 / (1.0 + np.exp(-odds))
        curve = np.maximum(chance * (1.0 - chance), 1e-10)
        target = odds + (labels - chance) / curve
        before = weights
        weights = np.asarray(np.linalg.solve(kernel + np.diag(ridge / curve), target), dtype=np.float64)
        if np.abs(weights - before).max() < 1e-8:
            break
    return weights


def auc(positive: Floats, negative: Floats) -> float:
    """Chance that a positive scores above a negative, ties counted half (Mann and Whitney 1947)."""
    if not len(positive) or not len(negative):
        return math.nan
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))


def spread(items: Sequence[T], number: int) -> list[T]:
    """`number` of the items, evenly spaced, because tweets are in the order of time."""
    return [items[place * len(items) // number] for place in range(number)]


def mean(values: Sequence[float] | Floats) -> float:
    """The mean; nan of nothing."""
    return float(np.mean(values)) if len(values) else math.nan
