"""Texts and files that other tools wrote in ways of their own: decoded, or refused by name with what to do."""

import dataclasses
import json
import random
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.cli import parse
from config.schema import UserError
from utils import sources
from utils.preprocess import preprocess
from utils.source import Post, Source
from utils.unescape import find_decoder

CONFIG, _ = parse("preprocess", [])
ROOT = Path(__file__).parents[1]
WORDS = "lamp river orange window quiet morning paper engine garden seven bridge yellow stone market"


def plain(count: int) -> list[str]:
    """Different sentences, which share no five words in a row but by a rare chance."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS.split(), k=9)) for _ in range(count)]


SAID = [f"The quiet lamp number {i} says “naïve” things\nand it’s late 🚀" for i in range(60)]


def read(path: Path | str, **data: Any) -> Source:
    return sources.read_posts(str(path), dataclasses.replace(CONFIG.data, **data))


def texts_of(source: Source) -> list[str]:
    return [post.text for post in source.posts]


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WRITERS = {
    "Python bytes": lambda text: repr(text.encode()),
    "JSON in JSON": lambda text: json.dumps(text),
    "JSON without its quotes": lambda text: json.dumps(text)[1:-1],
    "a Python string": lambda text: ascii(text),
    "HTML": lambda text: "<p>" + text.replace("\n", "<br />") + "</p>",
}


@pytest.mark.parametrize("how", WRITERS)
def test_texts_written_in_a_way_of_their_own(tmp_path: Path, how: str) -> None:
    written = [WRITERS[how](text) for text in SAID]
    source = read(save(tmp_path / "t.json", json.dumps([{"id": 1, "text": text} for text in written])))
    assert texts_of(source) == SAID
    assert any("decoded" in note or "HTML" in note for note in source.notes)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=3, max_size=9))
def test_bytes_literals_give_their_text(texts: list[str]) -> None:
    decoder = find_decoder([repr(text.encode()) for text in texts])
    assert decoder is not None and [decoder[0](repr(text.encode())) for text in texts] == texts


@pytest.mark.parametrize(
    "texts",
    [
        [r"¯\_(ツ)_/¯", r"C:\new\table is a path", "plain", "more"] * 10,
        ["b'quoted", "a b'c'", "he said 'b'"] * 10,
        ["1 < 2 and 3 > 2", "<3 you all", "a <b> c"] * 10,
        ["one \\n in a hundred", *["nothing here"] * 99],
    ],
)
def test_ordinary_texts_are_left_alone(texts: list[str]) -> None:
    assert find_decoder(texts) is None


def test_r_writes_code_points() -> None:
    decoder = find_decoder(["It<U+2019>s late", "a rocket <U+0001F680>", "more"])
    assert decoder is not None and decoder[0]("It<U+2019>s <U+0001F680>") == "It’s 🚀"


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1\x15\x00", "is a Parquet file: convert it"),
        (b"SQLite format 3\0" + bytes(50), "is an SQLite database: export"),
        (b"%PDF-1.7 and more", "is a PDF: copy"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel or Word file: save it as CSV"),
        (b"<!DOCTYPE html>\n<html>", "is a web page or XML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "is a web page or XML"),
        (b"{\\rtf1\\ansi", "is an RTF document"),
        (b"[{'text': 'hello', 'likes': 3}]", "holds Python's own notation, not JSON"),
        (b"{u'text': u'hello'}\n{u'text': u'more'}", "holds Python's own notation, not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "only a pointer"),
        (b"\x1f\x8b\x08 not really packed", "is damaged"),
        ("Сегодня хороший день.\n".encode("cp1251") * 30, r"set data.encoding \(it may be cp1251"),
        ("本日は晴天なり。\n".encode("cp932") * 30, "set data.encoding .*cp932"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("t.csv", "t"):
        with pytest.raises(UserError, match=message) as caught:
            texts_of(read(save(tmp_path / name, content)))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_tar_archive_is_named(tmp_path: Path) -> None:
    save(tmp_path / "t.csv", "text\nhello\n")
    for mode in ("w", "w:gz"):
        with tarfile.open(tmp_path / "t.tar", mode) as archive:
            archive.add(tmp_path / "t.csv", "t.csv")
        with pytest.raises(UserError, match="is a tar archive: unpack it"):
            read(tmp_path / "t.tar")


def test_a_stray_nul_is_left_out_and_told(tmp_path: Path) -> None:
    lines = [f"1,Line number {i} of the file{chr(0) if i == 3 else ''}" for i in range(40)]
    source = read(save(tmp_path / "t.csv", "\n".join(["id,text", *lines])))
    assert texts_of(source) == [f"Line number {i} of the file" for i in range(40)]
    assert source.notes == ["1 NUL characters are left out"]


@pytest.mark.parametrize("encoding", ["cp1251", "gb18030", "cp932"])
def test_a_named_encoding_is_used(tmp_path: Path, encoding: str) -> None:
    text = {"cp1251": "Сегодня хороший день", "gb18030": "今天天气很好啊", "cp932": "本日は晴天なり"}[encoding]
    path = save(tmp_path / "t.txt", (text + "\n").encode(encoding) * 20)
    assert texts_of(read(path, encoding=encoding)) == [text] * 20


def test_a_column_is_refused_where_there_are_none(tmp_path: Path) -> None:
    path = save(tmp_path / "t.txt", "one line\nanother line\n")
    with pytest.raises(UserError, match=r"t.txt is plain text, without columns: leave data.column \('body'\) out"):
        read(path, column="body")


def test_tables_and_json_by_standard_input(tmp_path: Path) -> None:
    texts = plain(70)
    table = "\n".join(["number;What was said;day", *(f"{i};{text};2021-01-01" for i, text in enumerate(texts))])
    lines = "\n".join(json.dumps({"body": text}) for text in texts)
    for content, kind, column in ((table, "csv", "What was said"), (lines, "jsonl", "body")):
        command = [sys.executable, "main.py", "preprocess", "--data.path", "-", "--paths.root", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, input=content, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert f"Read standard input: {kind}, 70 rows, utf-8, column {column!r}" in done.stderr


def test_null_on_the_command_line_is_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"null does not exist: .* leave it out for the default tweets"):
        read("null")


# What a source knows of its posts ---------------------------------------------------------------------------------


def test_counts_that_are_named_as_flags_are_no_flags(tmp_path: Path) -> None:
    rows = [f"Lamp number {i} is quiet,{i % 7}" for i in range(60)]
    source = read(save(tmp_path / "t.csv", "\n".join(["text,retweet", *rows])))
    assert not any(post.retweet for post in source.posts)
    objects = [{"text": f"Lamp number {i} is quiet", "retweet": i % 7} for i in range(60)]
    assert not any(post.retweet for post in read(save(tmp_path / "t.json", json.dumps(objects))).posts)


LONG = "A long story about a lamp. " * 20
DAY = datetime(2023, 5, 3, tzinfo=UTC).timestamp()
BLUE = {"uri": "at://x", "record": {"text": "Blue lamp", "createdAt": "2023-05-03T00:00:00Z"}, "likeCount": 9}
WEB = {"full_text": f"{LONG[:270]}…", "favorite_count": 3}
API = {"text": "Hello lamp", "public_metrics": {"like_count": 5}, "created_at": "2023-05-03T00:00:00.000Z"}
RECORDS: list[tuple[dict[str, Any], Post]] = [
    ({"data": [API], "includes": {"users": []}}, Post("Hello lamp", DAY, likes=5)),
    ({"data": API}, Post("Hello lamp", DAY, likes=5)),
    ({"text": "RT", "referenced_tweets": [{"type": "retweeted", "id": "1"}]}, Post("RT", retweet=True)),
    ({"text": "hm", "referenced_tweets": [{"type": "replied_to", "id": "1"}]}, Post("hm")),
    ({"text": f"{LONG[:270]}…", "note_tweet": {"text": LONG}}, Post(LONG)),
    ({"text": f"{LONG[:130]}…", "truncated": True, "extended_tweet": {"full_text": LONG}}, Post(LONG)),
    ({"legacy": WEB, "note_tweet": {"note_tweet_results": {"result": {"text": LONG}}}}, Post(LONG, likes=3)),
    ({"rawContent": "A thread", "retweetedTweet": None, "likeCount": 2}, Post("A thread", likes=2)),
    ({"rawContent": "A thread", "retweetedTweet": {"id": 3, "rawContent": "x"}}, Post("A thread", retweet=True)),
    ({"content": "<p>Hello <b>lamp</b></p>", "reblog": None, "favourites_count": 4}, Post("Hello lamp", likes=4)),
    ({"feed": [{"post": BLUE}]}, Post("Blue lamp", DAY, likes=9)),
    (
        {"tweet": "Quiet lamp", "date": "2023-05-03", "nlikes": "12", "retweet": False},
        Post("Quiet lamp", DAY, likes=12),
    ),
]


@pytest.mark.parametrize(("record", "post"), RECORDS)
def test_what_tools_write(tmp_path: Path, record: dict[str, Any], post: Post) -> None:
    one, listed, pretty = json.dumps(record), json.dumps([record]), json.dumps(record, indent=1)
    for name, content in (("t.jsonl", one), ("t.json", listed), ("t", pretty)):
        assert list(read(save(tmp_path / name, content)).posts) == [post]


def test_posts_whose_end_is_missing_are_counted(tmp_path: Path) -> None:
    objects = [{"text": f"{i} {LONG[:120]}…", "truncated": i < 3} for i in range(5)]
    source = read(save(tmp_path / "t.json", json.dumps(objects)))
    assert len(list(source.posts)) == 5
    assert source.notes == ["3 posts are cut short, and their whole text is not in this file"]


def config_for(root: Path, path: Path, **data: Any) -> Any:
    return dataclasses.replace(
        CONFIG,
        paths=dataclasses.replace(CONFIG.paths, root=str(root)),
        data=dataclasses.replace(CONFIG.data, path=str(path), **data),
    )


def test_filters_say_what_they_could_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = ["lots,?" if i % 20 == 0 else "lots,f" if i % 10 == 0 else "500,f" for i in range(100)]
    rows = [f"{text},{mark}" for text, mark in zip(plain(100), marks, strict=True)]
    path = save(tmp_path / "t.csv", "\n".join(["text,Like Count,isRetweet", *rows]))
    preprocess(config_for(tmp_path, path, min_likes=100))
    told = capsys.readouterr().err
    likes = "data.min_likes: 10 posts have no number of likes that can be read, such as 'lots' (column 'Like Count')"
    assert f"{likes}: left out" in told
    mark = "data.drop_retweets: 5 posts have no retweet mark that can be read, such as '?' (column 'isRetweet')"
    assert f"{mark}: kept" in told


def table(path: Path, header: str, cell: str) -> Path:
    """A CSV of 80 texts, each with the same cell beside it."""
    return save(path, "\n".join([header, *(f"{text},{cell}" for text in plain(80))]))


def test_errors_name_the_rule_and_the_columns(tmp_path: Path) -> None:
    message = r"dropped: 80 by drop_retweets, from column 'is_retweet'; the text is column 'body'"
    with pytest.raises(UserError, match=message):
        preprocess(config_for(tmp_path, table(tmp_path / "t.csv", "body,is_retweet", "yes")))
    message = r"no post here has a date \(column 'date' has none that can be read\): unset it"
    with pytest.raises(UserError, match=message):
        preprocess(config_for(tmp_path, table(tmp_path / "t.csv", "body,date", "soon"), since="2020-01-01"))
    same = save(tmp_path / "same.csv", "\n".join(["body", *(f"Lamp {i} is as quiet as ever" for i in range(80))]))
    with pytest.raises(UserError, match=r"form 1 clusters of near-copies .*; the text is column 'body'"):
        preprocess(config_for(tmp_path, same))


def test_a_rule_that_takes_nearly_all_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{text},{'f' if i % 15 == 0 else 't'}" for i, text in enumerate(plain(1500))]
    preprocess(config_for(tmp_path, save(tmp_path / "t.csv", "\n".join(["text,isRetweet", *rows]))))
    assert "drop_retweets, from column 'isRetweet', left out 93% of the rows" in capsys.readouterr().err
