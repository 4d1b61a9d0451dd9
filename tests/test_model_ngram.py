"""model/ngram.py against a slow Kneser-Ney model, written from the formula with dictionaries of tuples."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from config.schema import Config
from model.ngram import NGram, choose_order, estimate_discounts, leave_one_out, leave_one_out_probs
from model.soft_targets import dense
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from model.vocabulary import Vocabulary

Gram = tuple[int, ...]
FLOOR = np.array([(index + 1) ** -0.7 for index in range(NUM_TOKENS)])
FLOOR /= FLOOR.sum()


def corpus(number: int = 80, *, seed: int = 0) -> list[list[int]]:
    """Framed tweets of few tokens with uneven frequencies; some are unfinished, empty or repeated."""
    random = np.random.default_rng(seed)
    tweets = []
    for place in range(number):
        body = (random.zipf(1.4, random.integers(0, 9)) % 97).tolist()
        tweet = [END, *body] + ([END] if random.random() < 0.8 else [])
        if place % 7 == 0:
            tweet = [END, 1000 + place, *body, 1, 2, 1, 2, 1, 2, END]  # a token of its own; grams several times
        tweets += [tweet] * (2 if place % 13 == 0 else 1)
    return tweets


class Slow:
    """Kneser-Ney, computed from the formula for each context separately."""

    def __init__(self, tweets: Sequence[Sequence[int]], order: int, discounts: list[np.ndarray] | None = None) -> None:
        self.order = order
        self.occurrences: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for tweet in tweets:
            for end in range(1, len(tweet)):
                for length in range(1, min(order, end + 1) + 1):
                    self.occurrences[length][tuple(tweet[end + 1 - length : end + 1])] += 1
        self.counts = [{gram: self.count(gram) for gram in grams} for grams in self.occurrences]
        self.discounts = discounts or [self.estimate(counts) for counts in self.counts[1:]]

    def count(self, gram: Gram) -> int:
        """Occurrences of the longest grams and of those that begin a tweet; else the number of tokens before."""
        length = len(gram)
        if length == self.order or (length > 1 and gram[0] == END):
            return self.occurrences[length][gram]
        return len({longer[0] for longer in self.occurrences[length + 1] if longer[1:] == gram})

    @staticmethod
    def estimate(counts: dict[Gram, int]) -> np.ndarray:
        n = Counter(counts.values())
        y = n[1] / (n[1] + 2 * n[2])
        discounts = np.array([0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]])
        assert (discounts[1:] > 0).all() and (discounts <= [0, 1, 2, 3]).all(), "a corpus that needs no fallback"
        return discounts

    def distribution(self, context: Gram) -> np.ndarray:
        """Probabilities (50257,) after a context, of which only the last order - 1 tokens count."""
        context = context[max(0, len(context) - self.order + 1) :]
        lower = FLOOR if not context else self.distribution(context[1:])
        if not context:
            return self.interpolate((), lower)
        return self.interpolate(context, lower)

    def interpolate(self, context: Gram, lower: np.ndarray) -> np.ndarray:
        length = len(context) + 1
        follow = {gram[-1]: count for gram, count in self.counts[length].items() if gram[:-1] == context and count}
        total = sum(follow.values())
        if total == 0:
            return lower
        taken = {token: self.discounts[length - 1][min(count, 3)] for token, count in follow.items()}
        result = sum(taken.values()) / total * lower
        for token, count in follow.items():
            result[token] += (count - taken[token]) / total
        return result

    def log_probs(self, tweet: Sequence[int]) -> list[float]:
        return [math.log(self.distribution(tuple(tweet[:end]))[tweet[end]]) for end in range(1, len(tweet))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_brute_force(order: int) -> None:
    tweets = corpus(240)
    model, slow = NGram.fit(tweets, order), Slow(tweets, order)
    np.testing.assert_allclose([level.discounts for level in model.levels], slow.discounts, atol=1e-12)
    for tweet in [*tweets[:12], *corpus(4, seed=5), [END, 7, 9_999, 7, END], [END, END], [END]]:
        np.testing.assert_allclose(model.log_probs(tweet), slow.log_probs(tweet), atol=1e-9)
    for context in [(), (END,), (END, 1), (1, 2, 1, 2), (3, 1), (9_999, 1), (9_999,)]:
        np.testing.assert_allclose(model.distribution(context), slow.distribution(context), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_distributions_sum_to_one(order: int) -> None:
    model = NGram.fit(corpus(), order)
    random = np.random.default_rng(order)
    for _ in range(50):
        tokens = random.choice([*range(17), 40_000], random.integers(0, 6)).tolist()
        context = [END, *tokens] if random.random() < 0.5 else tokens
        found = model.distribution(context)
        assert found.shape == (NUM_TOKENS,) and found.min() > 0
        assert found.sum() == pytest.approx(1.0, abs=1e-6)


def test_log_probs_are_those_of_the_distributions() -> None:
    tweets = corpus()
    model = NGram.fit(tweets, 3)
    for tweet in [*tweets[:5], *corpus(5, seed=1)]:
        expected = [math.log(model.distribution(tweet[:end])[tweet[end]]) for end in range(1, len(tweet))]
        np.testing.assert_allclose(model.log_probs(tweet), expected, atol=1e-12)


def test_context_never_crosses_tweets() -> None:
    model = NGram.fit(corpus(), 4)
    np.testing.assert_array_equal(model.distribution([END, 3, 1, END, 2]), model.distribution([END, 2]))


def test_unigram_by_hand() -> None:
    """The counts are 1, 1, 1, 2, 2, 3, 4; the discounts follow from how many there are of each."""
    bodies = [10, 11, 12, 13, 13, 14, 14, 15, 15, 15, 16, 16, 16, 16]
    y = 3 / (3 + 2 * 2)
    d1, d2, d3 = 1 - 2 * y * 2 / 3, 2 - 3 * y * 1 / 2, 3 - 4 * y * 1 / 1
    found = NGram.fit([[END, *bodies]], 1).unigram()
    rest = (3 * d1 + 2 * d2 + 2 * d3) / 14
    assert found[10] == pytest.approx((1 - d1) / 14 + rest * FLOOR[10])
    assert found[14] == pytest.approx((2 - d2) / 14 + rest * FLOOR[14])
    assert found[16] == pytest.approx((4 - d3) / 14 + rest * FLOOR[16])
    assert found[END] == pytest.approx(rest * FLOOR[END]), "the END before a tweet is never predicted"


@pytest.mark.parametrize("tweets", [[[END, 5]], [[END, END]], [[END]], [[END, 5, 5, END]] * 3])
def test_texts_too_short_for_discounts(tweets: list[list[int]]) -> None:
    for order in (1, 2, 5):
        model = NGram.fit(tweets, order)
        for context in ([], [END], [END, 5], [5, 5]):
            assert model.distribution(context).sum() == pytest.approx(1.0, abs=1e-6)


def test_discounts_out_of_range_fall_back() -> None:
    assert estimate_discounts(np.array([1] * 5 + [2] * 5 + [3] * 90))[1:].tolist() == [0.5, 1.0, 1.5]
    assert estimate_discounts(np.array([7]))[1:].tolist() == [0.5, 1.0, 1.5]


def test_choose_order_finds_the_context_on_which_tokens_depend() -> None:
    random = np.random.default_rng(0)
    loose = [[END, *random.integers(0, 30, 10).tolist(), END] for _ in range(200)]
    assert choose_order(loose, orders=(1, 2, 3)) == 1
    table = random.integers(0, 6, (6, 6))  # the next token follows from the two before it, most of the time
    tight = []
    for _ in range(300):
        tweet = random.integers(0, 6, 2).tolist()
        for _ in range(12):
            tweet.append(int(table[tweet[-2], tweet[-1]]) if random.random() < 0.9 else int(random.integers(6)))
        tight.append([END, *tweet, END])
    assert choose_order(tight, orders=(1, 2, 3)) == 3


def vocabulary_for(tweets: list[list[int]], min_count: int = 1) -> Vocabulary:
    """An id for each token with `min_count` uses; all other tokens share two ids, one for even and one for odd."""
    counts = Counter(token for tweet in tweets for token in tweet)
    own = sorted(token for token, count in counts.items() if count >= min_count)
    id_of = len(own) + torch.arange(NUM_TOKENS) % 2
    id_of[own] = torch.arange(len(own))
    return Vocabulary(id_of, torch.zeros(NUM_TOKENS))


def summed(found: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Probabilities (V,) of the ids from those of the tokens, (50257,)."""
    sums = torch.zeros(vocabulary.vocab_size, dtype=torch.float64)
    return sums.index_add(0, vocabulary.id_of, torch.from_numpy(found)).numpy()


@pytest.mark.parametrize(("order", "min_count"), [(1, 1), (2, 3), (3, 1), (4, 3)])
def test_leave_one_out_equals_removing_the_tweet_and_counting_again(order: int, min_count: int) -> None:
    tweets = corpus(40)
    vocabulary = vocabulary_for(tweets, min_count)
    model = NGram.fit(tweets, order)
    discounts = [level.discounts for level in model.levels]
    for place, found in enumerate(leave_one_out_probs(model, tweets, vocabulary)):
        tweet = tweets[place]
        slow = Slow(tweets[:place] + tweets[place + 1 :], order, discounts)
        expected = [summed(slow.distribution(tuple(tweet[:end])), vocabulary) for end in range(1, len(tweet))]
        np.testing.assert_allclose(found, np.reshape(expected, (len(tweet) - 1, -1)), atol=1e-12)


def test_a_token_of_one_tweet_has_only_the_floor_without_it() -> None:
    tweets = corpus(40)
    token = 1007  # a token that only the tweet at place 7 of corpus() uses
    (place,) = (n for n, tweet in enumerate(tweets) if token in tweet)
    vocabulary = vocabulary_for(tweets)
    model = NGram.fit(tweets, 2)
    found = list(leave_one_out_probs(model, tweets, vocabulary))[place]
    without = NGram.fit(tweets[:place] + tweets[place + 1 :], 2)
    for level, full in zip(without.levels, model.levels, strict=True):
        level.discounts = full.discounts
    expected = without.distribution([END])
    rest = expected[9_999] / FLOOR[9_999]  # 9,999 occurs nowhere, so it has the floor alone
    assert found[0, int(vocabulary.id_of[token])] == pytest.approx(rest * FLOOR[token])


def test_leave_one_out_restores_the_model_and_covers_all_tokens() -> None:
    tweets = corpus()
    vocabulary = vocabulary_for(tweets)
    model, fresh = NGram.fit(tweets, 3), NGram.fit(tweets, 3)
    targets = leave_one_out(model, tweets, vocabulary, vocabulary.vocab_size)
    for level, other in zip(model.levels, fresh.levels, strict=True):
        np.testing.assert_array_equal(level.counts, other.counts)
        np.testing.assert_array_equal(level.occurrences, other.occurrences)
    assert len(targets) == sum(len(tweet) - 1 for tweet in tweets)
    expected = np.concatenate(list(leave_one_out_probs(model, tweets, vocabulary)))
    np.testing.assert_allclose(dense(targets, torch.arange(len(targets))), expected, atol=1e-6)


def test_an_error_inside_without_puts_the_counts_back() -> None:
    tweets = corpus()
    model, fresh = NGram.fit(tweets, 3), NGram.fit(tweets, 3)
    with pytest.raises(KeyError), model.without(tweets[3]):
        raise KeyError
    np.testing.assert_array_equal(model.levels[1].counts, fresh.levels[1].counts)


def test_known_figures_on_the_real_csv(real_csv: Path, settings: Callable[..., Config]) -> None:
    """Means over three splits are near known values; leaving tweets out costs the same as new tweets."""
    from utils.preprocess import Tweet, preprocess

    tokenizer = load_tokenizer()

    def frame(tweets: Sequence[Tweet]) -> list[list[int]]:
        ids = tokenizer.encode_batch([tweet.text for tweet in tweets])
        return [[END, *body] + [END] * tweet.finished for body, tweet in zip(ids, tweets, strict=True)]

    def bits(nats: float, tweets: Sequence[Tweet]) -> float:
        return nats / math.log(2) / sum(len(tweet.text.encode()) + 1 for tweet in tweets)

    found = []
    for seed in ("0", "1", "2"):
        split = preprocess(settings("--data.path", str(real_csv), "--data.split_seed", seed))
        train, val = frame(split.train), frame(split.val)
        models = [NGram.fit(train, order) for order in (1, 2, 3)]
        found.append([bits(-sum(float(model.log_probs(t).sum()) for t in val), split.val) for model in models])
    mean = np.mean(found, axis=0)
    np.testing.assert_allclose(mean, [2.48, 2.06, 2.03], rtol=0.02)
    vocabulary = vocabulary_for(train)
    known, nats = train[::4], 0.0  # a quarter, for speed
    for tweet, probs in zip(known, leave_one_out_probs(models[2], known, vocabulary), strict=True):
        nats -= float(np.log(probs[np.arange(len(tweet) - 1), vocabulary.from_gpt2(tweet[1:]).numpy()]).sum())
    assert bits(nats, split.train[::4]) == pytest.approx(mean[2], rel=0.04)
