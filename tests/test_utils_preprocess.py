"""Cleaning, de-duplication, the split and the pair of files, against brute force and worked examples."""

import csv
import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.cli import parse
from config.schema import Config, UserError
from utils.clean import END_MARK, Cleaned, Cleaner
from utils.dates import parse_date
from utils.kaggle import SAMPLE
from utils.preprocess import load_processed, preprocess
from utils.scripts import units
from utils.split import choose_validation, clusters, normal_form

CONFIG, _ = parse("preprocess", [])
TCO = "https://t.co/Ab12Cd34Ef"
REAL = os.environ.get("ELON_TWEETS_CSV")
needs_real = pytest.mark.skipif(not REAL, reason="ELON_TWEETS_CSV is not set")
needs_sample = pytest.mark.skipif(not SAMPLE.is_file(), reason="data/sample_tweets.csv is not there")


def config_for(root: Path, path: Path | str, **data: Any) -> Config:
    return dataclasses.replace(
        CONFIG,
        paths=dataclasses.replace(CONFIG.paths, root=str(root)),
        data=dataclasses.replace(CONFIG.data, path=str(path), **data),
    )


def clean(text: str, *, finished: bool = True, **data: Any) -> Cleaned:
    return Cleaner(dataclasses.replace(CONFIG.data, **data)).clean(text, finished=finished)


def write_csv(path: Path, texts: Iterable[str], dates: Iterable[str] | None = None) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if dates is None:
            writer.writerows([["text"], *[[text] for text in texts]])
        else:
            writer.writerows([["date", "text"], *zip(dates, texts, strict=True)])
    return path


def made_up(count: int, seed: int = 0) -> list[str]:
    """Different sentences of eight made-up words: they share no five words in a row but by a rare chance."""
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(8)) for _ in range(count)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("twice &amp;amp;amp; escaped!", "twice & escaped!"),
        ("it&#39;s &quot;ok&quot;!", 'it\'s "ok"!'),
        ("AT&T &copy 5&6!", "AT&T &copy 5&6!"),  # only entities with a semicolon are entities
        ("Itâ€™s broken", "It's broken."),
        ("café déjà vu", "café déjà vu."),
        ("@a @b_1 hello", "hello."),
        ("@a: hello", "hello."),
        (".@nasa is great!", "is great!"),
        ("Great work @SpaceX, team", "Great work, team."),
        ("Great work @SpaceX!", "Great work!"),
        ("Thanks (@tim_cook) for this", "Thanks for this."),
        ("I asked @a, @b and @c about it", "I asked about it."),
        ("@nasa's rover", "rover."),
        ("mail press@example.com today", "mail press@example.com today."),
        ("follow @me@mastodon.social now", "follow now."),
        ("@userさん こんにちは", "さん こんにちは。"),
        ("2 @ 3 dollars", "2 @ 3 dollars."),
        (f"Look here {TCO}", "Look here."),
        (f"Look here: {TCO}", "Look here:"),
        ("see http://x.co/a_b?c=1. Then go", "see. Then go."),
        ("photo pic.twitter.com/abc123", "photo."),
        ("(https://example.com/a) yes", "yes."),
        ("line one\nline two\r\n\tline three", "line one line two line three."),
        ("a\u2028b\x0bc", "a b c."),
        ("zero\u200bwidth\ufeff and soft\xadhyphen\x07", "zerowidth and softhyphen."),
        ("family 👩\u200d👩\u200d👧", "family 👩\u200d👩\u200d👧"),
        ("shrug 🤷\u200d♂️", "shrug 🤷\u200d♂️"),
        ("x\u200dy", "xy."),
        ("#Mars is #1 and # of", "Mars is #1 and # of."),
        ("‘single’ “double” – en—em …", "'single' \"double\" - en - em ..."),
        ("Excitement guaranteed 🚀", "Excitement guaranteed 🚀"),
        ("He said “hello”", 'He said "hello".'),
        ("He said “hello!”", 'He said "hello!"'),
        ("so it goes (yes.)", "so it goes (yes.)"),
        ("so it goes (yes)", "so it goes (yes)."),
        ("what :)", "what :)"),
        ("and then, ", "and then."),
        ("is that so?!", "is that so?!"),
        (f"stop {END_MARK} here", "stop here."),
        ("stop &lt;|endoftext|&gt; here", "stop here."),
        (f"<|endof{END_MARK}text|> here", "<|endof text|> here."),
        ("lone \ud83d surrogate", "lone surrogate."),
        ("Rocket. “RT @x: not my words”", "Rocket."),
        ("مرحبا بالعالم", "مرحبا بالعالم."),
    ],
)
def test_rules(raw: str, expected: str) -> None:
    assert clean(raw).text == expected


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("RT @someone: their words", "drop_retweets"),
        (TCO, "drop_links"),
        ("@a @b @c", "drop_mentions"),
        ("k", "min_chars"),
        (" \n ", "tidy"),
        ("", "tidy"),
    ],
)
def test_rule_that_drops(raw: str, rule: str) -> None:
    cleaned = clean(raw)
    assert (cleaned.text, cleaned.dropped) == ("", rule)


@pytest.mark.parametrize(
    ("setting", "raw", "kept"),
    [
        ({"decode_entities": False}, "a &amp; b.", "a &amp; b."),
        ({"fix_mojibake": False, "fold_typography": False}, "Itâ€™s.", "Itâ€™s."),
        ({"drop_retweets": False, "drop_mentions": False}, "RT @x: hi.", "RT @x: hi."),
        ({"drop_links": False}, f"look {TCO} now.", f"look {TCO} now."),
        ({"drop_mentions": False}, "@a hi.", "@a hi."),
        ({"fold_typography": False}, "“so”–…", "“so”–…"),
        ({"hashtags": "keep"}, "to #Mars.", "to #Mars."),
        ({"hashtags": "drop"}, "to #Mars now.", "to now."),
        ({"punctuate": False}, "no stop", "no stop"),
        ({"min_chars": 1}, "!", "!"),
    ],
)
def test_each_rule_is_a_setting(setting: dict[str, Any], raw: str, kept: str) -> None:
    assert clean(raw, **setting).text == kept


LONG = "word " * 21 + "and the last one of them"  # 129 characters


@pytest.mark.parametrize(
    ("raw", "expected", "finished"),
    [
        (f"{LONG} is bro… {TCO}", f"{LONG} is", False),
        (f"{LONG} is bro… https://t.co/Ab", f"{LONG} is", False),  # the link is cut too
        (f"{LONG} is bro… htt", f"{LONG} is", False),
        (f"{LONG} is bro…", f"{LONG} is", False),
        (f"{LONG} is whole.… {TCO}", f"{LONG} is whole.", False),
        (f"Short and whole… {TCO}", "Short and whole", False),  # the "…" stands for a second link
        (f"A picture {TCO}… {TCO}", "A picture", False),
        (f"And so … {TCO}", "And so ...", True),  # a space before it: the author's
        (f"{LONG} … {TCO}", f"{LONG} ...", True),
        ("Wait for it…", "Wait for it...", True),
        ("And … here we go", "And ... here we go.", True),
        ("Hmm...", "Hmm...", True),
        (f"{LONG} is bro... {TCO}", f"{LONG} is bro...", True),
        (f"@a @b {LONG[:80]} @unfini… {TCO}", LONG[:80].strip(), False),
    ],
)
def test_cut_off(raw: str, expected: str, finished: bool) -> None:
    cleaned = clean(raw)
    assert (cleaned.text, cleaned.finished) == (expected, finished)


def test_cut_off_can_be_left_alone() -> None:
    cleaned = clean(f"{LONG} bro… {TCO}", trim_cutoff=False)
    assert cleaned.text.endswith("bro...") and cleaned.finished


PIECES = [
    *("@a", "@", "#", "#b", TCO, "http", "://", "www.", "…", "...", "RT @x: ", "&amp;", "&", "lt;", "#38;", END_MARK),
    *' \n"()“’,.:-—',
    *("🤷\u200d♂️", "\u200d", "\u200b", "word", "é", "â€™", "日本"),
]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(max_size=60)), st.booleans())
def test_cleaning_is_idempotent(text: str, fold: bool) -> None:
    once = clean(text, fold_typography=fold)
    again = clean(once.text, finished=once.finished, fold_typography=fold)
    assert (again.text, again.finished) == (once.text, once.finished)
    assert len(once.text.splitlines()) <= 1 and END_MARK not in once.text
    once.text.encode("utf-8")


def brute_force_clusters(texts: list[str], length: int) -> list[int]:
    """Connected components by comparing all pairs of sets of word runs."""
    found = [units(text) for text in texts]
    runs = [{tuple(w[i : i + length]) for i in range(max(1, len(w) - length + 1))} for w in found]
    group = list(range(len(texts)))
    for a, b in combinations(range(len(texts)), 2):
        if runs[a] & runs[b] and group[a] != group[b]:
            old, new = max(group[a], group[b]), min(group[a], group[b])
            group = [new if g == old else g for g in group]
    return group


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(list("abcdef")), min_size=1, max_size=9).map(" ".join), max_size=25))
def test_clusters_equal_brute_force(texts: list[str]) -> None:
    if texts:
        assert clusters(texts, length=4) == brute_force_clusters(texts, 4)


def test_clusters_look_through_case_and_punctuation() -> None:
    texts = [
        "One two, three four FIVE!",
        "well: one two three four five six",
        "one two three four",
        "Yes!",
        "yes 🔥",
        "🔥",
    ]
    assert clusters(texts, length=5) == [0, 0, 2, 3, 3, 5]


def test_runs_do_not_reach_into_the_next_tweet() -> None:
    assert clusters(["a b c", "d e f", "b c d e g"], length=4) == [0, 1, 2]


def test_split_is_stable_and_near_its_share() -> None:
    texts = made_up(2000)
    groups = clusters(texts, length=5)
    chosen = {texts[i] for i in choose_validation(texts, groups, fraction=0.1, seed=3)}
    assert len(chosen) == 200
    shuffled = random.Random(1).sample(texts, len(texts))
    again = choose_validation(shuffled, clusters(shuffled, length=5), fraction=0.1, seed=3)
    assert {shuffled[i] for i in again} == chosen  # the order of the file decides nothing
    fewer = texts[:1900]
    kept = {fewer[i] for i in choose_validation(fewer, clusters(fewer, length=5), fraction=0.1, seed=3)}
    assert len(kept & chosen) > 170  # nor do a few tweets more or less move the others
    other = {texts[i] for i in choose_validation(texts, groups, fraction=0.1, seed=4)}
    assert len(other & chosen) < 60


def near_copies(texts: list[str]) -> list[str]:
    """Each text, and copies with other case, marks, a word before, the end cut, a run of five quoted."""
    copies = []
    for text in texts:
        w = text.split()
        copies += [text, text.upper() + "!!", f"so {text}", " ".join(w[:6]), f"as said: {' '.join(w[2:7])} indeed"]
    return copies


def assert_no_leak(root: Path, length: int) -> None:
    """No validation text shares a run of words with training, or equals a text there; by sets, not by clusters."""
    corpus = load_processed(dataclasses.replace(CONFIG.paths, root=str(root)))

    def runs(text: str) -> set[tuple[str, ...]]:
        w = units(text) or [text]
        return {tuple(w[i : i + length]) for i in range(max(1, len(w) - length + 1))}

    train = set().union(*(runs(tweet.text) for tweet in corpus.train))
    assert corpus.val and not [tweet.text for tweet in corpus.val if runs(tweet.text) & train]
    normal = [normal_form(tweet.text) for tweet in (*corpus.train, *corpus.val)]
    assert len(set(normal)) == len(normal)
    share = len(corpus.val) / len(normal)
    assert 0.08 < share < 0.11


@pytest.mark.parametrize("seed", [0, 1])
def test_near_copies_never_cross_the_split(tmp_path: Path, seed: int) -> None:
    texts = near_copies(made_up(120))
    random.Random(seed).shuffle(texts)
    preprocess(config_for(tmp_path, write_csv(tmp_path / "t.csv", texts), split_seed=seed))
    assert_no_leak(tmp_path, 5)


@needs_sample
def test_sample_does_not_leak(tmp_path: Path) -> None:
    corpus = preprocess(config_for(tmp_path, SAMPLE))
    assert corpus.info["source"]["fiction"] is True
    assert_no_leak(tmp_path, 5)


@needs_real
def test_real_file_does_not_leak(tmp_path: Path) -> None:
    corpus = preprocess(config_for(tmp_path, str(REAL)))
    assert_no_leak(tmp_path, 5)
    assert corpus.info["source"]["fiction"] is False
    assert 4300 < len(corpus.train) + len(corpus.val) < 4550
    assert not [t.text for t in corpus.train if "https://" in t.text or t.text.endswith("…") or "&amp;" in t.text]


def test_split_by_time_takes_the_newest(tmp_path: Path) -> None:
    texts = made_up(200)
    dates = [f"2024-01-01 00:{i // 60:02}:{i % 60:02}+00:00" for i in range(200)]
    texts[199] = f"and {texts[5]}"  # the newest, but a near-copy of an old one: it stays in training
    corpus = preprocess(config_for(tmp_path, write_csv(tmp_path / "t.csv", texts, dates), split="time"))
    assert [tweet.text for tweet in corpus.val] == [f"{text}." for text in texts[179:199]]


def test_split_by_time_needs_dates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dates"):
        preprocess(config_for(tmp_path, write_csv(tmp_path / "t.csv", made_up(100)), split="time"))


@pytest.mark.parametrize(
    "text", ["2018-10-10 20:19:24+00:00", "2018-10-10T20:19:24Z", "Wed Oct 10 20:19:24 +0000 2018", "1539202764"]
)
def test_dates(text: str) -> None:
    assert parse_date(text) == 1539202764.0
    assert parse_date("1539202764000") == 1539202764.0
    assert parse_date("yesterday") is None and parse_date(None) is None


def test_copies_leave_one_and_prefer_the_whole_one(tmp_path: Path) -> None:
    cut = f"{LONG} bro… {TCO}"
    texts = [*made_up(60), "Hello, there", "hello THERE!", "HELLO there 🙂", cut, LONG]
    corpus = preprocess(config_for(tmp_path, write_csv(tmp_path / "t.csv", texts)))
    tweets = {tweet.text: tweet.finished for tweet in (*corpus.train, *corpus.val)}
    assert tweets["Hello, there."] and "hello THERE!" not in tweets and "HELLO there 🙂" in tweets
    assert tweets[f"{LONG}."] and LONG not in tweets


def test_load_gives_back_what_preprocess_made(tmp_path: Path) -> None:
    texts = [*made_up(80), f"{LONG} bro… {TCO}", 'quote " comma , done', "🚀 to\nthe moon"]
    config = config_for(tmp_path, write_csv(tmp_path / "t.csv", texts))
    made = preprocess(config)
    assert load_processed(config.paths) == made
    lines = config.paths.processed_txt.read_text(encoding="utf-8").split("\n")[:-1]
    info = json.loads(config.paths.processed_json.read_text(encoding="utf-8"))
    assert [lines[i] for i in info["validation"]] == [tweet.text for tweet in made.val]
    held = set(info["validation"])
    assert [line for i, line in enumerate(lines) if i not in held] == [tweet.text for tweet in made.train]
    assert made.train[-3:] == [made.train[n] for n in range(len(made.train) - 3, len(made.train))]
    assert [t.text for t in (*made.train, *made.val) if not t.finished] == [LONG]
    assert [lines[i] for i in info["unfinished"]] == [LONG]
    assert info["source"]["rows"] == 83 and info["settings"]["split_seed"] == 0
    assert info["rules"][-1]["kept"] == len(lines) == info["split"]["train"] + info["split"]["val"]


def test_half_a_pair_is_never_read(tmp_path: Path) -> None:
    config = config_for(tmp_path, write_csv(tmp_path / "t.csv", made_up(80)))
    with pytest.raises(UserError, match=r"processed.txt is missing.*main.py preprocess"):
        load_processed(config.paths)
    preprocess(config)
    whole = config.paths.processed_txt.read_bytes(), config.paths.processed_json.read_bytes()
    config.paths.processed_txt.write_bytes(whole[0][:-10])
    with pytest.raises(UserError, match="changed or half-written"):
        load_processed(config.paths)
    config.paths.processed_txt.write_bytes(whole[0])
    config.paths.processed_json.write_bytes(whole[1][:-10])
    with pytest.raises(UserError, match="broken"):
        load_processed(config.paths)
    config.paths.processed_json.unlink()
    with pytest.raises(UserError, match=r"processed.json is missing"):
        load_processed(config.paths)


def test_too_few_tweets_overwrite_nothing(tmp_path: Path) -> None:
    good = config_for(tmp_path, write_csv(tmp_path / "good.csv", made_up(80)))
    preprocess(good)
    before = good.paths.processed_txt.read_bytes(), good.paths.processed_json.read_bytes()
    for texts in (made_up(49), ["the same text"] * 1000, ["RT @x: not mine"] * 100):
        with pytest.raises(UserError, match=r"usable tweets of .* rows, and 50 are needed"):
            preprocess(config_for(tmp_path, write_csv(tmp_path / "few.csv", texts)))
    copies = [f"one two three four five {i}" for i in range(80)]
    with pytest.raises(UserError, match="near-copies"):
        preprocess(config_for(tmp_path, write_csv(tmp_path / "copies.csv", copies)))
    assert (good.paths.processed_txt.read_bytes(), good.paths.processed_json.read_bytes()) == before


@pytest.mark.parametrize("command", [["main.py", "preprocess"], ["-m", "utils.preprocess"]])
def test_commands(tmp_path: Path, command: list[str]) -> None:
    path = write_csv(tmp_path / "t.csv", made_up(100))
    done = subprocess.run(
        [sys.executable, *command, "--data.path", str(path), "--paths.root", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("90 train + 10 validation tweets\n") and done.stdout.count("\n") == 1
    for part in ("100 rows", "column 'text'", "punctuate", "duplicates", "no text on both sides"):
        assert part in done.stderr
