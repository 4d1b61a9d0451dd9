"""De-duplication and a split that does not leak: whole clusters of near-copies go to one side. Linear in the tweets."""

import hashlib
import math
import re
from array import array
from collections.abc import Sequence

import numpy as np

from config.schema import UserError

_SYMBOLS = re.compile(r"[^\w\s]+")
_PUNCTUATION = re.compile("[!-/:-@\\[-`{-~\xa1-\xbf\u2010-\u205e\u3001-\u303f\uff01-\uff0f\ufe0f]+")


def words(text: str) -> list[str]:
    """The words of a text without case, punctuation and emoji: what two near-copies have in common."""
    return _SYMBOLS.sub("", text.casefold()).replace("_", " ").split()


def normal_form(text: str) -> str:
    """The text without case, punctuation and doubled spaces: two texts of one normal form are one text, said twice."""
    return " ".join(_PUNCTUATION.sub("", text.casefold()).split()) or text


def shingle_pairs(texts: Sequence[str], length: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Pairs of tweets that share a run of `length` words; tweets shorter than that, all their words.

    An inverted index without the index: each run is hashed to 64 bits, the hashes are sorted, and equal neighbours
    belong together (two different runs meet by chance once in about 10^5 corpora of a million tweets).

    Returns:
        Two arrays of positions in `texts`, (pairs,) each.
    """
    numbers: dict[str, int] = {}
    flat, starts = array("I"), array("q", [0])
    for text in texts:
        found = words(text) or [text]
        # A short text is one run of its own, padded with word 0, which no text has.
        flat.extend(numbers.setdefault(word, len(numbers) + 1) for word in found)
        flat.extend([0] * (length - len(found)))
        starts.append(len(flat))
    ids = np.frombuffer(flat, dtype=np.uint32).astype(np.uint64)
    bounds = np.frombuffer(starts, dtype=np.int64)
    mixed = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64: spreads small numbers over 64 bits
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    count = len(ids) - length + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * np.uint64(0x94D049BB133111EB) + mixed[offset : offset + count]
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(bounds))[:count]
    inside = np.arange(count) + length <= bounds[1:][owner]  # a run may not reach into the next tweet
    hashes, owner = hashes[inside], owner[inside]
    order = np.argsort(hashes, kind="stable")
    hashes, owner = hashes[order], owner[order]
    same = hashes[1:] == hashes[:-1]
    return owner[:-1][same], owner[1:][same]


def clusters(texts: Sequence[str], *, length: int) -> list[int]:
    """The number of each tweet's cluster: the position of its first tweet. Union-find over shared runs of words."""
    parent = list(range(len(texts)))
    left, right = shingle_pairs(texts, length)
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
