"""Comparisons of texts with different lengths: a short text costs more bits per byte, so like is compared with like.

For every text of one list the reference is the rate, per byte, of the ten texts of another list that are nearest in
length.
"""

from collections.abc import Sequence

import numpy as np

from evaluation.metrics import interval
from model.ngram import Floats

NEIGHBOURS = 10
RESAMPLES = 2000  # of a bootstrap over the texts of all lists


class Matched:
    """The amounts of a list of texts, and those that other lists would have at the same lengths.

    An amount is what adds up over a text: bits, or bits saved. Rates are amounts per byte.

    Args:
        amounts, sizes: (n,) of the texts; sizes are bytes.
        references: other lists, each as amounts (m,) and sizes (m,).

    Attributes:
        rate: of the texts, and (RESAMPLES,) of bootstrap resamples of them.
        expected: of each reference, its rate at the texts' lengths; and the same of resamples.
    """

    def __init__(self, amounts: Floats, sizes: Floats, *references: tuple[Floats, Floats]) -> None:
        random = np.random.default_rng(0)
        counts = resample(random, len(sizes))
        total = counts @ sizes
        self.rate = float(amounts.sum() / sizes.sum()), (counts @ amounts) / total
        self.expected: list[tuple[float, Floats]] = []
        for other_amounts, other_sizes in references:
            near = nearest(sizes, other_sizes)
            rates = near @ other_amounts / (near @ other_sizes)
            drawn = resample(random, len(other_sizes))
            drawn_rates = ((drawn * other_amounts) @ near.T) / np.maximum((drawn * other_sizes) @ near.T, 1e-9)
            point = float(rates @ sizes / sizes.sum())
            self.expected.append((point, (counts * drawn_rates) @ sizes / total))


def resample(random: np.random.Generator, size: int) -> Floats:
    """How often each of `size` texts is drawn, with replacement: (RESAMPLES, size). Source: Efron 1979."""
    return random.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64)


def nearest(sizes: Floats, others: Floats) -> Floats:
    """Which NEIGHBOURS of `others` (m,) are nearest in length to each of `sizes` (n,): (n, m), 1 or 0."""
    number = min(len(others), NEIGHBOURS)
    distance = np.abs(np.log(sizes)[:, None] - np.log(others))
    chosen = distance.argsort(axis=1, kind="stable")[:, :number]
    near = np.zeros(distance.shape)
    np.put_along_axis(near, chosen, 1.0, axis=1)
    return near


def excess(texts: tuple[Floats, Floats], reference: tuple[Floats, Floats]) -> dict[str, float]:
    """The rate of some texts less that of reference texts of the same lengths, with a 95% interval.

    Args:
        texts, reference: amounts and sizes of each.
    """
    found = Matched(*texts, reference)
    (point, drawn), (expected, drawn_expected) = found.rate, found.expected[0]
    low, high = interval(drawn - drawn_expected)
    return {"difference": point - expected, "low": low, "high": high}


def scaled(
    texts: tuple[Floats, Floats], zero: tuple[Floats, Floats], one: tuple[Floats, Floats]
) -> dict[str, float] | None:
    """Where the rate of some texts lies on a scale on which two references of the same lengths have 0 and 1.

    Returns:
        The value and its 95% interval; None if the two references can't be told apart with 95% confidence.
    """
    found = Matched(*texts, zero, one)
    (point, drawn), (low_end, drawn_low), (high_end, drawn_high) = found.rate, *found.expected
    if interval(drawn_high - drawn_low)[0] <= 0:
        return None
    low, high = interval((drawn - drawn_low) / (drawn_high - drawn_low))
    return {"value": (point - low_end) / (high_end - low_end), "low": low, "high": high}


def as_pair(amounts: Sequence[float] | Floats, sizes: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Amounts and sizes as arrays of doubles."""
    return np.asarray(amounts, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
