"""Plain text: a post a line, or posts with blank lines between them."""

from collections.abc import Iterator
from itertools import chain, islice

from utils.scan import Scan
from utils.source import Post, Source
from utils.unescape import find_decoder

TXT_SAMPLE = 5_000  # lines looked at to find out how posts are separated
BLOCK_LINES = 20  # blank lines separate posts if they come at least this often


def read_txt(file: Scan, *, separator: str) -> Source:
    """A plain text as a source of posts: a post a line, or posts with blank lines between them."""
    lines = [line.strip() for line in islice(file.lines(), TXT_SAMPLE)]
    if separator == "auto":
        full = [bool(line) for line in lines]
        blocks = sum(now and not before for before, now in zip([False, *full], full, strict=False))
        separator = "blank" if blocks > 1 and sum(full) <= BLOCK_LINES * blocks else "line"
    source = file.source("txt")
    source.notes.append("a tweet a line" if separator == "line" else "blank lines between tweets")
    if decoder := find_decoder(lines):
        source.decode, note = decoder
        source.notes.append(note)
    source.posts = txt_posts(file, source, by_line=separator == "line")
    return source


def txt_posts(file: Scan, source: Source, *, by_line: bool) -> Iterator[Post]:
    """The posts of a plain text."""
    block: list[str] = []
    for line in chain(file.lines(), [""]):
        if line.strip():
            block.append(line)
        if block and (by_line or not line.strip()):
            source.rows += 1
            yield source.post("".join(block).strip(), {})
            block.clear()
    source.finish()
