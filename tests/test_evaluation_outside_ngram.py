"""The n-gram mixed with outside text, and texts by others: against a search over all shares."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from config.cli import parse
from config.schema import UserError
from evaluation.baselines import measure_baselines
from evaluation.other_texts import read_tweets
from evaluation.outside_ngram import fit_share, measure_outside_ngram
from model.tokenizer import load_tokenizer
from utils.preprocess import Corpus, Tweet

SETTINGS = parse("evaluate", [])[0].data


def test_the_share_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(500) ** 2, random.random(500) ** 3
    grid = np.linspace(0.001, 0.999, 999)
    costs = [-np.log((1 - share) * first + share * second).sum() for share in grid]
    assert fit_share(first, second) == pytest.approx(grid[int(np.argmin(costs))], abs=2e-3)


def test_related_text_helps_and_unrelated_text_does_no_harm(corpus: Corpus) -> None:
    tokenizer = load_tokenizer()
    few = corpus.train[:40]
    alone = measure_baselines(few, corpus.val, tokenizer)
    order = alone.order
    related = measure_outside_ngram(few, corpus.val, corpus.train[40:], tokenizer, order=order)
    assert related.bits_per_byte < alone.bits_per_byte["ngram"] - 0.1 and related.share > 0.2
    nonsense = [Tweet("qux zorp blick 77", True)] * 50
    unrelated = measure_outside_ngram(few, corpus.val, nonsense, tokenizer, order=order)
    assert unrelated.bits_per_byte == pytest.approx(alone.bits_per_byte["ngram"], abs=0.02) and unrelated.share < 0.1


def test_texts_are_cleaned_like_tweets(tmp_path: Path) -> None:
    path = tmp_path / "others.txt"
    path.write_text("Ships &amp; shoes https://t.co/abc\nRT @you: no\nAnd wax\n", encoding="utf-8")
    found = read_tweets(str(path), SETTINGS, key="evaluate.other_writer")
    assert [tweet.text for tweet in found] == ["Ships & shoes.", "And wax."]
    path.write_text("https://t.co/abc\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"evaluate.other_writer .*others.txt holds no text"):
        read_tweets(str(path), SETTINGS, key="evaluate.other_writer")


def test_chitchat_needs_its_package() -> None:
    if importlib.util.find_spec("chitchat_dataset"):
        pytest.skip("it is installed")
    with pytest.raises(UserError, match="pip install --no-deps chitchat-dataset"):
        read_tweets("chitchat", SETTINGS, key="evaluate.outside_text")
