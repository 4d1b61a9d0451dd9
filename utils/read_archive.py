"""Archives of an account: of X (Twitter) and Mastodon, as downloaded (.zip) or unpacked; and a file in a ZIP.

Only the files with posts are opened, nothing is extracted.
"""

import codecs
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config.schema import UserError
from utils.clean import decode_entities, squeeze
from utils.dates import parse_date
from utils.fields import find_roles
from utils.read_json import flattened, json_array, records_of
from utils.scan import CHUNK, DAMAGED, MAX_RATIO, SMALL, Content, file_content
from utils.source import Post, Source

TWEETS = re.compile(r"(?:[^/]+/)?(?:data/)?tweets?(?:-part\d+)?\.js")
NOTES = re.compile(r"(?:[^/]+/)?(?:data/)?note-tweets?(?:-part\d+)?\.js")
MONTHLY = re.compile(r"(?:[^/]+/)?(?:data/)?(?:js/)?(?:tweets/)?\d{4}_\d{2}\.js")  # archives of 2012 to 2018
OLD_TABLE = re.compile(r"(?:[^/]+/)?tweets\.csv")  # which they have beside it
OUTBOX = re.compile(r"(?:[^/]+/)?outbox\.json")  # Mastodon's
DATA = re.compile(r"(?!__MACOSX/)(?:.*/)?[^/.][^/]*\.(?:csv|tsv|jsonl?|ndjson)(?:\.gz)?", re.IGNORECASE)
TEXTS = re.compile(r"(?!__MACOSX/)(?!.*read.?me|.*licen[cs]e)(?:.*/)?[^/.][^/]*\.(?:txt|text)", re.IGNORECASE)
OFFICE = {
    "xl/": "an Excel workbook: save it as CSV (UTF-8)",
    "word/": "a Word document: save it as plain text",
    "ppt/": "a PowerPoint file: copy its text into a TXT file",
    "content.xml": "an OpenDocument file: save it as CSV or plain text",
    "Index/": "a file of Numbers or Pages: export it as CSV or plain text",
}
BEGINNING = 40  # characters of a long post that it has in common with its short form
TOGETHER = 2.0  # seconds that the two may lie apart
SHORTENED = 250  # characters: a tweet of an archive that is shorter was never cut


def archive_members(path: Path) -> tuple[str, list[Content]]:
    """What to read of a folder: the kind of archive that it is, and its files with posts.

    Raises:
        UserError: it holds none.
    """
    folders = (path, path / "data", path / "js", *(path / part / "tweets" for part in ("data/js", "js", ".")))
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
    found = choose_members({file.relative_to(path).as_posix(): file_content(file) for file in files}, tables=False)
    if found is None:
        holds = ", ".join(sorted(p.name for p in path.iterdir())[:4]) or "nothing"
        raise UserError(f"{path} is a folder without tweets.js or data/tweets.js (it holds {holds}): name a file in it")
    return found


def zip_members(content: Content) -> tuple[str, list[Content]]:
    """The same of a ZIP, which may also hold one file of posts.

    Raises:
        UserError: it cannot be read, holds no posts, needs a password, or looks made to do harm.
    """
    name = content.name
    try:
        with content.open() as stream, zipfile.ZipFile(stream) as archive:
            listed = archive.infolist()
    except (*DAMAGED, OSError, ValueError) as error:
        raise UserError(f"{name} is not a ZIP file that can be read ({error}): download the archive again") from None
    for info in listed:
        if re.match(r"[/\\]|[A-Za-z]:", info.filename) or ".." in re.split(r"[/\\]", info.filename):
            raise UserError(f"{name} holds a path that climbs out of it ({info.filename[:60]!r}): this is no archive")
    names = {info.filename for info in listed}
    if what := next((OFFICE[start] for start in OFFICE if any(part.startswith(start) for part in names)), None):
        raise UserError(f"{name} is {what}")
    infos = {info.filename: info for info in listed if not info.is_dir()}
    found = choose_members({part: member(content, info) for part, info in infos.items()}, tables=True)
    if found is None:
        holds = ", ".join(sorted(PurePosixPath(part).name for part in infos)[:4]) or "nothing"
        raise UserError(
            f"{name} is not an X archive: it holds no data/tweets.js (nor tweet.js, outbox.json, nor one file of "
            f"posts, but {holds}): unpack it, and give the file with the posts"
        )
    chosen = [infos[part.name.removeprefix(f"{name}:")] for part in found[1]]
    if any(info.flag_bits & 1 for info in chosen):
        raise UserError(f"{name} is locked with a password: unpack it and give the folder")
    size, packed = sum(info.file_size for info in chosen), sum(info.compress_size for info in chosen)
    if size > SMALL and size > MAX_RATIO * min(packed, content.size):
        raise UserError(f"{name} unpacks from {packed:,} to {size:,} bytes: no real archive does, so it is not opened")
    return found


def member(content: Content, info: zipfile.ZipInfo) -> Content:
    """A file of a ZIP, which is open no longer than it is read."""

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with content.open() as packed, zipfile.ZipFile(packed) as archive, archive.open(info) as stream:
            yield stream

    return Content(f"{content.name}:{info.filename}", opened, info.compress_size)


def choose_members(files: dict[str, Content], *, tables: bool) -> tuple[str, list[Content]] | None:
    """The files with posts among those of an archive, in order, and what they are.

    That is "X archive", or one file: "own file" in another account's archive, "file" where it may be anybody's.

    Args:
        files: by their paths in the archive.
        tables: whether one table among other files will do.
    """

    def matching(*patterns: re.Pattern[str]) -> list[str]:
        return sorted((name for name in files if any(p.fullmatch(name) for p in patterns)), key=natural)

    if found := matching(TWEETS) or matching(MONTHLY):
        return "X archive", [files[name] for name in (*found, *matching(NOTES))]
    kinds = [("own file", OUTBOX), ("own file", OLD_TABLE)]
    for kind, pattern in [*kinds, ("file", DATA), ("file", TEXTS)] if tables else kinds:
        if len(one := matching(pattern)) == 1:
            return kind, [files[one[0]]]
    return None


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts part10 after part9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def with_notes(path: Path) -> list[Content]:
    """A tweets.js that is given by its name, with the files of long posts beside it."""
    beside = sorted(file for file in path.parent.iterdir() if NOTES.fullmatch(file.name) and file != path)
    return [file_content(file) for file in (path, *(beside if TWEETS.fullmatch(path.name) else ()))]


def read_archive(name: str, members: list[Content]) -> Source:
    """An X archive's files of tweets as a source of posts. Rows are tweets, retweets among them.

    Raises:
        UserError: while it is read: a file is damaged or cut short.
    """
    source = Source(name, "X archive", sha256="", bytes=0, column="full_text", private=True)
    notes = [part for part in members if NOTES.search(part.name)]
    source.posts = archive_posts(source, [part for part in members if part not in notes], notes)
    return source


class LongPosts:
    """The whole texts of long posts, which X keeps apart; found by when they were posted and how they begin."""

    def __init__(self, records: Iterator[dict[str, Any]]) -> None:
        self.by_beginning: dict[str, list[tuple[float | None, str]]] = {}
        self.count = 0
        for record in records:
            if isinstance(text := record.get("text"), str):
                self.count += 1
                entry = (parse_date(record.get("created_at")), text)
                self.by_beginning.setdefault(beginning(text), []).append(entry)
        self.used: set[str] = set()

    def whole(self, text: str, date: object) -> str | None:
        """The whole text of a tweet, or None."""
        if not self.by_beginning:
            return None
        when = parse_date(str(date))
        for posted, long in self.by_beginning.get(beginning(text), ()):
            if when is None or posted is None or abs(when - posted) <= TOGETHER:
                self.used.add(long)
                return long
        return None


def beginning(text: str) -> str:
    """How a post begins, without the names it answers and however its characters are escaped."""
    return squeeze(re.sub(r"^(?:@\w+\s+)+", "", decode_entities(text).strip()))[:BEGINNING]


def archive_posts(source: Source, members: list[Content], notes: list[Content]) -> Iterator[Post]:
    """The tweets of an archive's files; the source's hash is over the files' bytes, in order."""
    digest, strange = hashlib.sha256(), 0
    long_posts = LongPosts(record for part in notes for record in archive_records(part, source, digest.update))
    source.rows = 0
    for part in members:
        for tweet in archive_records(part, source, digest.update):
            text = tweet.get("full_text", tweet.get("text"))
            if not isinstance(text, str):
                strange += 1
                continue
            found = {role: tweet[name] for role, name in find_roles(tweet).items()}
            if whole := long_posts.whole(text, tweet.get("created_at")):
                found["long"] = whole
            elif len(text) > SHORTENED and re.search(r"…(?:\s*https://t\.co/\w+)?$", text):
                found["truncated"] = True
            if not source.columns:
                source.columns = find_roles(tweet)
                source.column = "full_text" if "full_text" in tweet else "text"
            yield source.post(text, found)
    source.sha256 = digest.hexdigest()
    if strange:
        source.notes.append(f"left out {strange:,} entries that hold no tweet")
    if notes:
        source.notes.append(f"{len(long_posts.used):,} of {long_posts.count:,} long posts were joined to their tweets")
    source.finish()


def archive_records(part: Content, source: Source, hash_bytes: Callable[[bytes], None]) -> Iterator[dict[str, Any]]:
    """The entries of one file of an archive; each counts as a row of the source.

    Raises:
        UserError: the file is damaged or cut short.
    """
    try:
        with part.open() as stream:
            for value in json_array(text_chunks(stream, hash_bytes, source, part.name), part.name):
                source.rows += 1
                yield flattened(next(records_of(value), {}))
    except DAMAGED as error:
        raise UserError(f"{part.name} is damaged ({error}): download the archive again") from None


def text_chunks(stream: IO[bytes], hash_bytes: Callable[[bytes], None], source: Source, name: str) -> Iterator[str]:
    """The stream's text, piece by piece; every byte is counted and hashed."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while chunk := stream.read(CHUNK):
            hash_bytes(chunk)
            source.bytes += len(chunk)
            if text := decoder.decode(chunk):
                yield text
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 at byte {source.bytes:,} ({error.reason}): get the archive again"
        ) from None
