"""Reading: encodings, delimiters, columns, broken files; and where tweets come from when no path is given."""

import csv
import dataclasses
import io
import random
import socket
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.cli import parse
from config.schema import Config, UserError
from utils import kaggle, sources
from utils.kaggle import KAGGLE, default_path, download
from utils.source import Post, Source

CONFIG, _ = parse("preprocess", [])
TEXTS = [f"Tweet number {i}: it’s “fine” – café, naïve; 5 € | done" for i in range(40)]


def csv_text(rows: list[list[str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def read_posts(path: Path | str, **data: Any) -> Source:
    return sources.read_posts(str(path), dataclasses.replace(CONFIG.data, **data))


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def texts_of(source: Source) -> list[str]:
    return [post.text for post in source.posts]


@pytest.mark.parametrize(
    ("codec", "mark", "found"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8-sig", b"", "utf-8-sig"),
        ("cp1252", b"", "cp1252"),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
        ("utf-16-le", b"\xff\xfe", "utf-16"),
        ("utf-16-be", b"\xfe\xff", "utf-16"),
        ("utf-32", b"", "utf-32"),
    ],
)
def test_encodings_are_found(tmp_path: Path, codec: str, mark: bytes, found: str) -> None:
    content = csv_text([["text"], *[[text] for text in TEXTS]])
    source = read_posts(save(tmp_path / "t.csv", mark + content.encode(codec)))
    assert texts_of(source) == TEXTS
    assert source.encoding == found
    assert bool(source.notes) == (found == "cp1252")  # a guess is told


def test_utf16_of_other_scripts_is_found(tmp_path: Path) -> None:
    texts = [f"これは{i}番目のつぶやきです、とても長い文章" for i in range(40)]
    for codec in ("utf-16-le", "utf-16-be"):
        source = read_posts(
            save(tmp_path / "t.csv", csv_text([["id", "text"], *[["1", t] for t in texts]]).encode(codec))
        )
        assert (texts_of(source), source.encoding) == (texts, codec)


def test_latin1_bytes_and_undefined_ones(tmp_path: Path) -> None:
    source = read_posts(save(tmp_path / "t.csv", "text\ncaf\u00e9 one\nbad \x9d byte\n".encode("latin-1")))
    assert texts_of(source) == ["café one", "bad \x9d byte"]


def test_mixed_encodings_are_told(tmp_path: Path) -> None:
    content = b"text\n" + "".join(f"{t}\n" for t in TEXTS).encode() + "it’s café".encode("cp1252") + b"\n"
    source = read_posts(save(tmp_path / "t.csv", content))
    assert texts_of(source)[-1] == "it’s café"
    assert texts_of(read_posts(tmp_path / "t.csv"))[0] == TEXTS[0]
    assert "2 bytes are not UTF-8" in source.notes[0]


def test_encoding_by_setting(tmp_path: Path) -> None:
    path = save(tmp_path / "t.csv", "text\nПривет, мир\n".encode("cp1251"))
    assert texts_of(read_posts(path, encoding="cp1251")) == ["Привет, мир"]
    with pytest.raises(UserError, match=r"set data\.encoding"):
        texts_of(read_posts(path, encoding="utf-8"))
    with pytest.raises(UserError, match="no such encoding"):
        read_posts(path, encoding="klingon")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "date", "text"], *[[str(i), "2024-01-01", text] for i, text in enumerate(TEXTS)]]
    source = read_posts(save(tmp_path / "t.csv", csv_text(rows, delimiter)))
    assert texts_of(source) == TEXTS and source.rows == 40 and not source.notes


@pytest.mark.parametrize(
    ("header", "column"),
    [
        (["id", "text", "tweet"], "text"),
        (["tweet", "id", "note"], "tweet"),
        (["id", "Full_Text ", "user"], "Full_Text"),
        (["content", "id", "user"], "content"),
        (["id", "body", "user"], "body"),  # no known name: the longest
    ],
)
def test_text_column_is_found(tmp_path: Path, header: list[str], column: str) -> None:
    known = [name.strip() for name in header].index(column)
    rows = [["12345678901234567890123456789012345678901234567890", "Ann Example", "x"] for _ in TEXTS]
    for row, text in zip(rows, TEXTS, strict=True):
        row[known] = text
    source = read_posts(save(tmp_path / "t.csv", csv_text([header, *rows])))
    assert (source.column, texts_of(source)) == (column, TEXTS)


def test_text_column_by_setting(tmp_path: Path) -> None:
    path = save(tmp_path / "t.csv", csv_text([["text", "body"], *[["no", text] for text in TEXTS]]))
    assert texts_of(read_posts(path, column="Body")) == TEXTS
    with pytest.raises(UserError, match=r"no column 'boddy' \(data.column\); it has: text \(no\); body \(Tweet"):
        read_posts(path, column="boddy")


def test_files_without_a_header(tmp_path: Path) -> None:
    rows = [[str(i), f"2024-01-{i % 28 + 1:02}", text] for i, text in enumerate(TEXTS)]
    source = read_posts(save(tmp_path / "t.csv", csv_text(rows)))
    assert texts_of(source) == TEXTS and source.rows == 40


def test_one_column_without_quotes(tmp_path: Path) -> None:
    source = read_posts(save(tmp_path / "t.csv", "text\nHello, world, again\nOne\n\nTwo, three\n"))
    assert texts_of(source) == ["Hello, world, again", "One", "Two, three"]


def test_what_the_filters_need(tmp_path: Path) -> None:
    rows = [
        ["text", "date", "is_retweet", "favorites", "lang", "is_reply"],
        ["hello there", "2024-01-01", "False", "12", "en", "0"],
        ["RT this", "2024-01-02", "True", "3.0", "de", "1"],
    ]
    assert list(read_posts(save(tmp_path / "t.csv", csv_text(rows))).posts) == [
        Post("hello there", 1704067200.0, False, False, 12, "en"),
        Post("RT this", 1704153600.0, True, True, 3, "de"),
    ]
    reply = next(read_posts(save(tmp_path / "u.csv", "id,text\n1,@you indeed\n")).posts)
    assert reply.reply and reply.likes is None


def test_newlines_and_quotes_inside_cells(tmp_path: Path) -> None:
    texts = ['say "hi",\nthen, go\n\nnow', "a, b, c\nd, e, f", "plain"] * 20
    rows = [["id", "x", "text", "y"], *[["1", "u", text, "v"] for text in texts]]
    source = read_posts(save(tmp_path / "t.csv", csv_text(rows)))
    assert texts_of(source) == texts and not source.notes


def broken_file(path: Path, bad_line: str, count: int) -> Path:
    lines = [f'{i},"Fine, number {i} of many",2024' for i in range(count)]
    lines[10] = bad_line
    return save(path, "\n".join(["id,text,date", *lines]) + "\n")


@pytest.mark.parametrize(
    ("bad_line", "expected"),
    [
        ('10,"An open quote that never ends,2024', "An open quote that never ends"),
        ('10,A 5" screen and a "word",2024', 'A 5" screen and a "word"'),
        ('10,"She said "hello" to us",2024', 'She said hello" to us"'),
        ("10,no quotes, yet a comma,2024", "no quotes, yet a comma"),
    ],
)
def test_broken_quotes_cost_one_row_at_most(tmp_path: Path, bad_line: str, expected: str) -> None:
    source = read_posts(broken_file(tmp_path / "t.csv", bad_line, 3000))
    texts = texts_of(source)
    assert len(texts) == source.rows == 3000
    assert texts[9] == "Fine, number 9 of many" and texts[11] == "Fine, number 11 of many"
    assert texts[10] == expected


def test_many_open_quotes_stay_linear(tmp_path: Path) -> None:
    lines = [f'{i},"open quote {i} never ends' if i % 2 else f"{i},plain text {i}" for i in range(20000)]
    source = read_posts(save(tmp_path / "t.csv", "id,text\n" + "\n".join(lines)))
    start = time.perf_counter()
    assert len(texts_of(source)) == 20000
    assert time.perf_counter() - start < 10
    assert "rows have broken quotes" in source.notes[0]


def test_short_rows_are_told(tmp_path: Path) -> None:
    source = read_posts(save(tmp_path / "t.csv", "id,text,date\n1,hello one,2024\n2\n3,hello three\n"))
    assert texts_of(source) == ["hello one", "hello three"]
    assert source.notes == ["2 rows have too few cells"] and source.rows == 3


def test_ten_megabytes_in_one_row(tmp_path: Path) -> None:
    big = "word and word, " * 700_000
    source = read_posts(save(tmp_path / "t.csv", csv_text([["id", "text"], ["1", big], ["2", "small one"]])))
    assert [len(text) for text in texts_of(source)] == [len(big), 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: check data.path"),
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 9, "binary"),
        (random.Random(0).randbytes(5000), "binary"),
        (b"id,text\n", "has a header and no rows"),
        (b"id,count\n1,2\n3,4\n", r"no column of text: name one with data.column; it has: id \(1\); count \(2\)"),
        (b"id,date\n1,2022-07-05 17:55:09+00:00\n2,2022-07-05 17:55:09+00:00\n", "no column of text"),
    ],
)
def test_bad_files_get_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        save(path, content)
    with pytest.raises(UserError, match=message) as caught:
        texts_of(read_posts(path))
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=400), st.text(alphabet='a,;"\n\r\t|é ', max_size=200).map(str.encode)))
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes) -> None:
    try:
        for post in read_posts(save(tmp_path / "t.csv", content)).posts:
            assert isinstance(post.text, str)
    except UserError as error:
        assert "\n" not in str(error)


# Where tweets come from when no path is given --------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """An empty working folder and root, an empty kagglehub cache, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setattr(kaggle, "reachable", lambda: False)
    return dataclasses.replace(CONFIG, paths=dataclasses.replace(CONFIG.paths, root=str(tmp_path / "root")))


def fill_cache(folder: Path, version: int) -> None:
    """What kagglehub leaves behind after a download: the files, and a mark that they are whole."""
    owner, name = KAGGLE.split("/")
    base = folder / "cache" / "datasets" / owner / name
    (base / "versions" / str(version)).mkdir(parents=True)
    (base / "versions" / str(version) / "tweets.csv").write_text(f"text\nversion {version}\n", encoding="utf-8")
    (base / f"{version}.complete").touch()


def test_own_file_comes_first(nowhere: Config, tmp_path: Path) -> None:
    fill_cache(tmp_path, 1)
    (tmp_path / "data").mkdir()
    save(tmp_path / "data" / "elon_tweets.csv", "text\nhi\n")
    assert default_path(nowhere) == Path("data/elon_tweets.csv")
    nowhere.paths.data.mkdir(parents=True)
    own = save(nowhere.paths.data / "elon_tweets.csv", "text\nhi\n")
    assert default_path(nowhere) == own


def test_then_kaggle_from_the_cache(nowhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_cache(tmp_path, 9)
    fill_cache(tmp_path, 10)
    path = default_path(nowhere)
    assert path == nowhere.paths.data / "elon_tweets.csv"
    assert path.read_text(encoding="utf-8") == "text\nversion 10\n"
    told = capsys.readouterr()
    assert KAGGLE in told.err and "no account" in told.err and not told.out


def test_then_the_sample(
    nowhere: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kaggle, "SAMPLE", save(tmp_path / "sample_tweets.csv", "text\nhi\n"))
    assert default_path(nowhere) == tmp_path / "sample_tweets.csv"
    told = capsys.readouterr().err
    assert f"https://www.kaggle.com/datasets/{KAGGLE}" in told and "invented" in told


def test_download_says_what_to_do_without_network(nowhere: Config) -> None:
    with pytest.raises(
        UserError, match=r"cannot be reached.*download https://www.kaggle.com.* save it as .*elon_tweets"
    ):
        download(nowhere, Namespace())
    assert not nowhere.paths.data.exists()


def test_download_from_the_cache(nowhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_cache(tmp_path, 3)
    download(nowhere, Namespace())
    assert capsys.readouterr().out == f"{nowhere.paths.data / 'elon_tweets.csv'}: 15 bytes\n"


def test_a_download_that_fails_is_one_line(nowhere: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    import kagglehub

    def fail(handle: str) -> str:
        raise RuntimeError(f"no {handle}\ntoday")

    monkeypatch.setattr(kaggle, "reachable", lambda: True)
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    with pytest.raises(UserError, match=rf"did not download \(RuntimeError: no {KAGGLE} today\)"):
        download(nowhere, Namespace())


def test_no_network_is_noticed_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setattr(kaggle, "KAGGLE_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        assert not kaggle.reachable()
        assert time.perf_counter() - start < 3


def test_reading_imports_no_heavy_library() -> None:
    code = "import sys, utils.sources, utils.source; print({'torch', 'pandas', 'kagglehub', 'ftfy'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
