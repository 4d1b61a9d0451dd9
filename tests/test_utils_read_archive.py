"""X archives in all their shapes give exactly the expected tweets; broken and hostile ones, one line."""

import dataclasses
import io
import json
import random
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.cli import parse
from config.schema import Config, UserError
from tests.archives import make_folder, make_zip
from utils import sources
from utils.clean import Cleaner
from utils.preprocess import preprocess
from utils.read_json import json_array
from utils.source import Post, Source

CONFIG, _ = parse("preprocess", [])


def read_posts(path: Path | str, **data: Any) -> Source:
    return sources.read_posts(str(path), dataclasses.replace(CONFIG.data, **data))


def texts_of(source: Source) -> list[str]:
    return [post.text for post in source.posts]


def config_for(root: Path, path: Path | str | list[str], **data: Any) -> Config:
    where = path if isinstance(path, list) else str(path)
    return dataclasses.replace(
        CONFIG,
        paths=dataclasses.replace(CONFIG.paths, root=str(root)),
        data=dataclasses.replace(CONFIG.data, path=where, **data),
    )


def tweet(text: str, number: int = 0) -> dict[str, Any]:
    """A tweet object as X's archive has it: every number is a string."""
    return {
        "edit_info": {"initial": {"editTweetIds": [str(number)], "editsRemaining": "5", "isEditEligible": True}},
        "retweeted": False,
        "source": '<a href="https://mobile.twitter.com" rel="nofollow">Twitter Web App</a>',
        "entities": {"hashtags": [], "symbols": [], "user_mentions": [], "urls": []},
        "display_text_range": ["0", str(len(text))],
        "favorite_count": str(number),
        "id_str": str(1500000000000000000 + number),
        "truncated": False,
        "retweet_count": "0",
        "id": str(1500000000000000000 + number),
        "created_at": f"Wed Oct {number % 28 + 1:02} 20:19:24 +0000 2021",
        "favorited": False,
        "full_text": text,
        "lang": "en" if number % 2 else "de",
    }


def tweets_js(tweets: list[dict[str, Any]], *, prefix: str = "tweets", part: int = 0, wrapped: bool = True) -> bytes:
    """The bytes of a tweets.js: a JavaScript assignment around a pretty-printed list."""
    entries = [{"tweet": entry} for entry in tweets] if wrapped else tweets
    return f"window.YTD.{prefix}.part{part} = {json.dumps(entries, indent=2, ensure_ascii=False)}".encode()


TEXTS = [f'Post {i}: "quotes" \\ backslash, ünï{chr(0x1F680)} &amp; [brackets] {{braces}}\nline two' for i in range(7)]
TWEETS = [tweet(text, i) for i, text in enumerate(TEXTS)]
SHAPES: dict[str, dict[str, bytes]] = {
    "new": {"data/tweets.js": tweets_js(TWEETS)},
    "old": {"tweet.js": tweets_js(TWEETS, prefix="tweet", wrapped=False)},
    "old, wrapped, in data": {"data/tweet.js": tweets_js(TWEETS, prefix="tweet")},
    "parts": {
        "data/tweets.js": tweets_js(TWEETS[:2]),
        "data/tweets-part1.js": tweets_js(TWEETS[2:5], part=1),
        "data/tweets-part2.js": tweets_js(TWEETS[5:], part=2),
    },
    "in a folder": {"twitter-2024-05-01-abc/data/tweets.js": tweets_js(TWEETS)},
    "byte-order mark": {"data/tweets.js": b"\xef\xbb\xbf" + tweets_js(TWEETS)},
    "one line": {"data/tweets.js": b"window.YTD.tweets.part0=" + json.dumps([{"tweet": t} for t in TWEETS]).encode()},
}
# What else an archive holds, and must not be read: opening any of it would raise.
OTHERS = {
    "data/deleted-tweets.js": b"window.YTD.deleted_tweets.part0 = [broken",
    "data/direct-messages.js": b"window.YTD.direct_messages.part0 = [broken",
    "data/tweets_media/photo.jpg": b"\xff\xd8\xff" + bytes(200),
    "data/tweet-headers.js": b"window.YTD.tweet_headers.part0 = [broken",
    "Your archive.html": b"<html></html>",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_zips(tmp_path: Path, shape: str) -> None:
    source = read_posts(make_zip(tmp_path / "archive.zip", {**OTHERS, **SHAPES[shape]}))
    assert sorted(texts_of(source)) == TEXTS
    assert source.private and source.rows == 7 and source.kind == "X archive"
    assert source.bytes == sum(map(len, SHAPES[shape].values())) and len(source.sha256) == 64


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "in a folder"])
def test_folders(tmp_path: Path, shape: str) -> None:
    folder = make_folder(tmp_path / "archive", {**OTHERS, **SHAPES[shape]})
    assert sorted(texts_of(read_posts(folder))) == TEXTS
    zipped = read_posts(make_zip(tmp_path / "archive.zip", SHAPES[shape]))
    same = read_posts(folder)
    assert texts_of(same) == texts_of(zipped) and same.sha256 == zipped.sha256


def test_the_data_folder_or_the_file_itself_will_do(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "archive", SHAPES["new"])
    assert texts_of(read_posts(folder / "data")) == TEXTS
    assert texts_of(read_posts(folder / "data" / "tweets.js")) == TEXTS
    (folder / "data" / "tweets.js").rename(folder / "no_ending")
    assert texts_of(read_posts(folder / "no_ending")) == TEXTS  # told by its content
    assert texts_of(read_posts(make_zip(tmp_path / "zip_without_ending", SHAPES["new"]))) == TEXTS


def test_what_an_archive_tells_of_a_tweet(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"data/tweets.js": tweets_js([tweet("@ann yes", 3), tweet("RT @bob: no", 4)])})
    assert list(read_posts(path).posts) == [
        Post("@ann yes", 1633378764.0, False, True, 3, "en"),
        Post("RT @bob: no", 1633465164.0, False, False, 4, "de"),
    ]


def zip_with(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def damaged_zip() -> bytes:
    whole = bytearray(
        zip_with({"data/tweets.js": tweets_js([tweet(f"text {random.Random(i).random()}", i) for i in range(300)])})
    )
    whole[len(whole) // 2] ^= 0xFF
    return bytes(whole)


def locked_zip() -> bytes:
    whole = bytearray(zip_with(SHAPES["new"]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + offset] |= 1  # the flag that says "encrypted"
    return bytes(whole)


NEW = tweets_js(TWEETS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"", "is empty"),
        ("a.zip", b"PK\x03\x04 not really a zip", "not a ZIP file that can be read"),
        ("a.zip", zip_with(SHAPES["new"])[:-40], "not a ZIP file that can be read"),
        (
            "a.zip",
            zip_with({"photo.jpg": b"x", "more/notes.doc": b"x"}),
            r"not an X archive: it holds no data/tweets.js .*, but notes.doc, photo.jpg\)",
        ),
        ("a.xlsx", zip_with({"xl/workbook.xml": b"x"}), "a.xlsx is an Excel workbook: save it as CSV"),
        ("a.zip", zip_with({**SHAPES["new"], "../../etc/evil": b"x"}), "climbs out"),
        ("a.zip", zip_with({**SHAPES["new"], "/etc/evil": b"x"}), "climbs out"),
        ("a.zip", zip_with({**SHAPES["new"], "C:\\evil": b"x"}), "climbs out"),
        ("a.zip", damaged_zip(), "damaged|broken"),
        ("a.zip", locked_zip(), "locked with a password"),
        ("a.zip", zip_with({"data/tweets.js": NEW[:-200]}), "cut short or broken after 6 entries"),
        ("a.zip", zip_with({"data/tweets.js": b""}), "does not begin as a list"),
        ("tweets.js", NEW[: len(NEW) // 2], "cut short or broken after 3 entries"),
        ("tweets.js", b"alert('hello')", "does not begin as a list"),
        ("tweets.js", NEW.replace("ünï".encode(), b"\xfc"), "is not UTF-8"),
        ("tweets.js", b"window.YTD.tweets.part0 = [" + b"[" * 100_000, "cut short or broken after 0 entries"),
        ("a.json", b'[{"text": "one"}, {"text": "tw', "cut short or broken after 1 entries"),
        ("a.json", b"[1, 2, 3]", "no JSON objects with text"),
        ("a.jsonl", b"not json\nat all\n", "no JSON objects with text"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n', "no column of text"),
        ("a.txt", b"", "is empty"),
        ("a.txt", bytes(range(256)) * 10, "binary"),
        ("a.unknown", b"\x00\x01\x02" * 100, "binary"),
    ],
)
def test_bad_files_get_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        texts_of(read_posts(path))
    assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if (descriptors := Path("/proc/self/fd")).is_dir():  # Linux; `caught` keeps alive whatever was left open
        assert path not in [link.resolve() for link in descriptors.iterdir()]


def test_a_folder_without_tweets(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("hi", encoding="utf-8")
    with pytest.raises(UserError, match=r"without tweets.js or data/tweets.js \(it holds notes.doc\)"):
        read_posts(tmp_path)


def test_a_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data/tweets.js", "w") as member:
        member.write(b"window.YTD.tweets.part0 = [")
        for _ in range(64):
            member.write(b" " * (1 << 20))
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"unpacks from .* to 67,108,891 bytes"):
        read_posts(path)
    assert time.perf_counter() - start < 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=20), st.integers(), st.none()), max_size=4),
            st.text(max_size=10),
            st.lists(st.floats(allow_nan=False), max_size=3),
        ),
        max_size=12,
    ),
    st.integers(1, 40),
    st.sampled_from(["", "window.YTD.tweets.part0 = ", " \n"]),
)
def test_json_arrays_equal_the_whole_parse(values: list[Any], size: int, prefix: str) -> None:
    text = prefix + json.dumps(values, indent=1)
    chunks = iter([text[i : i + size] for i in range(0, len(text), size)])
    assert list(json_array(chunks, "here")) == values


def test_a_broken_value_costs_linear_time() -> None:
    text = '[{"text": "' + "x" * 8_000_000
    chunks = iter([text[i : i + 1000] for i in range(0, len(text), 1000)])
    start = time.perf_counter()
    with pytest.raises(UserError, match="cut short"):
        list(json_array(chunks, "here"))
    assert time.perf_counter() - start < 5


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["a.zip", "a.js", "a.json", "a.jsonl", "a.txt", "a.tsv", "a"]),
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=100).map(str.encode),
        st.text(alphabet='[]{}",:\\ \n\tatex1', max_size=100).map(str.encode),
        st.binary(max_size=60).map(lambda tail: b"window.YTD.tweets.part0 = [" + tail),
        st.binary(max_size=60).map(lambda tail: b"PK\x03\x04" + tail),
    ),
)
def test_no_bytes_crash_a_reader(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    cleaner = Cleaner(CONFIG.data, private=True)
    try:
        for post in read_posts(path).posts:
            cleaned = cleaner.clean(post.text)
            assert cleaner.clean(cleaned.text, finished=cleaned.finished).text == cleaned.text
    except UserError as error:
        assert "\n" not in str(error)


# With other sources, and privacy -----------------------------------------------------------------------------------


def plain(count: int, seed: int = 0) -> list[str]:
    """Different sentences of made-up words."""
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(8)) for _ in range(count)]


def test_several_paths_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(plain(60, 1)), encoding="utf-8")
    (tmp_path / "b.csv").write_text("text\n" + "\n".join([*plain(40, 2), *plain(10, 1)]), encoding="utf-8")
    archive = make_zip(tmp_path / "c.zip", {"data/tweets.js": tweets_js([tweet("mail me at ann@example.com now")])})
    corpus = preprocess(config_for(tmp_path, [str(tmp_path / "a.txt"), str(tmp_path / "b.csv"), str(archive)]))
    assert {t.text for t in (*corpus.train, *corpus.val)} == {f"{t}." for t in plain(60, 1) + plain(40, 2)} | {
        "mail me at [email] now."
    }
    facts = corpus.info["source"]
    assert facts["rows"] == 111 and [file["kind"] for file in facts["files"]] == ["txt", "csv", "X archive"]


def test_masking_is_on_for_archives_and_a_setting_elsewhere(tmp_path: Path) -> None:
    texts = [*plain(80), "write to ann@example.com about it"]
    archive = make_zip(tmp_path / "a.zip", {"data/tweets.js": tweets_js([tweet(text) for text in texts])})
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")

    def masked(path: Path, **data: Any) -> tuple[bool, int]:
        corpus = preprocess(config_for(tmp_path, path, **data))
        counts = {line["rule"]: line["changed"] for line in corpus.info["rules"]}
        return any("[email]" in t.text for t in (*corpus.train, *corpus.val)), counts.get("mask_emails", -1)

    assert masked(archive) == (True, 1)
    assert masked(archive, mask_private=False) == (False, -1)
    assert masked(tmp_path / "a.txt") == (False, -1)
    assert masked(tmp_path / "a.txt", mask_private=True) == (True, 1)
