"""evaluation/baselines.py: what it costs to add the validation tweets, checked where the answer is known."""

import bz2
import math
import subprocess
from collections import Counter
from pathlib import Path
from shutil import which

import pytest

from config.cli import parse
from evaluation.baselines import frame_all, marginal_bits, measure_baselines, xz
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from utils.preprocess import Tweet, preprocess

TRAIN = [Tweet(f"The rocket number {n} flies to Mars {n * n} times.", True) for n in range(60)]
VAL = [Tweet("The dog sleeps on Mars.", True), Tweet("Nobody knows why the", False)]


def test_marginal_cost_of_no_compression_is_the_bytes() -> None:
    assert marginal_bits(TRAIN, VAL, lambda data: data) == 8 * sum(len(tweet.text.encode()) + 1 for tweet in VAL)


def test_a_known_text_costs_next_to_nothing() -> None:
    for compress in (xz, bz2.compress):
        assert 0 <= marginal_bits(TRAIN, TRAIN, compress) < marginal_bits([], TRAIN, compress) / 2


@pytest.mark.skipif(which("xz") is None, reason="no xz here")
def test_xz_is_xz() -> None:
    data = "".join(tweet.text for tweet in TRAIN).encode()
    command = ["xz", "--format=xz", "--lzma2=preset=9e,lc=4,pb=0", "--stdout", "-"]
    assert subprocess.run(command, input=data, capture_output=True, check=True).stdout == xz(data)


def test_frames() -> None:
    tokenizer = load_tokenizer()
    assert frame_all(VAL, tokenizer) == [
        [END, *tokenizer.encode(VAL[0].text), END],
        [END, *tokenizer.encode(VAL[1].text)],
    ]


def test_figures_belong_together() -> None:
    found = measure_baselines(TRAIN, VAL, load_tokenizer())
    assert set(found.bits_per_byte) == {"unigram", "bigram", "ngram", "xz", "bzip2"}
    assert found.num_bytes.tolist() == [len(tweet.text.encode()) + 1 for tweet in VAL]
    bits = found.nats.sum() / math.log(2) / found.num_bytes.sum()
    assert found.bits_per_byte["ngram"] == pytest.approx(bits)


def test_unigram_lies_near_the_entropy_of_a_text_that_repeats() -> None:
    tweets = [Tweet("a b", True), Tweet("b", True)] * 400
    tokenizer = load_tokenizer()
    counts = Counter(index for tweet in frame_all(tweets, tokenizer) for index in tweet[1:])
    total = sum(counts.values())
    bits = -sum(count * math.log2(count / total) for count in counts.values())
    found = measure_baselines(tweets, tweets, tokenizer)
    assert found.bits_per_byte["unigram"] == pytest.approx(bits / found.num_bytes.sum(), rel=0.02)
    assert bits / total < math.log2(NUM_TOKENS)


def test_known_figures_of_the_real_csv(real_csv: Path, tmp_path: Path) -> None:
    corpus = preprocess(parse("preprocess", ["--paths.root", str(tmp_path), "--data.path", str(real_csv)])[0])
    found = measure_baselines(corpus.train, corpus.val, load_tokenizer()).bits_per_byte
    bzip2 = found.pop("bzip2")
    # Known for another random split and a rougher cleaning; from split to split they move by about 1%.
    assert found == pytest.approx({"unigram": 2.48, "bigram": 2.06, "ngram": 2.04, "xz": 2.64}, rel=0.03)
    assert bzip2 == pytest.approx(2.36, rel=0.06)  # a small difference of two large numbers, so it moves by 3%
