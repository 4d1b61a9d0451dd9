"""evaluation/metrics.py against brute force, closed forms and torch's own optimiser."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from evaluation import metrics
from evaluation.metrics import Written, as_written
from generate.copies import CopyCheck
from model.tokenizer import load_tokenizer

LISTS = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=30)


def of_lengths(lengths: list[tuple[int, bool]]) -> list[Written]:
    return [Written("a" * length, [1] * length, ended) for length, ended in lengths]


def test_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 500)
    low, high = metrics.interval(metrics.resampled_ratios(values, np.ones(500), seed=0))
    error = 1.96 * values.std() / math.sqrt(500)
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_paired_difference_sees_what_unpaired_noise_hides() -> None:
    random = np.random.default_rng(0)
    num_bytes = random.integers(10, 200, 300).astype(float)
    nats = num_bytes * random.uniform(0.2, 4.0, 300)
    worse = nats + 0.01 * math.log(2) * num_bytes  # exactly 0.01 bits per byte more on every tweet
    found = metrics.paired_difference(worse, nats, num_bytes)
    assert [found[key] for key in ("difference", "low", "high")] == pytest.approx([0.01] * 3, abs=1e-9)
    assert found == metrics.paired_difference(worse, nats, num_bytes)  # seeded


def test_difference_of_means_of_two_sets() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(3.0, 1.0, 400), random.normal(2.0, 1.0, 600)
    found = metrics.difference_of_means(first, second)
    error = 1.96 * math.sqrt(first.var() / 400 + second.var() / 600)
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * error, rel=0.1)
    weights = (np.full(400, 2.0), np.full(600, 4.0))
    weighed = metrics.difference_of_means(first, second, weights=weights)
    assert weighed["difference"] == pytest.approx(first.mean() / 2 - second.mean() / 4)


@given(LISTS)
def test_survival_is_the_product_of_those_who_went_on(lengths: list[tuple[int, bool]]) -> None:
    longer, _ = metrics.survival(of_lengths(lengths))
    expected = 1.0
    for k, found in enumerate(longer):
        could_end = [(n, ended) for n, ended in lengths if n >= k]
        expected *= 1 - sum(n == k and ended for n, ended in could_end) / len(could_end)
        assert found == pytest.approx(expected, abs=1e-12)


@given(LISTS, LISTS)
def test_length_ks_of_whole_tweets_is_the_plain_one(
    first: list[tuple[int, bool]], second: list[tuple[int, bool]]
) -> None:
    a, b = ([n for n, _ in lengths] for lengths in (first, second))
    plain = max(abs(sum(n <= k for n in a) / len(a) - sum(n <= k for n in b) / len(b)) for k in range(13))
    whole = [of_lengths([(n, True) for n in lengths]) for lengths in (a, b)]
    assert metrics.length_ks(*whole) == pytest.approx(plain, abs=1e-12)
    found = metrics.length_ks(of_lengths(first), of_lengths(second))
    assert math.isnan(found) or 0 <= found <= 1


def test_cut_tweets_do_not_pull_the_lengths_down() -> None:
    real = of_lengths([(n, True) for n in range(1, 41)] * 5)
    cut = [Written(t.text[:20], t.ids[:20], False) if len(t.ids) > 20 else t for t in real]
    assert metrics.length_ks(real, cut) == pytest.approx(0, abs=1e-9)
    assert metrics.length_ks(real, of_lengths([(100, False)] * 50)) == pytest.approx(1)  # never ends


def test_stopping_counts_ends() -> None:
    tokenizer = load_tokenizer()
    samples = as_written(["It flies.", "Why not", "and then the", ""], [True, True, False, True], tokenizer)
    found = metrics.stopping(samples, samples[:1])
    assert found["stop_rate"] == 0.75
    assert found["sentence_end"] == pytest.approx(1 / 3)
    assert found["real_sentence_end"] == 1
    assert found["empty"] == 0.25
    assert found["mean_length"] == pytest.approx(sum(len(tokenizer.encode(s.text)) for s in samples) / 4)


def test_copying_is_what_brute_force_finds() -> None:
    random = np.random.default_rng(0)
    train = [random.choice(list("abcde"), random.integers(1, 40)).tolist() for _ in range(30)]
    made = [random.choice(list("abcde"), random.integers(0, 30)).tolist() for _ in range(40)]
    spans = {tuple(t[i:j]) for t in train for i in range(len(t)) for j in range(i + 1, len(t) + 1)}

    def longest(words: list[str]) -> int:
        parts = (j - i for i in range(len(words)) for j in range(i + 1, len(words) + 1) if tuple(words[i:j]) in spans)
        return max(parts, default=0)

    copies = CopyCheck(["x y z", *map(" ".join, train)])
    samples = [Written("X y: z!" if place == 0 else " ".join(words), [], True) for place, words in enumerate(made)]
    made[0] = []
    found = metrics.copying(samples[1:], samples[1:10], copies)
    assert metrics.copying(samples[:1], samples[1:], copies)["exact_copies"] == 1
    assert found["ngram8_in_train"] == pytest.approx(np.mean([longest(words) >= 8 for words in made[1:]]))
    assert found["longest_copy_mean"] == pytest.approx(np.mean([longest(words) for words in made[1:]]))
    assert found["real_longest_copy_mean"] == pytest.approx(np.mean([longest(words) for words in made[1:10]]))


def test_repeats_itself_counts_tweets_that_share_a_span_with_another() -> None:
    span = "one two three four five six seven eight"
    assert metrics.repeats_itself([span, f"So {span.upper()}!", "another", "four five six seven"]) == 0.5
    assert metrics.repeats_itself([f"{span} {span}", "another"]) == 0  # twice in the same tweet is no repetition


def test_distinct_and_unique() -> None:
    tweets = [Written("a b", [1, 2, 1], True), Written("A, b!", [1, 2], True), Written("c", [3], True)]
    assert metrics.distinct(tweets, 1) == 3 / 6
    assert metrics.distinct(tweets, 2) == 2 / 3
    assert math.isnan(metrics.distinct(tweets, 4))
    assert metrics.diversity(tweets, tweets)["unique"] == pytest.approx(2 / 3)


def test_no_samples_give_no_figures_and_no_error() -> None:
    real = as_written(["It flies."], [True], load_tokenizer())
    assert math.isnan(metrics.stopping([], real)["stop_rate"])
    assert metrics.copying([], real, CopyCheck([]))["ngram8_excess"] is None
    assert math.isnan(metrics.diversity([], real)["unique"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auc_is_the_share_of_pairs_in_order(positive: list[int], negative: list[int]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert metrics.auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(np.mean(pairs))


def test_logistic_regression_lies_where_the_gradient_is_zero() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 90)), random.integers(0, 2, 40).astype(float)
    weights = features.T @ metrics.logistic_regression(features @ features.T, labels)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    w = torch.from_numpy(weights).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(x @ w, y, reduction="sum") + 0.1 / 2 * w.square().sum()
    loss.backward()
    assert w.grad is not None and float(w.grad.abs().max()) < 1e-8  # the objective is convex: there is one such place


def test_classifier_guesses_on_the_same_and_knows_the_different() -> None:
    random = np.random.default_rng(0)

    def made(words: str, number: int) -> list[str]:
        return [" ".join(random.choice(words.split(), 8)) for _ in range(number)]

    same = "the rocket flies to mars again and we wait for news of it"
    assert metrics.classifier_auc(made(same, 150), made(same, 150)) == pytest.approx(0.5, abs=0.1)
    assert metrics.classifier_auc(made(same, 50), made("completely other words stand here", 50)) > 0.99
    assert math.isnan(metrics.classifier_auc(made(same, 50), made(same, 9)))


def test_spread_is_even() -> None:
    assert metrics.spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert metrics.spread([1, 2, 3], 3) == [1, 2, 3]
