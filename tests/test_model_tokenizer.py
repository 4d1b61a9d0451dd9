"""GPT-2's tokenizer: ids equal those of transformers, every text is restored, streaming gives whole characters."""

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import UserError
from model.tokenizer import END, END_TEXT, NUM_TOKENS, load_tokenizer, packaged_files

ODD = [
    "",
    " ",
    "\n",
    "\t\tx",
    "it's we'll I'd",
    "  two  spaces ",
    "ünïcödé",
    "日本語テスト",
    "مرحبا بالعالم",
    "🚀🚀",
    "👩‍👩‍👧",
    "🇩🇪",
]
ODD += [
    "1234567890",
    "3.14e-10",
    "a" * 300,
    "\u200b",
    "\ufeff",
    "don’t “quote”",
    "#tag @name https://t.co/AbC",
    "\x00\x07",
    "C++/C#",
]


def varied_strings() -> list[str]:
    """More than a thousand texts: unusual ones, the sample tweets, and random mixtures of alphabets."""
    with (Path(__file__).parents[1] / "data" / "sample_tweets.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    source = random.Random(0)
    alphabet = "abc XYZ 0123 .,!?'\"\n\t éß ñ 中文 🚀🔥 ا ب \u00a0-–—"
    return ODD + texts + ["".join(source.choices(alphabet, k=source.randrange(1, 40))) for _ in range(500)]


def test_ids_equal_those_of_transformers() -> None:
    from transformers import GPT2TokenizerFast

    vocabulary, merges = packaged_files()
    peer = GPT2TokenizerFast(vocab=str(vocabulary), merges=str(merges))
    assert len(peer) == NUM_TOKENS
    tokenizer, texts = load_tokenizer(), varied_strings()
    assert len(texts) > 1000
    assert tokenizer.encode_batch(texts) == [peer(text)["input_ids"] for text in texts]


def test_known_ids() -> None:
    # Published with GPT-2: the text "Hello, world!" and the byte-pair of a leading space
    assert load_tokenizer().encode("Hello, world!") == [15496, 11, 995, 0]


@given(st.text())
def test_decoding_restores_every_text(text: str) -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_byte_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match="not valid UTF-8"):
        load_tokenizer().encode(b"Mars \xff".decode("utf-8", "surrogateescape"))


def test_end_mark_is_never_made_from_text() -> None:
    tokenizer = load_tokenizer()
    ids = tokenizer.encode(f"a{END_TEXT}b")
    assert END not in ids and tokenizer.decode(ids) == f"a{END_TEXT}b"
    assert tokenizer.decode([*tokenizer.encode("a"), END]) == "a"


@given(st.text(alphabet="ab 🚀👩‍👩‍👧é中", max_size=20))
def test_streaming_gives_the_same_text_and_only_whole_characters(text: str) -> None:
    tokenizer = load_tokenizer()
    decoder = tokenizer.stream()
    pieces = [decoder.push(index) for index in tokenizer.encode(text)] + [decoder.finish()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_streaming_shows_a_character_that_never_ends_as_a_replacement() -> None:
    tokenizer = load_tokenizer()
    decoder = tokenizer.stream()
    assert decoder.push(tokenizer.encode("🚀")[0]) == ""
    assert decoder.finish() == "\ufffd"


def test_a_folder_can_be_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    other = load_tokenizer(str(tmp_path))
    assert other.encode("Mars is 🚀") == tokenizer.encode("Mars is 🚀")


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="1 tokens"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(str(tmp_path / "empty"))
