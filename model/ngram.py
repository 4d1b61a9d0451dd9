"""Interpolated modified Kneser-Ney over GPT-2's tokens: the baseline that must be beaten, and a teacher.

A gram is a token and those right before it. With a(g) the count of a gram g = (h, w), h its context, h' the context
without its first token, and D one of three discounts (for counts 1, 2, and 3 or more):

    p(w | h) = (a(h, w) - D) / sum over v of a(h, v)  +  rest(h) * p(w | h')

`rest(h)` is what the discounts took, so it sums to 1. At the longest length a(g) is how often g occurs; below, it is
how many different tokens come before g ("San Francisco": Francisco follows few tokens, so it is no likely guess after
others), but for grams that open a tweet, before which nothing can stand, again how often. Under the unigrams lies a
fixed floor over all 50,257 tokens, ~ 1 / (id + 1)^0.7: GPT-2 numbers its tokens by how often they were merged.

Tweets are framed: [END] t1 ... tn, and END again if the tweet is whole. The first END is context, never predicted.
Source: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from model.prior import ZIPF
from model.soft_targets import SoftTargets, compress, concatenate
from model.tokenizer import END, NUM_TOKENS
from model.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MISSING = -1  # id of a gram never seen, or one that would reach back over the start of the tweet
TOGETHER = 16  # tweets whose expectations are made small together
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where the text is too short to estimate them; KenLM's choice as well


@dataclass
class Level:
    """All grams of one length, sorted by context and then token: the id of a gram is its place in that order.

    Attributes:
        keys: (grams,) id of the context, one level down, times 50,257, plus the token. Unigrams have context 0.
        tokens: (grams,) the last token of each.
        starts: (contexts + 1,) where the grams of each context begin.
        suffix: (grams,) id of the gram without its first token, one level down.
        opens: (grams,) whether it begins with the END before a tweet.
        occurrences: (grams,) how often it occurs as a prediction.
        counts: (grams,) what Kneser-Ney counts; at the longest length the same array as `occurrences`.
        discounts: (4,) what is taken off a count of 0, 1, 2, and 3 or more.
    """

    keys: Ints
    tokens: Ints
    starts: Ints
    suffix: Ints
    opens: NDArray[np.bool_]
    occurrences: Ints
    counts: Ints
    discounts: Floats

    def find(self, contexts: Ints, tokens: Ints) -> Ints:
        """Ids of the grams (n,) made of a context (n,) and a token (n,), or MISSING."""
        wanted = contexts * NUM_TOKENS + tokens  # negative, hence not there, where the context is MISSING
        place = np.searchsorted(self.keys, wanted)
        known = place < len(self.keys)
        known[known] = self.keys[place[known]] == wanted[known]
        return np.where(known, place, MISSING)

    def discount(self, counts: Ints) -> Floats:
        """What is taken off each of these counts."""
        return self.discounts[np.minimum(counts, 3)]

    def share(self, contexts: Ints) -> tuple[Ints, Ints, Floats, Floats]:
        """How this level divides the probability after each of n contexts.

        Returns:
            For all grams that follow, context by context: their id, which context (0..n-1), discounted probability.
            Then (n,) what is left for the level below: 1 where the context was never seen.
        """
        first = np.where(contexts >= 0, self.starts[contexts], 0)
        sizes = np.where(contexts >= 0, self.starts[contexts + 1], 0) - first
        owner = np.repeat(np.arange(len(contexts)), sizes)
        gram = np.arange(len(owner)) + np.repeat(first - sizes.cumsum() + sizes, sizes)
        counts = self.counts[gram]
        discount = self.discount(counts)
        total = np.bincount(owner, counts, len(contexts))
        seen = total > 0
        divisor = np.where(seen, total, 1.0)
        rest = np.where(seen, np.bincount(owner, discount, len(contexts)) / divisor, 1.0)
        return gram, owner, (counts - discount) / divisor[owner], rest


class NGram:
    """A Kneser-Ney model; `levels[k - 1]` holds the grams of k tokens."""

    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels
        weight = (np.arange(NUM_TOKENS) + 1.0) ** ZIPF[0]
        self.floor = weight / weight.sum()

    @classmethod
    def fit(cls, tweets: Sequence[Sequence[int]], order: int) -> "NGram":
        """Count framed tweets; `order` is the length of the longest grams: 1 a unigram model, 2 a bigram, ..."""
        assert order >= 1 and len(tweets) > 0, "an n-gram model needs an order of 1 or more, and tweets"
        tokens = np.concatenate([np.asarray(tweet, dtype=np.int64) for tweet in tweets])
        place = np.concatenate([np.arange(len(tweet)) for tweet in tweets])  # within the tweet
        inner = (place > 0) & (np.append(place[1:], 0) > 0)
        assert (tokens[place == 0] == END).all() and (tokens[inner] != END).all(), "END stands around tweets only"
        levels: list[Level] = []
        ids = np.zeros_like(tokens)
        for length in range(1, order + 1):
            num_contexts = len(levels[-1].keys) if levels else 1
            level, ids = count_grams(tokens, place, length=length, lower=ids, num_contexts=num_contexts)
            levels.append(level)
        for lower, upper in pairwise(levels):
            before = np.bincount(upper.suffix, minlength=len(lower.keys))
            lower.counts = np.where(lower.opens, lower.occurrences, before)
        for level in levels:
            level.discounts = estimate_discounts(level.counts)
        return cls(levels)

    def grams(self, tweet: Sequence[int]) -> list[Ints]:
        """For each length, the ids (len(tweet),) of the grams that end at each token, or MISSING."""
        tokens = np.asarray(tweet, dtype=np.int64)
        contexts = np.zeros_like(tokens)
        found = []
        for level in self.levels:
            found.append(level.find(contexts, tokens))
            contexts = np.concatenate(([MISSING], found[-1][:-1]))
        return found

    def contexts(self, last: Ints) -> list[Ints]:
        """For `spread`: ids of the contexts that the newest tokens `last` (n, order - 1) make; MISSING: none."""
        found = []
        for length in range(1, last.shape[1] + 1):
            ids = np.zeros(len(last), dtype=np.int64)
            for level, tokens in zip(self.levels, last[:, -length:].T, strict=False):
                ids = np.where((ids >= 0) & (tokens >= 0), level.find(ids, tokens), MISSING)
            found.append(ids)
        return found

    def unigram(self) -> Floats:
        """The lowest level, (50257,): what is expected when nothing is known of the context."""
        gram, _, excess, rest = self.levels[0].share(np.zeros(1, dtype=np.int64))
        expected: Floats = self.floor * rest
        expected[self.levels[0].tokens[gram]] += excess
        return expected

    def log_probs(self, tweet: Sequence[int]) -> Floats:
        """Log probability, in nats, of every token of a framed tweet but the first: (len(tweet) - 1,)."""
        found = self.grams(tweet)
        probability = self.unigram()[np.asarray(tweet[1:], dtype=np.int64)]
        for level, lower, target in zip(self.levels[1:], found, found[1:], strict=False):
            gram, owner, excess, rest = level.share(lower[:-1])
            hit = gram == target[1:][owner]
            probability *= rest
            probability[owner[hit]] += excess[hit]
        return np.log(probability)

    def distribution(self, context: Sequence[int]) -> Floats:
        """Probabilities (50257,) of the next token; the context counts from its last END on."""
        tokens = list(context)
        if END in tokens:
            tokens = tokens[len(tokens) - 1 - tokens[::-1].index(END) :]
        if not tokens:
            return self.unigram()
        contexts = [ids[-1:] for ids in self.grams(tokens)]
        found: Floats = self.spread(contexts, self.unigram(), np.arange(NUM_TOKENS))[0]
        return found

    def spread(self, contexts: Sequence[Ints], unigram: Floats, id_of: Ints) -> Floats:
        """Probabilities (n, V) after n contexts.

        Args:
            contexts: for the lengths 1, 2, ... ids (n,) of the context's last tokens; MISSING where never seen.
            unigram: (V,) lowest level, summed into rows.
            id_of: (50257,) row of each token, below V.
        """
        weight = np.ones(len(contexts[0]))
        places, amounts = [], []
        for level, ids in reversed(list(zip(self.levels[1:], contexts, strict=False))):
            gram, owner, excess, rest = level.share(ids)
            places.append(owner * len(unigram) + id_of[level.tokens[gram]])
            amounts.append(excess * weight[owner])
            weight *= rest
        dense = weight[:, None] * unigram
        if places:
            np.add.at(dense.reshape(-1), np.concatenate(places), np.concatenate(amounts))
        return dense

    def sample(self, count: int, allowed: NDArray[np.bool_], *, length: int, seed: int) -> list[tuple[list[int], bool]]:
        """Draw `count` new tweets: GPT-2 ids without end marks, and whether it ended within `length` tokens.

        Args:
            allowed: (50257,) the tokens that may be drawn, the end mark among them.
        """
        assert len(self.levels) > 1, "a unigram model has no contexts to draw in"
        random, reach = np.random.default_rng(seed), len(self.levels) - 1
        tokens = np.flatnonzero(allowed)
        column = np.full(NUM_TOKENS, len(tokens))  # of each token; the last one is of all that may not be drawn
        column[tokens] = np.arange(len(tokens))
        unigram = np.bincount(column, self.unigram(), len(tokens) + 1).astype(np.float64)
        tweets: list[list[int]] = [[END] for _ in range(count)]
        for _ in range(length):
            unfinished = [tweet for tweet in tweets if len(tweet) == 1 or tweet[-1] != END]
            if not unfinished:
                break
            last = np.array([([MISSING] * reach + tweet)[-reach:] for tweet in unfinished], dtype=np.int64)
            edges = self.spread(self.contexts(last), unigram, column)[:, :-1].cumsum(1)
            for tweet, edge in zip(unfinished, edges, strict=True):
                tweet.append(int(tokens[np.searchsorted(edge, random.random() * edge[-1], side="right")]))
        return [(tweet[1:-1], True) if len(tweet) > 1 and tweet[-1] == END else (tweet[1:], False) for tweet in tweets]

    @contextmanager
    def without(self, tweet: Sequence[int]) -> Iterator[list[Ints]]:
        """The model, inside the `with`, as if this training tweet had not been counted; yields the tweet's `grams`.

        The discounts are kept. Nobody else may use the model meanwhile: its counts are changed in place.
        """
        found = self.grams(tweet)
        known = [ids[1:][ids[1:] >= 0] for ids in found]
        saved = [(level.occurrences[ids], level.counts[ids]) for level, ids in zip(self.levels, known, strict=True)]
        vanished = np.zeros(0, dtype=np.int64)  # grams of the level above that no longer occur, without first token
        for level, ids in reversed(list(zip(self.levels, known, strict=True))):
            np.subtract.at(level.occurrences, ids, 1)
            if level is not self.levels[-1]:
                np.subtract.at(level.counts, ids[level.opens[ids]], 1)
                np.subtract.at(level.counts, vanished, 1)
            vanished = level.suffix[np.unique(ids[level.occurrences[ids] == 0])]
        try:
            yield found
        finally:
            for level, ids, (occurrences, counts) in zip(self.levels, known, saved, strict=True):
                level.occurrences[ids] = occurrences
                level.counts[ids] = counts


def count_grams(tokens: Ints, place: Ints, *, length: int, lower: Ints, num_contexts: int) -> tuple[Level, Ints]:
    """The grams of one length, still without Kneser-Ney counts and discounts, and the id (n,) of the one at each token.

    Args:
        tokens: (n,) all tweets end to end.
        place: (n,) place of each token in its tweet.
        length: tokens in a gram.
        lower: (n,) id, one level down, of the gram that ends at each token; zeros for unigrams.
        num_contexts: grams one level down; 1 for unigrams.
    """
    contexts = lower if length == 1 else np.roll(lower, 1)
    whole = place >= length - 1
    keys, inverse = np.unique(contexts[whole] * NUM_TOKENS + tokens[whole], return_inverse=True)
    ids = np.full_like(tokens, MISSING)
    ids[whole] = inverse
    suffix = np.zeros_like(keys)
    suffix[inverse] = lower[whole]
    opens = np.zeros(len(keys), dtype=np.bool_)
    if length > 1:
        opens[ids[place == length - 1]] = True
    occurrences = np.bincount(ids[whole & (place > 0)], minlength=len(keys))
    starts = np.searchsorted(keys, np.arange(num_contexts + 1) * NUM_TOKENS)
    return Level(keys, keys % NUM_TOKENS, starts, suffix, opens, occurrences, occurrences, np.zeros(4)), ids


def estimate_discounts(counts: Ints) -> Floats:
    """Discounts (4,) of the counts 0, 1, 2, and 3 or more, from how many grams have each count (Chen, Goodman 1998)."""
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        estimate = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < discount <= count for count, discount in enumerate(estimate, start=1)):
            return np.array((0.0, *estimate))
    return np.array((0.0, *FALLBACK_DISCOUNTS))


def choose_order(
    tweets: Sequence[Sequence[int]], *, held_out: float = 0.1, orders: Sequence[int] = (2, 3, 4, 5)
) -> int:
    """The order that gives framed tweets the lowest cost: every n-th is held out, the others are counted."""
    step = max(2, round(1 / held_out))
    tests = tweets[step - 1 :: step]
    counted = [tweet for place, tweet in enumerate(tweets) if place % step != step - 1]

    def cost(order: int) -> float:
        model = NGram.fit(counted, order)
        return -sum(float(model.log_probs(tweet).sum()) for tweet in tests)

    return min(orders, key=cost)


def to_vocabulary(probabilities: Floats, vocabulary: Vocabulary) -> Floats:
    """Probabilities (50257,) of tokens summed into the model's rows, (V,)."""
    sums = np.bincount(vocabulary.id_of.numpy(), probabilities, vocabulary.vocab_size)
    return sums.astype(np.float64, copy=False)


class UnigramInRows:
    """The lowest level summed into rows, for a model that loses a tweet's counts now and gets them back later.

    It keeps the sums over all grams, so that only those of the tweet have to be looked at.
    """

    def __init__(self, ngram: NGram, vocabulary: Vocabulary) -> None:
        self.level, self.id_of = ngram.levels[0], vocabulary.id_of.numpy()
        self.floor = to_vocabulary(ngram.floor, vocabulary)
        self.counts = self.level.counts.copy()
        self.discounts = self.level.discount(self.counts)
        self.sums = np.bincount(self.id_of[self.level.tokens], self.counts - self.discounts, vocabulary.vocab_size)
        self.total, self.discounted = int(self.counts.sum()), float(self.discounts.sum())

    def now(self, changed: Ints) -> Floats:
        """Probabilities (V,), if other counts than those of the grams `changed` (n,), each once, are as they were."""
        counts = self.level.counts[changed]
        fewer, less = counts - self.counts[changed], self.level.discount(counts) - self.discounts[changed]
        total = self.total + int(fewer.sum())
        if total == 0:
            return self.floor
        expected: Floats = self.sums + self.floor * (self.discounted + less.sum())
        np.add.at(expected, self.id_of[self.level.tokens[changed]], fewer - less)
        expected /= total
        return expected


def left_out_rows(ngram: NGram, tweets: Sequence[Sequence[int]], vocabulary: Vocabulary) -> Iterator[Floats]:
    """For each training tweet, what a model that never saw it expects at each of its places: (len(tweet) - 1, V).

    The tweet's own counts are taken out at all lengths, counts of different tokens before included; the discounts
    stay those of the full text. A token that only this tweet uses falls back to its part of the floor.

    Args:
        ngram: fitted on these tweets, among others maybe.
        tweets: framed.
        vocabulary: whose V rows the probabilities are summed into.
    """
    id_of, unigram = vocabulary.id_of.numpy(), UnigramInRows(ngram, vocabulary)
    for tweet in tweets:
        with ngram.without(tweet) as found:
            yield ngram.spread([ids[:-1] for ids in found], unigram.now(np.unique(found[0][1:])), id_of)


def leave_one_out(ngram: NGram, tweets: Sequence[Sequence[int]], vocabulary: Vocabulary, top_k: int) -> SoftTargets:
    """`left_out_rows` of all tweets as soft targets; their tails are spread by the unigrams of the full text.

    A model that has seen a tweet expects it nearly to the letter and teaches nothing; one that has not seen it knows
    what else could have stood there.
    """
    base = torch.from_numpy(to_vocabulary(ngram.unigram(), vocabulary))
    rows, parts = left_out_rows(ngram, tweets, vocabulary), []
    while some := list(islice(rows, TOGETHER)):
        parts.append(compress(torch.from_numpy(np.concatenate(some, dtype=np.float32)), base, top_k))
    return concatenate(parts)
