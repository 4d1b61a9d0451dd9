"""An interpolated modified Kneser-Ney n-gram model over GPT-2's tokens: the baseline to beat, and a teacher.

A gram is a token w together with its context h, the tokens right before it. h' is the context without its first token,
a(h, w) the count of the gram, and D one of three discounts (for the counts 1, 2, and 3 or more):

    p(w | h) = (a(h, w) - D) / sum over v of a(h, v)  +  rest(h) * p(w | h')

`rest(h)` is the sum of the discounts divided by the sum of the counts, so the probabilities sum to 1. For the longest
grams a(h, w) is how often the gram occurs. For shorter ones it is the number of different tokens that occur before the
gram: "Francisco" occurs often, but only after "San", so it is unlikely after other tokens. A gram that begins with the
END before a tweet has no token before it, so its count is again how often it occurs. The unigrams are interpolated with
a fixed distribution over all 50,257 tokens, the floor, ~ 1 / (id + 1)^0.7: GPT-2's ids follow the order of its merges,
so frequent tokens have low ids.

Tweets are framed: [END] t1 ... tn, and END again if the tweet is complete. The first END is context, never predicted.
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

MISSING = -1  # number of a gram that was never counted, or that would begin before the start of the tweet
TWEETS_AT_ONCE = 16  # tweets whose probabilities are compressed together
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # if the text is too short to estimate them; KenLM uses the same


@dataclass
class Level:
    """All grams of one length, sorted by context and then by token. The number of a gram is its index in that order.

    Attributes:
        keys: (grams,) the number of the context (a gram one level lower) times 50,257, plus the token. The context of
            all unigrams is 0.
        tokens: (grams,) the last token of each gram.
        starts: (contexts + 1,) the number of the first gram of each context.
        suffix: (grams,) the number of the gram without its first token, one level lower.
        opens: (grams,) whether the gram begins with the END before a tweet.
        occurrences: (grams,) how often the gram occurs with its last token as a prediction.
        counts: (grams,) the counts of Kneser-Ney, a(h, w); for the longest grams the same array as `occurrences`.
        discounts: (4,) D for the counts 0, 1, 2, and 3 or more.
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
        """Numbers (n,) of the grams with these contexts (n,) and tokens (n,), or MISSING."""
        keys = contexts * NUM_TOKENS + tokens  # negative, so never found, where the context is MISSING
        place = np.searchsorted(self.keys, keys)
        known = place < len(self.keys)
        known[known] = self.keys[place[known]] == keys[known]
        return np.where(known, place, MISSING)

    def discount(self, counts: Ints) -> Floats:
        """The discount D of each of these counts."""
        return self.discounts[np.minimum(counts, 3)]

    def discounted(self, contexts: Ints) -> tuple[Ints, Ints, Floats, Floats]:
        """The first term of the formula for all grams of n contexts, and the weight of the second term.

        Returns:
            Three arrays over all grams of these contexts, context by context: the number of the gram, the index of its
            context (0..n-1), and (a(h, w) - D) / sum of a(h, v). Then rest(h) of each context, (n,); 1 where it was
            never counted.
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
    """A Kneser-Ney model. `levels[k - 1]` holds the grams of k tokens."""

    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels
        weight = (np.arange(NUM_TOKENS) + 1.0) ** ZIPF[0]
        self.floor = weight / weight.sum()

    @classmethod
    def fit(cls, tweets: Sequence[Sequence[int]], order: int) -> "NGram":
        """A model fitted to framed tweets. `order` is the length of its longest grams: 2 makes a bigram model."""
        assert order >= 1 and len(tweets) > 0, "an n-gram model needs an order of 1 or more, and tweets"
        tokens = np.concatenate([np.asarray(tweet, dtype=np.int64) for tweet in tweets])
        place = np.concatenate([np.arange(len(tweet)) for tweet in tweets])  # within the tweet
        inner = (place > 0) & (np.append(place[1:], 0) > 0)
        assert (tokens[place == 0] == END).all() and (tokens[inner] != END).all(), (
            "END may stand only before and after a tweet"
        )
        levels: list[Level] = []
        grams = np.zeros_like(tokens)
        for length in range(1, order + 1):
            num_contexts = len(levels[-1].keys) if levels else 1
            level, grams = count_grams(tokens, place, length=length, lower=grams, num_contexts=num_contexts)
            levels.append(level)
        for lower, upper in pairwise(levels):
            before = np.bincount(upper.suffix, minlength=len(lower.keys))
            lower.counts = np.where(lower.opens, lower.occurrences, before)
        for level in levels:
            level.discounts = estimate_discounts(level.counts)
        return cls(levels)

    def grams(self, tweet: Sequence[int]) -> list[Ints]:
        """For each length, the numbers (len(tweet),) of the grams that end at each token, or MISSING."""
        tokens = np.asarray(tweet, dtype=np.int64)
        contexts = np.zeros_like(tokens)
        found = []
        for level in self.levels:
            found.append(level.find(contexts, tokens))
            contexts = np.concatenate(([MISSING], found[-1][:-1]))
        return found

    def contexts(self, last: Ints) -> list[Ints]:
        """The argument `contexts` of `next_probs` for the newest tokens `last` (n, order - 1); MISSING: no token."""
        found = []
        for length in range(1, last.shape[1] + 1):
            grams = np.zeros(len(last), dtype=np.int64)
            for level, tokens in zip(self.levels, last[:, -length:].T, strict=False):
                grams = np.where((grams >= 0) & (tokens >= 0), level.find(grams, tokens), MISSING)
            found.append(grams)
        return found

    def unigram(self) -> Floats:
        """Probabilities (50257,) without a context: the unigrams interpolated with the floor."""
        gram, _, discounted, rest = self.levels[0].discounted(np.zeros(1, dtype=np.int64))
        probs: Floats = self.floor * rest
        probs[self.levels[0].tokens[gram]] += discounted
        return probs

    def log_probs(self, tweet: Sequence[int]) -> Floats:
        """Log probability, in nats, of each token of a framed tweet except the first: (len(tweet) - 1,)."""
        found = self.grams(tweet)
        probability = self.unigram()[np.asarray(tweet[1:], dtype=np.int64)]
        for level, lower, target in zip(self.levels[1:], found, found[1:], strict=False):
            gram, owner, discounted, rest = level.discounted(lower[:-1])
            hit = gram == target[1:][owner]
            probability *= rest
            probability[owner[hit]] += discounted[hit]
        return np.log(probability)

    def distribution(self, context: Sequence[int]) -> Floats:
        """Probabilities (50257,) of the next token. Tokens before the last END of the context are ignored."""
        tokens = list(context)
        if END in tokens:
            tokens = tokens[len(tokens) - 1 - tokens[::-1].index(END) :]
        if not tokens:
            return self.unigram()
        contexts = [grams[-1:] for grams in self.grams(tokens)]
        found: Floats = self.next_probs(contexts, self.unigram(), np.arange(NUM_TOKENS))[0]
        return found

    def next_probs(self, contexts: Sequence[Ints], unigram: Floats, id_of: Ints) -> Floats:
        """Probabilities (n, V) of the next token after n contexts, over a vocabulary of V ids.

        Args:
            contexts: for each length 1, 2, ... the numbers (n,) of the grams that the last tokens of each context form,
                or MISSING.
            unigram: (V,) the unigram probabilities; those of tokens that share an id are summed.
            id_of: (50257,) the id of each token in that vocabulary.
        """
        weight = np.ones(len(contexts[0]))
        places, amounts = [], []
        for level, grams in reversed(list(zip(self.levels[1:], contexts, strict=False))):
            gram, owner, discounted, rest = level.discounted(grams)
            places.append(owner * len(unigram) + id_of[level.tokens[gram]])
            amounts.append(discounted * weight[owner])
            weight *= rest
        dense = weight[:, None] * unigram
        if places:
            np.add.at(dense.reshape(-1), np.concatenate(places), np.concatenate(amounts))
        return dense

    def sample(self, count: int, allowed: NDArray[np.bool_], *, length: int, seed: int) -> list[tuple[list[int], bool]]:
        """Draw `count` new tweets: GPT-2 ids without end marks, and whether the tweet ended within `length` tokens.

        Args:
            allowed: (50257,) the tokens that may be drawn; the end mark must be one of them.
        """
        assert len(self.levels) > 1, "sampling needs a context, which a unigram model does not have"
        random, context = np.random.default_rng(seed), len(self.levels) - 1
        tokens = np.flatnonzero(allowed)
        column = np.full(NUM_TOKENS, len(tokens))  # of each token; the last one if it may not be drawn
        column[tokens] = np.arange(len(tokens))
        unigram = np.bincount(column, self.unigram(), len(tokens) + 1).astype(np.float64)
        tweets: list[list[int]] = [[END] for _ in range(count)]
        for _ in range(length):
            unfinished = [tweet for tweet in tweets if len(tweet) == 1 or tweet[-1] != END]
            if not unfinished:
                break
            last = np.array([([MISSING] * context + tweet)[-context:] for tweet in unfinished], dtype=np.int64)
            edges = self.next_probs(self.contexts(last), unigram, column)[:, :-1].cumsum(1)
            for tweet, edge in zip(unfinished, edges, strict=True):
                tweet.append(int(tokens[np.searchsorted(edge, random.random() * edge[-1], side="right")]))
        return [(tweet[1:-1], True) if len(tweet) > 1 and tweet[-1] == END else (tweet[1:], False) for tweet in tweets]

    @contextmanager
    def without(self, tweet: Sequence[int]) -> Iterator[list[Ints]]:
        """Inside the `with`, the model is as if this training tweet had not been counted. Yields the tweet's `grams`.

        The discounts stay the same. The counts are changed in place, so no other thread may use the model meanwhile.
        """
        found = self.grams(tweet)
        known = [grams[1:][grams[1:] >= 0] for grams in found]
        saved = [
            (level.occurrences[grams], level.counts[grams]) for level, grams in zip(self.levels, known, strict=True)
        ]
        vanished = np.zeros(0, dtype=np.int64)  # grams one level higher that no longer occur, without their first token
        for level, grams in reversed(list(zip(self.levels, known, strict=True))):
            np.subtract.at(level.occurrences, grams, 1)
            if level is not self.levels[-1]:
                np.subtract.at(level.counts, grams[level.opens[grams]], 1)
                np.subtract.at(level.counts, vanished, 1)
            vanished = level.suffix[np.unique(grams[level.occurrences[grams] == 0])]
        try:
            yield found
        finally:
            for level, grams, (occurrences, counts) in zip(self.levels, known, saved, strict=True):
                level.occurrences[grams] = occurrences
                level.counts[grams] = counts


def count_grams(tokens: Ints, place: Ints, *, length: int, lower: Ints, num_contexts: int) -> tuple[Level, Ints]:
    """The grams of one length, and the number (n,) of the gram that ends at each token, or MISSING.

    `counts` of that level are the occurrences and its `discounts` are 0; `NGram.fit` replaces them.

    Args:
        tokens: (n,) all tweets, one after another.
        place: (n,) position of each token in its tweet.
        length: tokens in a gram.
        lower: (n,) the number, one level lower, of the gram that ends at each token; zeros for unigrams.
        num_contexts: number of grams one level lower; 1 for unigrams.
    """
    contexts = lower if length == 1 else np.roll(lower, 1)
    whole = place >= length - 1
    keys, inverse = np.unique(contexts[whole] * NUM_TOKENS + tokens[whole], return_inverse=True)
    grams = np.full_like(tokens, MISSING)
    grams[whole] = inverse
    suffix = np.zeros_like(keys)
    suffix[inverse] = lower[whole]
    opens = np.zeros(len(keys), dtype=np.bool_)
    if length > 1:
        opens[grams[place == length - 1]] = True
    occurrences = np.bincount(grams[whole & (place > 0)], minlength=len(keys))
    starts = np.searchsorted(keys, np.arange(num_contexts + 1) * NUM_TOKENS)
    return Level(keys, keys % NUM_TOKENS, starts, suffix, opens, occurrences, occurrences, np.zeros(4)), grams


def estimate_discounts(counts: Ints) -> Floats:
    """Discounts (4,) of the counts 0, 1, 2, and 3 or more, from the number of grams with each (Chen, Goodman 1998)."""
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
    """The order with the lowest cost on held-out framed tweets: every n-th is held out, the others are counted."""
    step = max(2, round(1 / held_out))
    tests = tweets[step - 1 :: step]
    counted = [tweet for place, tweet in enumerate(tweets) if place % step != step - 1]

    def cost(order: int) -> float:
        model = NGram.fit(counted, order)
        return -sum(float(model.log_probs(tweet).sum()) for tweet in tests)

    return min(orders, key=cost)


def to_vocabulary(probabilities: Floats, vocabulary: Vocabulary) -> Floats:
    """Probabilities (V,) of the model's ids: the sums over the tokens of each id of `probabilities` (50257,)."""
    sums = np.bincount(vocabulary.id_of.numpy(), probabilities, vocabulary.vocab_size)
    return sums.astype(np.float64, copy=False)


class VocabularyUnigram:
    """The unigram probabilities of the model's ids while single tweets are left out of an n-gram model.

    It stores the sums over all grams, so that only the grams of the tweet must be counted again.
    """

    def __init__(self, ngram: NGram, vocabulary: Vocabulary) -> None:
        self.level, self.id_of = ngram.levels[0], vocabulary.id_of.numpy()
        self.floor = to_vocabulary(ngram.floor, vocabulary)
        self.counts = self.level.counts.copy()
        self.discounts = self.level.discount(self.counts)
        self.sums = np.bincount(self.id_of[self.level.tokens], self.counts - self.discounts, vocabulary.vocab_size)
        self.total, self.discount_sum = int(self.counts.sum()), float(self.discounts.sum())

    def probs(self, changed: Ints) -> Floats:
        """Probabilities (V,), if only the counts of the grams `changed` (n,) have changed; each is listed once."""
        counts = self.level.counts[changed]
        count_change, discount_change = (
            counts - self.counts[changed],
            self.level.discount(counts) - self.discounts[changed],
        )
        total = self.total + int(count_change.sum())
        if total == 0:
            return self.floor
        probs: Floats = self.sums + self.floor * (self.discount_sum + discount_change.sum())
        np.add.at(probs, self.id_of[self.level.tokens[changed]], count_change - discount_change)
        probs /= total
        return probs


def leave_one_out_probs(ngram: NGram, tweets: Sequence[Sequence[int]], vocabulary: Vocabulary) -> Iterator[Floats]:
    """For each training tweet, the probabilities (len(tweet) - 1, V) of an n-gram model that was not fitted to it.

    The tweet is removed from the counts of all levels. The discounts stay those of all tweets. A token that only this
    tweet uses has the probability that the floor gives it.

    Args:
        ngram: fitted to tweets that include these.
        tweets: framed.
        vocabulary: of the model that learns, with V ids; the probabilities of tokens that share an id are summed.
    """
    id_of, unigram = vocabulary.id_of.numpy(), VocabularyUnigram(ngram, vocabulary)
    for tweet in tweets:
        with ngram.without(tweet) as found:
            yield ngram.next_probs([grams[:-1] for grams in found], unigram.probs(np.unique(found[0][1:])), id_of)


def leave_one_out(ngram: NGram, tweets: Sequence[Sequence[int]], vocabulary: Vocabulary, top_k: int) -> SoftTargets:
    """`leave_one_out_probs` of all tweets as soft targets, with the unigram probabilities of all tweets as their base.

    An n-gram model gives the tweets it was fitted to almost all the probability, so nothing can be learnt from it
    there. With the tweet left out, its probabilities show which other tokens were likely.
    """
    base = torch.from_numpy(to_vocabulary(ngram.unigram(), vocabulary))
    probs, parts = leave_one_out_probs(ngram, tweets, vocabulary), []
    while some := list(islice(probs, TWEETS_AT_ONCE)):
        parts.append(compress(torch.from_numpy(np.concatenate(some, dtype=np.float32)), base, top_k))
    return concatenate(parts)
