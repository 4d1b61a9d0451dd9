"""Whether a text is copied from the training tweets: as a whole, or a long span of words."""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from utils.scripts import SPACELESS, WORD, units, weight

SPAN = 8  # words in a row that count as copied
WORD_FOR_WORD = "a training tweet, word for word"
SPAN_OF_ONE = f"{SPAN} words in a row of a training tweet"
RULES = f"A tweet is marked as copied if it is {WORD_FOR_WORD} (ignoring case and punctuation), or has {SPAN_OF_ONE}."
SEPARATOR, UNSEEN = "\x00", "\x01"  # between training tweets; a word that no training tweet has
FIRST, LAST = 2, 0x10FFFF  # characters that stand for words
PART = re.compile(f"{SPACELESS.pattern}|(?:(?!{SPACELESS.pattern})\\S)+")  # one character, or what spaces separate


class CopyCheck:
    """Compares the words of a text with those of the training tweets, without case and punctuation.

    In scripts without spaces it compares characters; a Chinese one counts as half a word (utils/scripts.py). Each
    different word is represented by one character of one long string, because Python searches strings very fast.

    Args:
        texts: the training tweets.
        span: how many words in a row count as copied.
    """

    def __init__(self, texts: Sequence[str], *, span: int = SPAN) -> None:
        self.span = span
        self.texts = {normalise(text) for text in texts}
        self.characters: dict[str, str] = {}
        for text in texts:
            for word in units(text):
                if word not in self.characters and len(self.characters) <= LAST - FIRST:
                    self.characters[word] = chr(FIRST + len(self.characters))
        self.joined = SEPARATOR.join(self.as_characters(units(text)) for text in texts)

    def as_characters(self, words: Sequence[str]) -> str:
        """A string with one character for each word."""
        return "".join(self.characters.get(word, UNSEEN) for word in words)

    def has(self, characters: str) -> bool:
        """Whether these words are in a training tweet, in this order and side by side."""
        return UNSEEN not in characters and characters in self.joined

    def exact(self, text: str) -> bool:
        """Whether the whole text is a training tweet, ignoring case, punctuation and spaces."""
        return normalise(text) in self.texts

    def longest(self, text: str) -> float:
        """The length, in words, of the longest span that is also in a training tweet."""
        words = units(text)
        characters, sums = self.as_characters(words), weights_before(words)
        end = best = 0
        for start in range(len(words)):
            end = max(end, start)
            while end < len(words) and self.has(characters[start : end + 1]):
                end += 1
            best = max(best, sums[end] - sums[start])
        return best / WORD

    def copied_spans(self, words: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Where spans of `span` words begin and end that are also in a training tweet."""
        characters = self.as_characters(words)
        return ((start, end) for start, end in spans(words, self.span) if self.has(characters[start:end]))

    def has_span(self, text: str) -> bool:
        """Whether a span of `span` words is also in a training tweet."""
        return next(self.copied_spans(units(text)), None) is not None

    def copied_parts(self, text: str) -> list[tuple[str, bool]]:
        """The text in parts, each with whether it lies in a span of `span` words that is also in a training tweet."""
        words = [(word, match.start(), match.end()) for match in PART.finditer(text) for word in units(match[0])]
        copied = [False] * len(text)
        for first, behind in self.copied_spans([word for word, _, _ in words]):
            start, end = words[first][1], words[behind - 1][2]
            copied[start:end] = [True] * (end - start)
        edges = [0, *(i for i in range(1, len(text)) if copied[i] != copied[i - 1]), len(text)]
        return [(text[a:b], copied[a]) for a, b in pairwise(edges) if b > a]

    def how(self, text: str) -> str:
        """By which of the RULES the text is a copy, in words; "" if it is none."""
        if self.exact(text):
            return WORD_FOR_WORD
        return SPAN_OF_ONE if self.has_span(text) else ""

    def is_copy(self, text: str) -> bool:
        """Whether the text is a training tweet or holds a long span of one."""
        return self.exact(text) or self.has_span(text)


def spans(words: Sequence[str], length: int) -> Iterator[tuple[int, int]]:
    """Where the spans of `length` words begin and end: the fewest units of each beginning that weigh so much."""
    sums, end = weights_before(words), 0
    for start in range(len(words)):
        while end < len(words) and sums[end] - sums[start] < length * WORD:
            end += 1
        if sums[end] - sums[start] < length * WORD:
            return
        yield start, end


def weights_before(words: Sequence[str]) -> list[int]:
    """The weight of the words before each position, (words + 1,), in parts of WORD."""
    return list(accumulate(map(weight, words), initial=0))


def normalise(text: str) -> str:
    """The text's letters and digits in lower case; if it has none (only emoji, for example) the text itself."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()
