"""Whether a text is copied from the training tweets: as a whole, or a long span of tokens."""

import re
from collections.abc import Sequence

SEPARATOR = "\uffff"  # beyond GPT-2's last id, so it is no token


class CopyCheck:
    """Compares token ids with those of the training tweets.

    All training ids are kept in one string, one character for each token, because Python searches strings very fast.

    Args:
        texts: the training tweets.
        ids: their GPT-2 token ids (below 50,257, so that each is a character and none is a surrogate).
        span: how many consecutive tokens count as copied.
    """

    def __init__(self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, span: int = 8) -> None:
        self.span = span
        self.texts = {normalise(text) for text in texts}
        self.joined = SEPARATOR.join(as_characters(tweet) for tweet in ids)

    def exact(self, text: str) -> bool:
        """Whether the whole text is a training tweet, ignoring case, punctuation and spaces."""
        return normalise(text) in self.texts

    def longest(self, ids: Sequence[int]) -> int:
        """Length, in tokens, of the longest span that is also in a training tweet."""
        characters, best = as_characters(ids), 0
        for start in range(len(characters)):
            while start + best < len(characters) and characters[start : start + best + 1] in self.joined:
                best += 1
        return best

    def has_span(self, ids: Sequence[int]) -> bool:
        """Whether a span of `span` tokens is also in a training tweet."""
        characters = as_characters(ids)
        return any(characters[i : i + self.span] in self.joined for i in range(len(characters) - self.span + 1))

    def is_copy(self, text: str, ids: Sequence[int]) -> bool:
        """Whether the text is a training tweet or holds a long span of one."""
        return self.exact(text) or self.has_span(ids)


def as_characters(ids: Sequence[int]) -> str:
    """A string with one character for each id."""
    return "".join(map(chr, ids))


def normalise(text: str) -> str:
    """The text's letters and digits in lower case; if it has none (only emoji, for example) the text itself."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()
