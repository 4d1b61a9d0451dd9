"""Archives of 2012 to 2018, long posts, and Mastodon's: exactly the expected posts, whole."""

import json
from pathlib import Path
from typing import Any

from config.cli import parse
from tests.archives import make_folder, make_zip
from utils import sources
from utils.source import Source

CONFIG, _ = parse("preprocess", [])
TEXTS = [f"Post {i} about a lamp & more\nand its second line" for i in range(7)]


def read_posts(path: Path) -> Source:
    return sources.read_posts(str(path), CONFIG.data)


def texts_of(source: Source) -> list[str]:
    return [post.text for post in source.posts]


def tweet(text: str, number: int) -> dict[str, Any]:
    """A tweet as X's archive has it."""
    return {"full_text": text, "id_str": str(number), "created_at": f"Wed Oct {number + 1:02} 20:19:24 +0000 2021"}


def tweets_js(tweets: list[dict[str, Any]]) -> bytes:
    """The bytes of a tweets.js."""
    return f"window.YTD.tweets.part0 = {json.dumps([{'tweet': entry} for entry in tweets])}".encode()


def grailbird(month: str, texts: list[str]) -> bytes:
    """A file of an archive of 2012 to 2018."""
    entries = [{"id_str": str(i), "text": t, "created_at": "2013-01-11 10:20:30 +0000"} for i, t in enumerate(texts)]
    return f"Grailbird.data.tweets_{month} = \n {json.dumps(entries, indent=1)}".encode()


OLD = {
    "data/js/tweets/2013_11.js": grailbird("2013_11", TEXTS[3:]),
    "data/js/tweets/2013_02.js": grailbird("2013_02", TEXTS[:3]),
    "data/js/user_details.js": b"var user_details = {}",
    "data/js/tweet_index.js": b"var tweet_index = []",
    "tweets.csv": b'tweet_id,timestamp,text\n1,2013-01-11 10:20:30 +0000,"only in the table"\n',
    "index.html": b"<html></html>",
}


def test_archives_of_2012_to_2018(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "archive", OLD)
    inner = make_zip(tmp_path / "inner.zip", {f"tweets/{name}": content for name, content in OLD.items()})
    places = [make_zip(tmp_path / "old.zip", OLD), inner, folder, folder / "data", folder / "data" / "js" / "tweets"]
    for place in places:
        source = read_posts(place)
        posts = list(source.posts)
        assert [post.text for post in posts] == TEXTS and posts[0].date == 1357899630.0
        assert source.private and source.column == "text"
    one = read_posts(folder / "data" / "js" / "tweets" / "2013_02.js")
    assert texts_of(one) == TEXTS[:3] and one.private
    table = read_posts(make_zip(tmp_path / "table.zip", {"tweets.csv": OLD["tweets.csv"], "index.html": b"<html>"}))
    assert texts_of(table) == ["only in the table"] and table.private and "tweets.csv" in table.notes[0]


STORY = "The lamp & the river talked <all> night about the garden, and nobody could say who had begun it. " * 5


def long_archive(notes: list[tuple[str, str]]) -> dict[str, bytes]:
    """An archive with a short tweet and a long one, and these long posts: (when, text)."""
    short = STORY[:270].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    tweets = [tweet("Short and whole", 1), {**tweet(f"@ann @bob {short}… {TCO}", 2)}]
    entries = [
        {"noteTweet": {"noteTweetId": str(i), "createdAt": when, "core": {"text": text, "urls": []}}}
        for i, (when, text) in enumerate(notes)
    ]
    return {
        "data/tweets.js": tweets_js(tweets),
        "data/note-tweet.js": f"window.YTD.note_tweet.part0 = {json.dumps(entries)}".encode(),
    }


TCO = "https://t.co/Ab12Cd34Ef"


def test_long_posts_get_their_whole_text(tmp_path: Path) -> None:
    files = long_archive(
        [
            ("2021-10-01T00:00:00.000Z", STORY[:60] + "but another day"),
            ("2021-10-03T20:19:24.000Z", "Something else, posted in the same second"),
            ("2021-10-03T20:19:24.000Z", f"@ann {STORY}"),
        ]
    )
    folder = make_folder(tmp_path / "archive", files)
    for place in (make_zip(tmp_path / "a.zip", files), folder, folder / "data", folder / "data" / "tweets.js"):
        source = read_posts(place)
        assert texts_of(source) == ["Short and whole", f"@ann {STORY}"]
        assert source.rows == 2 and source.notes == ["1 of 3 long posts were joined to their tweets"]


def test_long_posts_that_are_not_there_are_counted(tmp_path: Path) -> None:
    source = read_posts(make_zip(tmp_path / "a.zip", long_archive([("2021-10-01T00:00:00.000Z", STORY)])))
    assert texts_of(source)[1].endswith(TCO)
    assert "1 posts are cut short, and their whole text is not in this file" in source.notes


PUBLIC = "https://www.w3.org/ns/activitystreams#Public"


def activity(html: str, *, to: str = PUBLIC, kind: str = "Create") -> dict[str, Any]:
    """An entry of Mastodon's outbox.json."""
    post: Any = {"type": "Note", "content": html, "published": "2023-05-03T00:00:00Z", "contentMap": {"en": html}}
    return {
        "type": kind,
        "to": [to],
        "published": "2023-05-03T00:00:00Z",
        "object": post if html else "https://x.org/1",
    }


def test_mastodon(tmp_path: Path) -> None:
    entries = [
        activity('<p>Hello <a href="https://x.org">@<span>ann</span></a>, &amp; more<br>of it</p><p>End</p>'),
        activity("", kind="Announce"),
        activity("<p>Only for you</p>", to="https://x.org/ann"),
        activity("<p>A lamp is a lamp</p>"),
    ]
    outbox = json.dumps({"type": "OrderedCollection", "totalItems": 4, "orderedItems": entries}).encode()
    files = {"outbox.json": outbox, "actor.json": b'{"type": "Person", "summary": "text"}', "likes.json": b"{}"}
    folder = make_folder(tmp_path / "archive", files)
    for place in (make_zip(tmp_path / "a.zip", files), folder, folder / "outbox.json"):
        source = read_posts(place)
        posts = list(source.posts)
        assert [post.text for post in posts] == ["Hello @ann, & more\nof it\nEnd", "", "A lamp is a lamp"]
        assert [post.retweet for post in posts] == [False, True, False] and posts[0].language == "en"
        assert source.private and source.kind == "Mastodon archive" and source.path == str(place)
        assert "left out 1 posts that are not for everybody" in source.notes
