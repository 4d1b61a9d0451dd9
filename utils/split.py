"""De-duplication and a split that does not leak: whole clusters of near-copies go to one side. Linear in the tweets."""

import hashlib
import math
import re
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from config.schema import UserError
from utils.clean import pieces, squeeze
from utils.scripts import WEIGHTS, WORD, units, weight

CHUNK = 1 << 20  # runs of words hashed together
FACTOR = 0x94D049BB133111EB  # of the rolling hash; odd, so that it has an inverse
INVERSE = pow(FACTOR, -1, 1 << 64)

_PUNCTUATION = re.compile("[!-/:-@\\[-`{-~\xa1-\xbf\u2010-\u205e\u3001-\u303f\uff01-\uff0f\ufe0f]+")


def normal_form(text: str) -> str:
    """The text without case, punctuation and doubled spaces: two texts of one normal form are one text, said twice."""
    return squeeze(_PUNCTUATION.sub("", text.casefold())) or text


def number_units(texts: Sequence[str], length: int) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """The units of all texts as numbers from 1 on, one text after another; those with under `length` words are padded.

    Returns:
        (units,) the numbers; (texts + 1,) where each text begins; and the weight of each number, that of 0 first.
    """
    numbers: dict[str, int] = {}
    flat, starts, weights = array("I"), array("q", [0]), array("q", [WORD])
    for text in texts:
        found = [unit for piece in pieces(text) for unit in units(piece)] or [text]
        here = [numbers.setdefault(unit, len(numbers) + 1) for unit in found]
        if len(numbers) >= len(weights):
            weights.extend(weight(unit) for unit in dict.fromkeys(found) if numbers[unit] >= len(weights))
        flat.extend(here)
        if len(here) < longest_run(length):
            # A short text is one run of its own, padded with word 0, which no text has.
            flat.extend([0] * math.ceil(length - sum(weights[number] for number in here) / WORD))
        starts.append(len(flat))
    return (
        np.frombuffer(flat, dtype=np.uint32),
        np.frombuffer(starts, dtype=np.int64),
        np.frombuffer(weights, dtype=np.int64),
    )


def longest_run(length: int) -> int:
    """The most units that a run of `length` words can have."""
    return length * WORD // min(WEIGHTS.values()) + 1


def hash_runs(
    ids: NDArray[np.uint32], bounds: NDArray[np.int64], weights: NDArray[np.int64], length: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A hash of the run that begins at each unit: the fewest units that together weigh `length` words.

    Args:
        ids: (units,) the numbers of the units of all texts.
        bounds: (texts + 1,) where each text begins.
        weights: of each number.

    Returns:
        (units,) the hashes, and which runs lie within one text.
    """
    table = (np.arange(len(weights), dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    table = (table ^ (table >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64: small numbers to 64 bits
    table ^= table >> np.uint64(27)
    longest = longest_run(length)
    size = min(CHUNK, len(ids)) + longest
    powers, back = (np.full(size, factor, np.uint64).cumprod(dtype=np.uint64) for factor in (FACTOR, INVERSE))
    hashes, inside = np.zeros(len(ids), np.uint64), np.ones(len(ids), np.bool_)
    first_units = np.zeros(len(ids), np.bool_)  # a padded run is a whole text: it begins with its first unit
    first_units[bounds[:-1]] = True
    for first in range(0, len(ids), CHUNK):
        here = ids[first : first + CHUNK + longest]
        count = min(CHUNK, len(ids) - first)
        total = np.concatenate([[0], weights[here].cumsum()])
        ends = np.searchsorted(total, total[:count] + length * WORD)
        # A run's hash is the sum of number * FACTOR^place: the difference of two sums from the chunk's beginning.
        sums = np.concatenate([np.zeros(1, np.uint64), (table[here] * powers[: len(here)]).cumsum(dtype=np.uint64)])
        inside[first : first + count] = ends < len(sums)
        hashes[first : first + count] = (sums[np.minimum(ends, len(here))] - sums[:count]) * back[:count]
        long = first + np.flatnonzero(ends - np.arange(count) > length)
        inside[long] &= first + ends[long - first] <= bounds[np.searchsorted(bounds, long, side="right")]
        padded = first + np.flatnonzero(here[np.minimum(ends, len(here)) - 1] == 0)
        inside[padded] &= first_units[padded]
    for offset in range(1, length):  # the last units of a text have too few words after them
        starts = bounds[1:] - offset
        inside[starts[starts >= 0]] = False
    return hashes, inside


def shingle_pairs(texts: Sequence[str], length: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of tweets that share a run of `length` words; tweets shorter than that, all their words.

    In scripts without spaces, a run is as many characters as make so many words (utils/scripts.py).

    An inverted index without the index: each run is hashed to 64 bits, the hashes are sorted, and equal neighbours
    belong together (two different runs meet by chance once in about 10^5 corpora of a million tweets). It takes some
    14 bytes a word, and the hashes are sorted part by part.

    Yields:
        Two arrays of positions in `texts`, (pairs,) each.
    """
    ids, bounds, weights = number_units(texts, length)
    hashes, inside = hash_runs(ids, bounds, weights, length)
    part = (hashes >> np.uint64(60)).astype(np.uint8)  # 16 parts
    part[~inside] = 255
    for number in range(16):
        chosen = np.flatnonzero(part == number)
        here = hashes[chosen]
        order = np.argsort(here, kind="stable")
        here, chosen = here[order], chosen[order]
        same = here[1:] == here[:-1]
        left, right = (
            np.searchsorted(bounds, runs, side="right") - 1 for runs in (chosen[:-1][same], chosen[1:][same])
        )
        other = left != right  # a long text may well repeat itself
        yield left[other], right[other]


def clusters(texts: Sequence[str], *, length: int) -> list[int]:
    """The number of each tweet's cluster: the position of its first tweet. Union-find over shared runs of words."""
    parent = list(range(len(texts)))
    for left, right in shingle_pairs(texts, length):
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a != b:
                parent[max(a, b)] = min(a, b)
    for i, above in enumerate(parent):
        parent[i] = parent[above]  # parents come before their children, so theirs are final
    return parent


def stable_hash(seed: int, text: str) -> bytes:
    """A hash that is the same on every machine and in every run."""
    return hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).digest()


def choose_validation(
    texts: Sequence[str],
    cluster: Sequence[int],
    *,
    fraction: float,
    seed: int,
    dates: Sequence[float | None] | None = None,
) -> list[int]:
    """Positions of the validation tweets, in order.

    Clusters are lined up by a stable hash of the seed and their smallest normal form (or, given dates, newest first by
    their oldest tweet) and taken whole while they fit into `fraction` of the tweets.

    Raises:
        UserError: nothing fits, because nearly all tweets are near-copies of each other; or there are no dates.
    """
    members: dict[int, list[int]] = {}
    for i, number in enumerate(cluster):
        members.setdefault(number, []).append(i)
    if dates is None:
        rank = {n: stable_hash(seed, min(normal_form(texts[i]) for i in group)) for n, group in members.items()}
        order = sorted(members, key=rank.__getitem__)
    elif not any(date is not None for date in dates):
        raise UserError("data.split is 'time', but the tweets have no dates that can be read: use random")
    else:
        known = [-math.inf if date is None else date for date in dates]
        oldest = {n: min(known[i] for i in group) for n, group in members.items()}
        order = sorted(members, key=oldest.__getitem__, reverse=True)
    target, chosen = round(fraction * len(texts)), list[int]()
    for number in order:
        if len(chosen) + len(members[number]) <= target:
            chosen += members[number]
    if not chosen:
        raise UserError(
            f"no tweets can be set aside for validation: the {len(texts):,} tweets form {len(members):,} clusters of "
            "near-copies (raise data.near_duplicate_words, or give more varied text)"
        )
    return sorted(chosen)
