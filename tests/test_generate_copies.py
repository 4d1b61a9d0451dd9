"""Copies are found exactly as a brute force over all spans finds them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from generate.copies import CopyCheck, normalise

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def spans(ids: list[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)}


@settings(max_examples=200)
@given(st.lists(TOKENS, max_size=4), TOKENS, st.integers(1, 6))
def test_spans_equal_brute_force(train: list[list[int]], ids: list[int], span: int) -> None:
    check = CopyCheck([""] * len(train), train, span=span)
    shared = [n for n in range(1, len(ids) + 1) if any(spans(ids, n) & spans(tweet, n) for tweet in train)]
    assert check.longest(ids) == max(shared, default=0)
    assert check.has_span(ids) == (span in shared)


def test_spans_never_cross_tweets_and_high_ids_are_no_trouble() -> None:
    check = CopyCheck(["", ""], [[50_256, 10, 13], [45, 50_255]], span=2)
    assert check.longest([13, 45]) == 1
    assert check.has_span([50_256, 10]) and not check.has_span([13, 45])


def test_exact_copies_are_found_whatever_their_case_and_punctuation() -> None:
    check = CopyCheck(["Mars, here we come!", "🚀🚀"], [[1], [2]])
    assert check.exact("mars here we come") and check.exact("🚀🚀")
    assert not check.exact("Mars, here we go!") and not check.exact("🚀")
    assert check.is_copy("MARS here: we come", []) and not check.is_copy("new", [7])
    assert normalise("It's 5pm…") == "it s 5pm"
