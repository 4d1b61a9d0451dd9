"""Copies are found exactly as a brute force over all spans finds them, in any script."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate.copies import CopyCheck, normalise

TWEETS = st.lists(st.sampled_from("abcd"), max_size=12)


def spans(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


@settings(max_examples=200)
@given(st.lists(TWEETS, max_size=4), TWEETS, st.integers(1, 6))
def test_spans_equal_brute_force(train: list[list[str]], words: list[str], span: int) -> None:
    check = CopyCheck([" ".join(tweet) for tweet in train], span=span)
    shared = [n for n in range(1, len(words) + 1) if any(spans(words, n) & spans(tweet, n) for tweet in train)]
    text = " ".join(words)
    assert check.longest(text) == max(shared, default=0)
    assert check.has_span(text) == (span in shared)
    copied = set()
    for i in range(len(words) - span + 1):
        if any(tuple(words[i : i + span]) in spans(tweet, span) for tweet in train):
            copied |= set(range(i, i + span))
    marked = "".join(part.upper() if flag else part for part, flag in check.copied_parts(text)).split()
    assert {i for i, word in enumerate(marked) if word.isupper()} == copied


def test_spans_never_cross_tweets_and_ignore_case_and_punctuation() -> None:
    check = CopyCheck(["The rocket flies.", "Again we wait!"], span=2)
    assert check.longest("flies again") == 1 and not check.has_span("flies again")
    assert check.has_span("AGAIN, we") and check.copied_parts("So again, We ...") == [
        ("So ", False),
        ("again, We", True),
        (" ...", False),
    ]
    assert check.copied_parts("") == []


def test_exact_copies_are_found_whatever_their_case_and_punctuation() -> None:
    check = CopyCheck(["Mars, here we come!", "🚀🚀"])
    assert check.exact("mars here we come") and check.exact("🚀🚀")
    assert not check.exact("Mars, here we go!") and not check.exact("🚀")
    assert check.is_copy("MARS here: we come") and not check.is_copy("new")
    assert normalise("It's 5pm…") == "it s 5pm"


CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшжыз", strict=True))


def test_words_of_cyrillic_count_as_those_of_english() -> None:
    """GPT-2 has several tokens for a Cyrillic word, so spans of tokens were found where two words in a row agree."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=3)) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=9)) for _ in range(1000)]
    found = []
    for table in ({}, CYRILLIC):
        written = ["".join(table.get(letter, letter) for letter in text) for text in texts]
        check = CopyCheck(written[:900])
        found.append([check.longest(text) for text in written[900:]])
        assert not any(check.has_span(text) for text in written[900:])
        assert all(check.has_span(text) for text in written[:50])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("text", "begun", "copied"),
    [
        ("今天天气很好我们一起去公园玩吧孩子们都很高兴", 15, 16),
        ("きょうはとてもいいてんきですねみんなでこうえんへいきましょう", 23, 24),
    ],
)
def test_scripts_without_spaces_are_compared_by_character(text: str, begun: int, copied: int) -> None:
    """Eight words are 16 Chinese characters or 24 kana."""
    check = CopyCheck([text])
    assert check.has_span("あ" + text[:copied]) and not check.has_span("あ" + text[:begun])
    assert check.copied_parts("他" + text[:copied]) == [("他", False), (text[:copied], True)]
