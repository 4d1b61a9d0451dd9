"""Every script is cleaned, compared and split as English is: near-copies, cut-offs, hashtags, mentions, full stops."""

import dataclasses
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.cli import parse
from utils.clean import Cleaner, drop_hashtags, drop_mentions, punctuate, trim_cutoff
from utils.preprocess import load_processed, preprocess
from utils.scripts import units
from utils.split import clusters

CONFIG, _ = parse("preprocess", [])
TCO = "https://t.co/Ab12Cd34Ef"
# What words are made of in each script, the space between them, and the marks that end a sentence.
THAI = "กา ขี่ คู งาม จะ ฉัน ชื่อ ซ้าย ดี ต้น ถึง ที่ น้ำ บ้าน ปู ผม ฝน พ่อ ฟ้า ม้า"
SCRIPTS = {
    "Chinese": ("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜", "", "。"),
    "Japanese": ("いろはにほへとちりぬるをわかよたれそつねならむ山川空海花鳥風月カメラテレビ", "", "。"),
    "Thai": (THAI.split(), "", ""),
    "Korean": ("가나다라마바사아자차카타파하고노도로모보소오조초", " ", "."),
    "Hindi": (["का", "खी", "गु", "घे", "चो", "छं", "जा", "टि", "डू", "तै", "नौ", "पा", "बी", "मु", "रे", "लो"], " ", "।"),
    "Arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", " ", "."),
    "Urdu": ("ابپتٹثجچحخدڈرڑزژسشصضطعغفقکگلمنوہےھ", " ", "۔"),
    "Russian": ("абвгдежзийклмнопрстуфхцчшщыэюя", " ", "."),
    "Greek": ("αβγδεζηθικλμνξοπρστυφχψω", " ", "."),
}
CODES = {"Urdu": " ٹے"}  # letters that are in every text, where they decide


def made_up(script: str, count: int, seed: int = 0, words: int = 12) -> list[str]:
    """Different texts of random words; in scripts without spaces their letters follow each other."""
    letters, space, _ = SCRIPTS[script]
    rng = random.Random(f"{script} {seed}")
    texts = [space.join("".join(rng.choices(letters, k=rng.randint(2, 5))) for _ in range(words)) for _ in range(count)]
    return [text + CODES.get(script, "") for text in texts]


def preprocessed(root: Path, texts: list[str]) -> set[str]:
    """The validation tweets of a run over these lines."""
    (root / "t.txt").write_text("\n".join(texts), encoding="utf-8")
    preprocess(parse("preprocess", ["--paths.root", str(root), "--data.path", str(root / "t.txt")])[0])
    return {tweet.text for tweet in load_processed(dataclasses.replace(CONFIG.paths, root=str(root))).val}


@pytest.mark.parametrize("script", SCRIPTS)
def test_near_copies_stay_on_one_side(tmp_path: Path, script: str) -> None:
    letters, space, stop = SCRIPTS[script]
    texts = made_up(script, 150)
    more = [text + space + letters[3] for text in texts]
    val = preprocessed(tmp_path, [f"{text}{stop}" for pair in zip(texts, more, strict=True) for text in pair])
    assert 20 <= len(val) <= 30
    crossing = [a for a, b in zip(texts, more, strict=True) if (f"{a}{stop}" in val) != (f"{b}{stop}" in val)]
    assert not crossing


@pytest.mark.parametrize("script", SCRIPTS)
def test_unrelated_texts_are_no_near_copies(script: str) -> None:
    texts = made_up(script, 300)
    assert clusters(texts, length=5) == list(range(300))
    letters, space, _ = SCRIPTS[script]
    shared = space.join(letters[:3])  # each text has it
    mixed = [f"{a}{space}{shared}{space}{b}" for a, b in zip(texts[:40], texts[40:80], strict=True)]
    assert len(set(clusters(mixed, length=5))) == 40


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_full_stop_is_of_the_script_and_comes_once(script: str) -> None:
    for text in made_up(script, 20):
        stopped = punctuate(text)
        assert stopped == text + SCRIPTS[script][2] and punctuate(stopped) == stopped
        for end in "!?…。！？؟":
            assert punctuate(text + end) == text + end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("하하하 ㅎㅎㅎ", "하하하 ㅎㅎㅎ"),
        ("집에 간다", "집에 간다."),
        ("「はい。」", "「はい。」"),
        ("「はい」", "「はい」。"),
        ("雨（強い）", "雨（強い）。"),
        ("〈本〉", "〈本〉。"),
        ("我来了，", "我来了。"),
        ("وہ گھر ہے", "وہ گھر ہے۔"),
        ("ذهبت،", "ذهبت."),
        ("राम घर गया", "राम घर गया।"),
        ("वह कौन है॥", "वह कौन है॥"),
        ("Ποιος είναι;", "Ποιος είναι;"),
        ("who knows;", "who knows."),
        ("ฝนตก", "ฝนตก"),
        ("ဒါပဲ။", "ဒါပဲ။"),
        ("ሰላም።", "ሰላም።"),
        ("OKです（笑）", "OKです（笑）。"),
        ("東京 Tokyo", "東京 Tokyo."),
    ],
)
def test_full_stops(text: str, expected: str) -> None:
    assert punctuate(text) == expected and punctuate(expected) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_cut_off_tweet_loses_its_last_word_and_no_more(script: str) -> None:
    text = " ".join(made_up(script, 6))[:139].strip()
    trimmed = trim_cutoff(f"{text}… {TCO}")
    if SCRIPTS[script][1] == "":
        assert trimmed == text  # every character is whole
    else:
        assert trimmed == text.rpartition(" ")[0]


def test_a_foreign_word_is_cut_off_a_text_without_spaces() -> None:
    text = "今天天气很好" * 22
    assert trim_cutoff(f"{text}wor… {TCO}") == text
    assert trim_cutoff(f"{text} wor… {TCO}") == text


TAGS = "हिन्दी ภาษาไทย தமிழ் عربي میں_ہوں русский2 ελληνικά 日本語タグ 한국어 বাংলা မြန်မာ"


@pytest.mark.parametrize("tag", TAGS.split())
def test_hashtags_go_whole(tag: str) -> None:
    assert drop_hashtags(f"abc #{tag} def") == "abc def" and drop_hashtags(f"＃{tag}") == ""
    strip = Cleaner(CONFIG.data).clean(f"abc #{tag} def!")
    assert strip.text == f"abc {tag} def!"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("so @kim.example.org says", "so says"),
        ("ask @my-name.example.com!", "ask!"),
        ("by @kim.l.m, and", "by, and"),
        ("ask @kim.", "ask."),
        ("ask @kim... or not", "ask... or not"),
        ("I know @kim.Then go", "I know.Then go"),
        ("@kim-like things", "-like things"),
        ("@a.b.c's hat", "hat"),
        ("to @kim@social.example.org now", "to now"),
        ("mail kim@a.example.org now", "mail kim@a.example.org now"),
    ],
)
def test_mentions_with_dots(text: str, left: str) -> None:
    assert drop_mentions(text) == left


ANY_SCRIPT = st.sampled_from(sorted(SCRIPTS)).flatmap(
    lambda script: st.lists(st.sampled_from(list(SCRIPTS[script][0])), min_size=1, max_size=30).map("".join)
)
MARKS = ["", " ", "…", "、", "،", "। ", "؟", ";", "「", "」", "（", "）", "#", "@a.b ", "ㅋㅋ", "\u200c", "🚀", " - "]


@settings(max_examples=300)
@given(st.lists(st.tuples(ANY_SCRIPT, st.sampled_from(MARKS)), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_cleaning_keeps_the_letters_and_is_done_after_once(
    parts: list[tuple[str, str]], private: bool, fold: bool
) -> None:
    text = "".join(part for pair in parts for part in pair)
    cleaner = Cleaner(dataclasses.replace(CONFIG.data, fold_typography=fold), private=private)
    once = cleaner.clean(text)
    assert cleaner.clean(once.text, finished=once.finished).text == once.text
    if "@" not in text and once.dropped is None:
        expected = "".join(c for c in text if unicodedata.category(c)[0] in "LM" and c != "\ufe0f")
        assert "".join(c for c in once.text if unicodedata.category(c)[0] in "LM" and c != "\ufe0f") == expected


@given(ANY_SCRIPT, ANY_SCRIPT)
def test_units_are_what_near_copies_share(text: str, other: str) -> None:
    assert units(text) == units(f"“{text.upper()}!!” 🚀")
    assert units(f"{text} {other}") == units(text) + units(other)
