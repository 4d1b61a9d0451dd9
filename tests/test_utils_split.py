"""Long texts among short ones: compared and split piece by piece, with the same result and in bounded memory."""

import random
import tracemalloc
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.cli import parse
from utils import clean, split
from utils.clean import pieces, squeeze
from utils.preprocess import preprocess
from utils.split import clusters, normal_form

TEXTS = st.lists(st.sampled_from(["ab", "c", "d", "E", "f.", "\n", " ", "  "]), max_size=60).map(" ".join)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every text is long, and runs are hashed a few at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(clean, "PIECE", 7)
        patch.setattr(split, "CHUNK", 5)
        yield


@given(TEXTS)
def test_pieces_end_between_words(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "PIECE", 7)
        assert " ".join(pieces(text)) == text
        assert squeeze(text) == " ".join(text.split())
        by_piece = normal_form(text)
    assert by_piece == normal_form(text)


@given(st.lists(TEXTS, min_size=1, max_size=12))
def test_clusters_are_the_same_piece_by_piece(texts: list[str]) -> None:
    whole = clusters(texts, length=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "PIECE", 7)
        patch.setattr(split, "CHUNK", 5)
        assert clusters(texts, length=4) == whole


@pytest.mark.usefixtures("small_pieces")
def test_a_long_text_meets_its_near_copy_and_not_itself() -> None:
    chorus = "round and round the wheels go "
    assert clusters([chorus * 9, "nothing like it at all here", "see the wheels go round and " * 2], length=5) == [
        0,
        1,
        0,
    ]


def test_one_giant_among_many(tmp_path: Path) -> None:
    """A book between blank lines, one of them 100 times all others together: memory stays a few times the file's."""
    random.seed(0)
    names = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]
    giant = ". ".join(" ".join(random.choices(names, k=12)) for _ in range(40_000))
    others = [" ".join(random.choices(names, k=20)) for _ in range(99)]
    copy = giant[1_000_000:1_000_200]  # somebody quotes it
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join([*others, giant, copy]), encoding="utf-8")
    flags = ["--paths.root", str(tmp_path), "--data.path", str(path), "--data.separator", "blank"]
    tracemalloc.start()
    corpus = preprocess(parse("preprocess", flags)[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = [tweet.text for tweet in (*corpus.train, *corpus.val)]
    assert len(found) == 101 and f"{giant}." in found
    assert corpus.info["split"]["largest_cluster"] == 2, "the giant and who quotes it"
    assert peak < 25 * path.stat().st_size


PARTS = {
    "ab": 1.0,
    "c": 1.0,
    "天": 1 / 2,
    "地": 1 / 2,
    "あ": 1 / 3,
    "い": 1 / 3,
}  # words, and characters with their shares


def runs_of(parts: list[str], length: int) -> set[tuple[str, ...]]:
    """From each part, the fewest parts that together make `length` words; of a short text, all of it."""
    found = set()
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            if sum(PARTS[part] for part in parts[start:end]) >= length - 1e-9:
                found.add(tuple(parts[start:end]))
                break
    return found or {tuple(parts)}


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=12), min_size=1, max_size=12))
def test_clusters_of_mixed_scripts_equal_brute_force(texts: list[list[str]]) -> None:
    runs = [runs_of(parts, 3) for parts in texts]
    group = list(range(len(texts)))
    for a, b in combinations(range(len(texts)), 2):
        if runs[a] & runs[b] and group[a] != group[b]:
            old, new = max(group[a], group[b]), min(group[a], group[b])
            group = [new if g == old else g for g in group]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "CHUNK", 5)
        assert clusters([" ".join(parts) for parts in texts], length=3) == group
