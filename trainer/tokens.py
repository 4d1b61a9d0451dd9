"""Texts as one long array of GPT-2's token ids, in a memory-mapped file: it may be far larger than memory.

    END t1 t2 ... tn END  END t1 ... tn  END t1 ...
    a complete text       a cut-off one  the next

An id takes two bytes, as GPT-2's ids are below 65,536.
"""

import re
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import END, NUM_TOKENS, Tokenizer
from utils.files import naming
from utils.preprocess import Tweet

PIECE = 50_000  # characters; a longer text is encoded in pieces, because encoding it takes much memory
BATCH = 1_000_000  # characters encoded together; the tokenizer uses all cores for them
CHUNK = 1 << 24  # ids that are processed together
SAY_SECONDS = 5.0  # between lines that report the progress
# GPT-2 always splits before a single space between words, so a text that is cut there has the same tokens.
GAP = re.compile(r"(?<=\w) (?=\w)")


@dataclass(frozen=True)
class Tokens:
    """Texts with their end marks, one after another.

    Attributes:
        ids: (total,) uint16 GPT-2 ids; every text begins with the end mark.
        bounds: (texts + 1,) where each text begins in `ids`, and then the length of `ids`.
        num_bytes: (texts,) UTF-8 bytes of the text, plus one for its end.
        finished: (texts,) whether the text is complete and so has an end mark after it.
    """

    ids: NDArray[np.uint16]
    bounds: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    finished: NDArray[np.bool_]

    @classmethod
    def encode(cls, tweets: Sequence[Tweet], tokenizer: Tokenizer, *, folder: Path | None = None) -> "Tokens":
        """Encode texts, batch by batch, into a temporary file. The system deletes it when it is no longer used.

        Args:
            tweets: read once, in order.
            folder: where to put the file; None: the system's temporary folder, which may be in memory.
        """
        bounds, num_bytes, finished = array("q", [0]), array("q"), array("b")
        started = reported = time.perf_counter()
        place = folder or Path(tempfile.gettempdir())
        with naming(place), tempfile.TemporaryFile(dir=place, prefix="tokens-") as file:
            for batch in batches(tweets):
                bodies = tokenizer.encode_batch([piece.text for piece in batch])
                ids = array("H")
                for piece, body in zip(batch, bodies, strict=True):
                    if piece.first:
                        ids.append(END)
                        num_bytes.append(1)
                    ids.extend(body)
                    num_bytes[-1] += len(piece.text.encode())
                    if piece.last:
                        finished.append(piece.finished)
                        if piece.finished:
                            ids.append(END)
                        bounds.append(file.tell() // 2 + len(ids))
                file.write(ids.tobytes())
                if time.perf_counter() - reported > SAY_SECONDS:
                    reported = time.perf_counter()
                    print(f"Tokenising: {len(finished):,} of {len(tweets):,} texts", file=sys.stderr, flush=True)
            total = file.tell() // 2
            file.flush()
            flat = np.memmap(file, np.uint16, "r") if total else np.zeros(0, np.uint16)
        if reported > started:
            print(f"Tokenised: {total:,} tokens in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        return cls(
            flat,
            np.array(bounds, np.int64),
            np.array(num_bytes, np.int64),
            np.array(finished, np.bool_),
        )

    @property
    def num_predictions(self) -> int:
        """Number of tokens to predict, end marks included: all but the first of each text."""
        return len(self.ids) - len(self.finished)

    def counts(self) -> NDArray[np.int64]:
        """How often each of GPT-2's tokens occurs in `ids`, end marks included, (50257,)."""
        total = np.zeros(NUM_TOKENS, np.int64)
        for first in range(0, len(self.ids), CHUNK):
            total += np.bincount(self.ids[first : first + CHUNK], minlength=NUM_TOKENS)
        return total

    def places_of(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The indices in `ids` of the tokens that are `wanted` (50257,), in order."""
        parts = [
            first + np.flatnonzero(wanted[self.ids[first : first + CHUNK]]) for first in range(0, len(self.ids), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def texts(self) -> list[list[int]]:
        """The ids of each text with its end marks. Takes 36 bytes of memory for each token."""
        return [self.ids[first:end].tolist() for first, end in pairwise(self.bounds.tolist())]


@dataclass(frozen=True, slots=True)
class Piece:
    """A text, or a part of one: whether it is the first or last part, and whether the text is complete."""

    text: str
    first: bool
    last: bool
    finished: bool


def cuts(text: str) -> Iterator[tuple[int, int]]:
    """Where the pieces of a text begin and end. Each has about PIECE characters; together they have the text's tokens.

    A text is cut between two words, where GPT-2's tokenizer splits it too. If PIECE characters have no such place, it
    is cut anyway: then one of its tokens becomes two, and the text stays the same.
    """
    start = 0
    while len(text) - start > 2 * PIECE:
        gap = GAP.search(text, start + PIECE, start + 2 * PIECE)
        end = gap.start() if gap else start + 2 * PIECE
        yield start, end
        start = end
    yield start, len(text)


def batches(tweets: Sequence[Tweet]) -> Iterator[list[Piece]]:
    """The pieces of all texts, in order, in lists of about BATCH characters."""
    batch: list[Piece] = []
    size = 0
    for tweet in tweets:
        for start, end in cuts(tweet.text):
            batch.append(Piece(tweet.text[start:end], start == 0, end == len(tweet.text), tweet.finished))
            size += end - start
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
