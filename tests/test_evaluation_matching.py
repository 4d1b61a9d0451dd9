"""evaluation/matching.py: texts are compared with texts of their own lengths; against brute force and known values."""

import numpy as np
import pytest

from evaluation.matching import excess, scaled
from model.ngram import Floats


def texts(number: int, low: int, high: int, offset: float = 0.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Amounts and sizes of texts that cost 2 + 20 / size + offset bits per byte, and some noise."""
    random = np.random.default_rng(seed)
    sizes = random.integers(low, high, number).astype(np.float64)
    rate = 2 + 20 / sizes + offset + random.normal(0, 0.3, number)
    return rate * sizes, sizes


def test_lengths_alone_make_no_difference() -> None:
    short, all_lengths = texts(300, 8, 20, seed=1), texts(450, 5, 140, seed=2)
    plain = short[0].sum() / short[1].sum() - all_lengths[0].sum() / all_lengths[1].sum()
    found = excess(short, all_lengths)
    assert plain > 1 and found["low"] < 0 < found["high"] and abs(found["difference"]) < 0.1
    shifted = excess(texts(300, 8, 20, offset=0.5, seed=3), all_lengths)
    assert shifted["low"] < 0.5 < shifted["high"] and shifted["high"] - shifted["low"] < 0.4


def test_the_reference_is_the_nearest_texts() -> None:
    (amounts, sizes), (other_amounts, other_sizes) = texts(40, 5, 100, seed=4), texts(45, 5, 100, seed=5)
    expected = 0.0
    for size in sizes:
        order = sorted(range(45), key=lambda place: abs(np.log(size) - np.log(other_sizes[place])))[:10]
        expected += size * other_amounts[order].sum() / other_sizes[order].sum()
    found = excess((amounts, sizes), (other_amounts, other_sizes))
    assert found["difference"] == pytest.approx((amounts.sum() - expected) / sizes.sum())


def test_a_scale_has_its_references_at_0_and_1() -> None:
    zero, one = texts(450, 5, 140, seed=6), texts(450, 5, 140, offset=1, seed=7)
    half = texts(300, 5, 60, offset=0.5, seed=8)
    for each, value in ((zero, 0), (one, 1), (half, 0.5)):
        found = scaled(each, zero, one)
        assert found and found["low"] < value < found["high"] and abs(found["value"] - value) < 0.1
    assert scaled(half, zero, texts(450, 5, 140, seed=9)) is None, "there is no scale between equal references"
