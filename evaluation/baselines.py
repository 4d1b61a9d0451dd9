"""The baselines: n-gram models and general compressors, on the same split, in the same unit (bits per byte)."""

import bz2
import lzma
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model.ngram import Floats, NGram, choose_order
from model.tokenizer import Tokenizer
from trainer.batches import framed
from utils.preprocess import Tweet


@dataclass(frozen=True)
class Baselines:
    """The figures of all baselines.

    Attributes:
        bits_per_byte: of unigram, bigram, ngram, xz and bzip2.
        order: of the n-gram model, chosen on training tweets.
        nats: (n,) cost of each validation tweet under the n-gram model, for paired comparisons.
        num_bytes: (n,) UTF-8 bytes of each validation tweet, and one more for its end.
    """

    bits_per_byte: dict[str, float]
    order: int
    nats: Floats
    num_bytes: Floats


def measure_baselines(train: Sequence[Tweet], val: Sequence[Tweet], tokenizer: Tokenizer) -> Baselines:
    """Fit every baseline to the training tweets and measure it on the validation tweets, each tweet on its own."""
    num_bytes = np.array([len(tweet.text.encode()) + 1 for tweet in val], dtype=np.float64)
    known, tests = (frame_all(tweets, tokenizer) for tweets in (train, val))
    order = choose_order(known)
    nats = {}
    for name, length in (("unigram", 1), ("bigram", 2), ("ngram", order)):
        model = NGram.fit(known, length)
        nats[name] = np.array([-float(model.log_probs(tweet).sum()) for tweet in tests])
    bits = {name: float(cost.sum() / math.log(2) / num_bytes.sum()) for name, cost in nats.items()}
    for name, compress in (("xz", xz), ("bzip2", bz2.compress)):
        bits[name] = marginal_bits(train, val, compress) / float(num_bytes.sum())
    return Baselines(bits, order, nats["ngram"], num_bytes)


def frame_all(tweets: Sequence[Tweet], tokenizer: Tokenizer) -> list[list[int]]:
    """GPT-2 ids of each tweet, with its end marks."""
    ids = tokenizer.encode_batch([tweet.text for tweet in tweets])
    return [framed(body, finished=tweet.finished) for body, tweet in zip(ids, tweets, strict=True)]


def marginal_bits(train: Sequence[Tweet], val: Sequence[Tweet], compress: Callable[[bytes], bytes]) -> int:
    """Bits that the validation tweets add to the compressed training tweets, each tweet on a line of its own."""
    before, after = ("".join(f"{tweet.text}\n" for tweet in tweets).encode() for tweets in (train, val))
    return 8 * (len(compress(before + after)) - len(compress(before)))


def xz(data: bytes) -> bytes:
    """`data` compressed as by `xz --lzma2=preset=9e,lc=4,pb=0`, the settings for text."""
    options = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}
    return lzma.compress(data, filters=[options])
