"""JSON, TXT, standard input, filters, privacy: exactly the expected tweets, or one line that says why not."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from config.cli import parse
from config.schema import Config, UserError
from utils import sources
from utils.clean import Cleaner
from utils.preprocess import preprocess
from utils.source import Source

CONFIG, _ = parse("preprocess", [])
ROOT = Path(__file__).parents[1]
TEXTS = [f'Post {i}: "quotes" \\ backslash, ünï{chr(0x1F680)} &amp; [brackets] {{braces}}\nline two' for i in range(7)]


def read_posts(path: Path | str, **data: Any) -> Source:
    return sources.read_posts(str(path), dataclasses.replace(CONFIG.data, **data))


def texts_of(source: Source) -> list[str]:
    return [post.text for post in source.posts]


def config_for(root: Path, path: Path | str, **data: Any) -> Config:
    return dataclasses.replace(
        CONFIG,
        paths=dataclasses.replace(CONFIG.paths, root=str(root)),
        data=dataclasses.replace(CONFIG.data, path=str(path), **data),
    )


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [json.dumps({"id": i, "full_text": text, "created_at": "2024-01-01"}) for i, text in enumerate(TEXTS)]
    lines[3:3] = ["{broken", "", '{"id": 5}']
    path.write_text("\n".join(lines), encoding="utf-8")
    source = read_posts(path)
    assert texts_of(source) == TEXTS
    assert source.notes == [
        "left out 1 lines that are not JSON",
        "left out 1 objects without text under 'full_text'",
    ]
    assert source.column == "full_text" and source.rows == 8


def test_json_and_unknown_names(tmp_path: Path) -> None:
    objects = [{"who": "ann", "body": f"A longer text it is, number {i}", "when": 1} for i in range(9)]
    (tmp_path / "t.json").write_text(json.dumps(objects), encoding="utf-8")
    source = read_posts(tmp_path / "t.json")
    assert texts_of(source) == [entry["body"] for entry in objects] and source.column == "body"
    (tmp_path / "no_ending").write_text("\n".join(json.dumps(entry) for entry in objects), encoding="utf-8")
    assert texts_of(read_posts(tmp_path / "no_ending")) == [entry["body"] for entry in objects]
    assert texts_of(read_posts(tmp_path / "t.json", column="who")) == ["ann"] * 9
    (tmp_path / "t.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    assert texts_of(read_posts(tmp_path / "t.json")) == TEXTS


@pytest.mark.parametrize(
    ("content", "separator", "expected"),
    [
        ("one\ntwo\n\nthree\n", "line", ["one", "two", "three"]),
        ("one\ntwo\n\nthree\n", "blank", ["one\ntwo", "three"]),
        ("one\ntwo\n\nthree\r\n \r\nfour", "auto", ["one\ntwo", "three", "four"]),
        ("one\ntwo\nthree", "auto", ["one", "two", "three"]),
        ("\n".join(f"line {i}" for i in range(50)) + "\n\nlast", "auto", [*(f"line {i}" for i in range(50)), "last"]),
        ("a, b\nc, d\n", "auto", ["a, b", "c, d"]),
    ],
)
def test_txt(tmp_path: Path, content: str, separator: str, expected: list[str]) -> None:
    path = tmp_path / "t.txt"
    path.write_text(content, encoding="utf-8", newline="")
    source = read_posts(path, separator=separator)
    assert texts_of(source) == expected and source.rows == len(expected)


def plain(count: int, seed: int = 0) -> list[str]:
    """Different sentences of made-up words."""
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(8)) for _ in range(count)]


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_standard_input(tmp_path: Path, kind: str) -> None:
    text = ("text\n" if kind == "csv" else "") + "\n".join(plain(100))
    command = [sys.executable, "main.py", "preprocess", "--data.path", "-", "--paths.root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"Read standard input: {kind}, 100 rows" in done.stderr
    assert done.stdout.endswith("90 train + 10 validation tweets\n")
    empty = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, check=False, timeout=60)
    assert empty.returncode == 1
    assert empty.stderr == "error: standard input is empty: there is nothing to learn from\n"


# Filters, privacy, what was dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"replies": False}, lambda i: i % 10 != 0),
        ({"min_likes": 150}, lambda i: i >= 150),
        ({"since": "2021-10-10", "until": "2021-10-20"}, lambda i: 10 <= i % 28 + 1 < 20),
        ({"languages": ["EN"]}, lambda i: i % 2 == 1),
        ({"languages": ["de"], "min_likes": 20, "replies": False}, lambda i: i % 2 == 0 and i >= 20 and i % 10 != 0),
    ],
)
def test_filters(tmp_path: Path, data: dict[str, Any], kept: Any) -> None:
    texts = plain(200)
    tweets = [
        {
            "text": f"@ann {text}" if i % 10 == 0 else text,
            "favorite_count": str(i),
            "created_at": f"Wed Oct {i % 28 + 1:02} 20:19:24 +0000 2021",
            "lang": "en" if i % 2 else "de",
        }
        for i, text in enumerate(texts)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, tweets)), encoding="utf-8")
    corpus = preprocess(config_for(tmp_path, path, **data))
    assert {t.text for t in (*corpus.train, *corpus.val)} == {f"{text}." for i, text in enumerate(texts) if kept(i)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"min_likes": 3}, "data.min_likes is set, but no post here has a number of likes"),
        ({"since": "2021-10-10"}, "data.since/until is set, but no post here has a date"),
        ({"languages": ["en"]}, "data.languages is set, but no post here has a language"),
    ],
)
def test_filters_that_cannot_work_say_so(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_text("\n".join(plain(100)), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        preprocess(config_for(tmp_path, tmp_path / "a.txt", **data))


@pytest.mark.parametrize(
    "flags",
    [
        ["--data.since", "yesterday"],
        ["--data.since", "2021-02-30"],
        ["--data.since", "2022-01-01", "--data.until", "2021-01-01"],
        ["--data.min_likes", "-1"],
        ["--data.separator", "comma"],
    ],
)
def test_bad_filter_settings_are_refused(flags: list[str]) -> None:
    with pytest.raises(UserError, match=flags[-2].removeprefix("--")):
        parse("preprocess", flags)


@pytest.mark.parametrize(
    ("raw", "masked"),
    [
        ("mail ann.lee+x@mail.example.co.uk, please", "mail [email], please."),
        ("call +44 20 7946 0958 or +1 (555) 123-4567", "call [phone] or [phone]."),
        ("call (555) 123-4567 or 555.123.4567 or 5551234567", "call [phone] or [phone] or [phone]."),
        ("call 020 7946 0958 now", "call [phone] now."),
        ("I live at 12 Elm Street, near 221B Old Mill Rd.", "I live at [address], near [address]."),
        ("Hauptstraße 5 in Bonn", "[address] in Bonn."),
        ("chez 12 rue de Rivoli", "chez [address]."),
        ("@ann hello", "hello."),
        # What only looks like it
        ("from 2020-2021 to 2022-07-05", "from 2020-2021 to 2022-07-05."),
        ("1,000,000 cars, 3.14159265 and 100 000 units", "1,000,000 cars, 3.14159265 and 100 000 units."),
        ("$1200000000 and 1200000000%", "$1200000000 and 1200000000%."),
        ("5 minutes down the road, 2 way street", "5 minutes down the road, 2 way street."),
        ("sold 10 @ 5 today", "sold 10 @ 5 today."),
    ],
)
def test_private_data_is_masked(raw: str, masked: str) -> None:
    cleaner = Cleaner(dataclasses.replace(CONFIG.data, drop_mentions=False), private=True)
    once = cleaner.clean(raw)
    assert once.text == masked
    assert cleaner.clean(once.text).text == masked


def test_long_runs_take_linear_time() -> None:
    cleaner = Cleaner(CONFIG.data, private=True)
    start = time.perf_counter()
    for run in (
        "a",
        "1",
        "0 ",
        "A b ",
        ",",
        "@a",
        "&amp;",
        "(",
        "https://",
        "#1",
        ".",
        "é",
        "12 Aaa ",
        "+1 ",
        "…",
        "<|endoftext|>",
    ):
        cleaner.clean(run * (100_000 // len(run)) + "@x")
    assert time.perf_counter() - start < 10  # about 1 s; a rule that looks back and back again would take minutes


def test_show_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [*plain(80), *(f"RT @ann: dropped number {i}" for i in range(9)), "k"]
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    preprocess(config_for(tmp_path, tmp_path / "a.txt", show_dropped=3))
    told = capsys.readouterr().err
    assert "Dropped by drop_retweets (3 of 9):" in told and "RT @ann: dropped number 2" in told
    assert "RT @ann: dropped number 3" not in told and "Dropped by min_chars (1 of 1):" in told


def test_a_million_identical_rows(tmp_path: Path) -> None:
    count = 1_000_000 if os.environ.get("SLOW_TESTS") else 30_000
    (tmp_path / "same.txt").write_text("the very same words in every row\n" * count, encoding="utf-8")
    with pytest.raises(UserError, match=rf"has 1 usable tweets of {count:,} rows, and 50 are needed"):
        preprocess(config_for(tmp_path, tmp_path / "same.txt"))
    assert not (tmp_path / "data").exists()
