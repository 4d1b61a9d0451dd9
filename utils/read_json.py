"""JSON, JSONL and TXT: one record after another, without holding the whole file."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from config.schema import UserError
from utils.source import SAMPLE_ROWS, Post, Scan, Source, find_text_column, make_post

LONGEST_VALUE = 1 << 26  # characters of one JSON value; no tweet has a thousandth of it
TXT_SAMPLE = 5_000  # lines looked at to tell how tweets are separated
BLOCK_LINES = 20  # blank lines separate tweets if they come at least this often

_ARRAY = re.compile(r"\s*(?:window\.YTD\.[\w.]+\s*=\s*)?\[")
_BETWEEN = re.compile(r"[\s,]*")


def json_array(chunks: Iterator[str], where: str) -> Iterator[Any]:
    """The values of a JSON array, one by one as its text arrives, also after the `window.YTD… =` of an X archive.

    Raises:
        UserError: there is no array, it is cut short, or a value of it is broken.
    """
    decoder, buffer, count = json.JSONDecoder(), "", 0
    while not (start := _ARRAY.match(buffer)) and len(buffer) < 1000 and (more := next(chunks, "")):
        buffer += more
    if start is None:
        raise UserError(f"{where} does not begin as a list of JSON objects: is it a tweets file?")
    position = start.end()
    while True:
        between = _BETWEEN.match(buffer, position)
        assert between is not None
        position = between.end()
        if buffer.startswith("]", position):
            return
        try:
            value, position = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError):
            # Not all here yet, or broken. Reading as much again each time keeps even a hostile file linear.
            rest, grown = buffer[position:], 0
            parts = [rest]
            while grown <= len(rest) and len(rest) < LONGEST_VALUE and (more := next(chunks, "")):
                parts.append(more)
                grown += len(more)
            if not grown:
                raise UserError(f"{where} is cut short or broken after {count:,} entries: get it again") from None
            buffer, position = "".join(parts), 0
            continue
        count += 1
        yield value


def unwrapped(value: Any) -> dict[str, Any] | None:
    """The tweet of an entry: {"tweet": {...}} or the object itself; a bare string is its text; else None."""
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict) and isinstance(value.get("tweet"), dict):
        value = value["tweet"]
    return value if isinstance(value, dict) else None


def json_post(record: dict[str, Any], text: str) -> Post:
    """A post from a JSON object."""
    return make_post(text, lambda names: next((record[name] for name in names if name in record), None))


def json_lines(file: Scan, notes: list[str]) -> Iterator[Any]:
    """The values of a JSONL file; lines that are no JSON are counted and left out."""
    broken = 0
    for line in file.lines():
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                broken += 1
    if broken:
        notes.append(f"left out {broken:,} lines that are not JSON")


def read_json(file: Scan, *, column: str | None, lines: bool) -> Source:
    """A JSONL file (one object a line) or a JSON array of objects as a source of posts."""
    source = file.source("jsonl" if lines else "json")
    values = json_lines(file, source.notes) if lines else json_array(file.lines(), str(file.path))
    records = (record for value in values if (record := unwrapped(value)) is not None)
    sample = list(islice(records, SAMPLE_ROWS))
    names = list(dict.fromkeys(name for record in sample for name in record))
    if not names:
        raise UserError(f"{file.path} holds no JSON objects with text")
    cells = [[cell if isinstance(cell := record.get(name), str) else "" for name in names] for record in sample]
    key = names[find_text_column(file.path, names, cells, column)]
    source.column = key
    source.posts = json_posts(chain(sample, records), key, source)
    return source


def json_posts(records: Iterable[dict[str, Any]], key: str, source: Source) -> Iterator[Post]:
    """The posts of JSON objects whose text lies under `key`; counts the objects that have none."""
    without = 0
    for record in records:
        source.rows += 1
        if isinstance(text := record.get(key), str):
            yield json_post(record, text)
        else:
            without += 1
    if without:
        source.notes.append(f"left out {without:,} objects without text under {key!r}")


def read_txt(file: Scan, *, separator: str) -> Source:
    """A plain text as a source of posts: a tweet a line, or tweets with blank lines between them."""
    if separator == "auto":
        sample = [bool(line.strip()) for line in islice(file.lines(), TXT_SAMPLE)]
        blocks = sum(now and not before for before, now in zip([False, *sample], sample, strict=False))
        separator = "blank" if blocks > 1 and sum(sample) <= BLOCK_LINES * blocks else "line"
    source = file.source("txt")
    source.notes.append("a tweet a line" if separator == "line" else "blank lines between tweets")
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
            yield make_post("".join(block).strip(), lambda names: None)
            block.clear()
