"""X (Twitter) archives, as downloaded (.zip) or unpacked: only their tweet files are opened, nothing is extracted."""

import codecs
import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from config.schema import UserError
from utils.read_json import json_array, json_post, unwrapped
from utils.source import Post, Source

TWEET_FILE = re.compile(r"(?:[^/]+/)?(?:data/)?tweets?(?:-part\d+)?\.js")
MAX_RATIO = 100  # tweets.js packs to about a tenth; a file that packs to a thousandth is a bomb
SMALL = 50_000_000  # bytes that do no harm, however well they pack
CHUNK = 1 << 20

Opener = Callable[[], AbstractContextManager[IO[bytes]]]


def read_archive(path: Path) -> Source:
    """An X archive, its folder, or one of its tweet files as a source of posts. Rows are tweets, retweets among them.

    Raises:
        UserError: it is no X archive, unsafe, damaged or cut short.
    """
    if path.is_dir():
        files = [
            p for folder in (path, path / "data") for p in sorted(folder.glob("*.js")) if TWEET_FILE.fullmatch(p.name)
        ]
        if not files:
            found = ", ".join(sorted(p.name for p in path.iterdir())[:4]) or "nothing"
            raise UserError(
                f"{path} is a folder without tweets.js or data/tweets.js (it holds {found}): name a file in it"
            )
        members: list[tuple[str, Opener]] = [(str(file), file_opener(file)) for file in files]
    elif path.suffix.casefold() == ".zip" or is_zip(path):
        members = zip_members(path)
    else:
        members = [(str(path), file_opener(path))]
    source = Source(str(path), "X archive", sha256="", bytes=0, column="full_text", private=True)
    source.posts = archive_posts(source, sorted(members, key=lambda member: natural(member[0])))
    return source


def is_zip(path: Path) -> bool:
    """Whether a file begins as a ZIP does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def file_opener(path: Path) -> Opener:
    """How to open a file on disk."""
    return lambda: path.open("rb")


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts part10 after part9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def zip_members(path: Path) -> list[tuple[str, Opener]]:
    """The tweet files of a ZIP.

    Raises:
        UserError: it cannot be read, holds no tweets, needs a password, or looks made to do harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is not a ZIP file that can be read ({error}): download the archive again") from None
    for name in (info.filename for info in listed):
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise UserError(f"{path} holds a path that climbs out of it ({name[:60]!r}): this is no archive from X")
    members = [info for info in listed if TWEET_FILE.fullmatch(info.filename)]
    if not members:
        raise UserError(f"{path} is not an X archive: it holds no data/tweets.js (nor tweet.js, tweets-part1.js)")
    if any(info.flag_bits & 1 for info in members):
        raise UserError(f"{path} is locked with a password: unpack it and give the folder")
    size, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if size > SMALL and size > MAX_RATIO * min(packed, path.stat().st_size):
        raise UserError(f"{path} unpacks from {packed:,} to {size:,} bytes: no real archive does, so it is not opened")
    return [(f"{path}:{info.filename}", partial(member, path, info)) for info in members]


@contextmanager
def member(path: Path, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """A file of a ZIP, which is open no longer than it is read."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        yield stream


def archive_posts(source: Source, members: list[tuple[str, Opener]]) -> Iterator[Post]:
    """The tweets of an archive's files; the source's hash is over the files' bytes, in order."""
    digest, strange = hashlib.sha256(), 0
    for name, opener in members:
        try:
            with opener() as stream:
                for value in json_array(text_chunks(stream, digest.update, source, name), name):
                    source.rows += 1
                    tweet = unwrapped(value) or {}
                    text = tweet.get("full_text", tweet.get("text"))
                    if isinstance(text, str):
                        yield json_post(tweet, text)
                    else:
                        strange += 1
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{name} is damaged ({error}): download the archive again") from None
    source.sha256 = digest.hexdigest()
    if strange:
        source.notes.append(f"left out {strange:,} entries that hold no tweet")


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
