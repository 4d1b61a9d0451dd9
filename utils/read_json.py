"""JSON and JSONL in the shapes that tools write: lists, pages, tables, one record after another."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from config.schema import UserError
from utils.dates import find_day_first, in_numbers
from utils.fields import SAMPLE_ROWS, TEXT_NAMES, find_roles, find_text_column, is_count_column, plain
from utils.scan import Scan
from utils.source import Post, Source
from utils.unescape import find_decoder

LONGEST_VALUE = 1 << 26  # characters of one value of a list; no post has a thousandth of it
DEEPEST = 6  # wrappers inside wrappers
PUBLIC = "https://www.w3.org/ns/activitystreams#Public"  # to whom Mastodon's public posts go

# Fields of an object that hold the posts of a page, and those that hold the post of a wrapper.
PAGES = ("orderedItems", "data", "tweets", "statuses", "posts", "items", "results", "feed", "records", "entries")
WRAPPERS = ("tweet", "post", "status", "record", "legacy", "object", "value", "result", "node", "attributes", "data")
SURE_NAMES = TEXT_NAMES[: TEXT_NAMES.index("message")]  # an object with a text of such a name is a post, not a page

_ARRAY = re.compile(r"\s*(?:(?:window\.YTD|Grailbird\.data)\.[\w.]+\s*=\s*)?\[")
_WITH_DIGIT = re.compile(r"^\w*\d\w*$")
_BETWEEN = re.compile(r"[\s,]*")


def json_array(chunks: Iterator[str], where: str) -> Iterator[Any]:
    """The values of a JSON array, one by one as its text arrives, also after the `window.YTD… =` of an X archive.

    Raises:
        UserError: there is no array, it is cut short, or a value of it is broken.
    """
    decoder, buffer, count = json.JSONDecoder(strict=False), "", 0
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
            buffer, position = after_list(buffer[position + 1 :], chunks, where), 1
            if not buffer:
                return
            continue
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


def after_list(rest: str, chunks: Iterator[str], where: str) -> str:
    """The text from the next list on, where pages were put one after another; "" at the end.

    Raises:
        UserError: something else follows.
    """
    rest = rest.lstrip("; \r\n\t")
    while not rest and (more := next(chunks, "")):
        rest = more.lstrip("; \r\n\t")
    if rest and not rest.startswith("["):
        raise UserError(f"{where} goes on after its list ({rest[:20]!r}): give the list alone")
    return rest


def json_values(file: Scan) -> Iterator[Any]:
    """The values of a JSON file: those of its list, or one after another."""
    chunks = file.chunks()
    first = next((chunk for chunk in chunks if chunk.strip()), "")
    if first.lstrip().startswith("["):
        yield from json_array(chain([first], chunks), file.name)
        return
    decoder, text, position = json.JSONDecoder(strict=False), "".join(chain([first], chunks)), 0
    while (between := _BETWEEN.match(text, position)) and (position := between.end()) < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            place = f"line {1 + text.count(chr(10), 0, position):,}"
            raise UserError(f"{file.name} is cut short or broken in the value at {place}: get it again") from None
        yield value


def json_lines(file: Scan, notes: list[str]) -> Iterator[Any]:
    """The values of a JSONL file; lines that are no JSON are counted and left out."""
    decoder, broken = json.JSONDecoder(strict=False), 0
    for line in file.lines():
        if line.strip():
            try:
                yield decoder.decode(line.strip().rstrip(","))
            except (ValueError, RecursionError):
                broken += 1
    if broken:
        notes.append(f"left out {broken:,} lines that are not JSON")


def records_of(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The posts in a value: itself, what it wraps, or the many that it is a page or a table of."""
    if isinstance(value, str):
        yield {"text": value}
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from records_of(item, depth + 1)
    elif isinstance(value, list):
        yield {f"column {i + 1}": cell for i, cell in enumerate(value)}
    elif isinstance(value, dict):
        page = next((value[name] for name in PAGES if isinstance(value.get(name), list) and value[name]), None)
        if depth > DEEPEST or has_text(value, SURE_NAMES):
            yield value
        elif page is not None and isinstance(value.get("columns"), list):  # pandas: orient="split"
            yield from (dict(zip(map(str, value["columns"]), row, strict=False)) for row in page)
        elif page is not None and all(isinstance(item, dict | str) for item in page):
            for item in page:
                yield from records_of(item, depth + 1)
        elif table := as_table(value):
            yield from table
        elif value and all(is_page(cell) for cell in value.values()):  # pages under their years, say
            for cell in value.values():
                yield from records_of(cell, depth + 1)
        elif (inside := unwrapped(value)) is value or has_text(value, TEXT_NAMES):
            yield value
        else:
            yield from records_of(inside, depth + 1)


def is_page(value: Any) -> bool:
    """Whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def has_text(record: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether an object holds a text under one of these names."""
    return any(isinstance(cell, str) and plain(name) in names for name, cell in record.items())


def as_table(value: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The rows of a table that is written column by column, or row by row under their names; none if it is no table."""
    columns, named = list(value.values()), bool({plain(name) for name in value} & set(TEXT_NAMES))
    if named and all(isinstance(column, dict) for column in columns):  # pandas: orient="columns"
        keys = list(dict.fromkeys(key for column in columns for key in column))
        if all(key.isdecimal() for key in keys):
            return [{name: value[name].get(key) for name in value} for key in keys]
    elif named and all(isinstance(column, list) for column in columns):
        return [dict(zip(value, row, strict=False)) for row in zip(*columns, strict=False)]
    if columns and all(isinstance(column, dict) and has_text(column, TEXT_NAMES) for column in columns):
        return columns  # pandas: orient="index"
    if len(columns) > 1 and all(isinstance(text, str) for text in columns) and all(map(_WITH_DIGIT.search, value)):
        return [{"text": text} for text in columns]  # texts under their ids
    return ()


def unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """The post inside a wrapper, or the value itself; what is said beside it comes with it."""
    if value.get("type") in ("Announce", "Create") and "object" in value:
        return from_activity(value)
    note = value.get("noteTweet")
    if isinstance(note, dict) and isinstance(note.get("core"), dict):  # of an X archive's note-tweet.js
        return {"text": note["core"].get("text"), "created_at": note.get("createdAt")}
    names = WRAPPERS if len(value) > 1 else value
    inner = next((value[name] for name in names if isinstance(value.get(name), dict)), None)
    if inner is None:
        return value
    beside = {key: cell for key, cell in value.items() if key == "note_tweet" or not isinstance(cell, dict | list)}
    return {**beside, **inner}


def from_activity(activity: dict[str, Any]) -> dict[str, Any]:
    """A post of ActivityPub's: what Mastodon's outbox.json holds."""
    post = activity["object"] if isinstance(activity["object"], dict) else {}
    seen_by = [*listed(activity.get("to")), *listed(activity.get("cc"))]
    public = not seen_by or PUBLIC in seen_by or "as:Public" in seen_by
    return {
        "activity": activity["type"] if public else "not public",
        "content": post.get("content") or "",
        "published": post.get("published") or activity.get("published"),
        "is_retweet": activity["type"] == "Announce",
        "language": next(iter(post["contentMap"]), None) if isinstance(post.get("contentMap"), dict) else None,
    }


def listed(value: Any) -> list[Any]:
    """A value that may be a list or one thing."""
    return value if isinstance(value, list) else [value] if value else []


def flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, and those of its objects with dots: public_metrics.like_count."""
    flat = dict(record)
    for name, inner in record.items():
        if isinstance(inner, dict) and len(inner) == 1 and (key := next(iter(inner))).startswith("$"):
            flat[name] = inner[key]  # MongoDB: {"$date": ...}
        elif isinstance(inner, dict):
            flat |= {f"{name}.{key}": cell for key, cell in inner.items()}
            results = inner.get("note_tweet_results")  # as X's web page has long posts
            result = results.get("result") if isinstance(results, dict) else None
            if isinstance(result, dict) and isinstance(result.get("text"), str):
                flat["note_tweet.text"] = result["text"]
    return flat


def shown(cell: Any) -> str:
    """A cell as it is listed in a message."""
    if isinstance(cell, list | dict):
        return f"a list of {len(cell)}" if isinstance(cell, list) else "an object"
    return "" if cell is None else str(cell)


def read_json(file: Scan, *, column: str | None, lines: bool) -> Source:
    """JSONL (one value a line) or JSON (a list, or one value after another) as a source of posts.

    Raises:
        UserError: it holds no objects, or none with text.
    """
    source = file.source("jsonl" if lines else "json")

    def records(notes: list[str]) -> Iterator[dict[str, Any]]:
        for value in json_lines(file, notes) if lines else json_values(file):
            yield from map(flattened, records_of(value))

    reading = records(source.notes)
    sample = list(islice(reading, SAMPLE_ROWS))
    names = list(dict.fromkeys(name for record in sample for name in record))
    if not names:
        raise UserError(f"{file.name} holds no JSON objects with text")
    key = names[find_key(file.name, names, sample, column)]
    source.column = key
    if any("activity" in record for record in sample):
        source.kind, source.private = "Mastodon archive", True
    look_into(source, sample, lambda name: (record.get(name) for record in records([])))
    source.posts = json_posts(chain(sample, reading), source)
    return source


def find_key(where: str, names: list[str], sample: list[dict[str, Any]], column: str | None) -> int:
    """Position of the field that holds the text: among those with text, so that others are only listed."""
    cells = {name: [record[name] for record in sample if record.get(name) not in (None, "")] for name in names}
    texts = [[cell.strip() for cell in cells[name] if isinstance(cell, str) and cell.strip()] for name in names]
    try:
        return find_text_column(where, names, texts, column)
    except UserError:
        if any(texts[i] for i in range(len(names)) if plain(names[i]) in TEXT_NAMES):
            raise
        top = [name for name in names if "." not in name]
        listing = "; ".join(f"{name[:40]} ({shown(cells[name][0])[:24] if cells[name] else 'empty'})" for name in top)
        wanted = f"column {column!r} (data.column)" if column else "column of text: name one with data.column"
        raise UserError(f"{where} has no {wanted}; it has: {listing}") from None


def look_into(source: Source, sample: Iterable[Mapping[str, Any]], column: Callable[[str], Iterable[Any]]) -> None:
    """Find out from the first records how the flags, dates and texts of a source are written.

    Args:
        column: gives a field of all records, for what the first ones leave open.
    """
    sample = list(sample)
    source.columns = find_roles(dict.fromkeys(name for record in sample for name in record))
    for role in ("retweet", "reply"):
        if role in source.columns and is_count_column(record.get(source.columns[role]) for record in sample):
            del source.columns[role]
    if decoder := find_decoder([str(text) for record in sample if (text := record.get(source.column or ""))]):
        source.decode, note = decoder
        source.notes.append(note)
    date = source.columns.get("date")
    if date and any(in_numbers(str(record.get(date))) for record in sample):
        source.set_day_order(*find_day_first(map(str, column(date))))


def json_posts(records: Iterable[dict[str, Any]], source: Source) -> Iterator[Post]:
    """The posts of JSON objects whose text lies under the source's column; counts the objects that have none."""
    without, hidden, key = 0, 0, source.column or ""
    counts = {"retweet", "reply"} - source.columns.keys()  # fields of that name are no flags here
    for record in records:
        source.rows += 1
        if record.get("activity") == "not public":
            hidden += 1
        elif isinstance(text := record.get(key), str):
            roles = find_roles(record)
            yield source.post(text, {role: record[name] for role, name in roles.items() if role not in counts})
        else:
            without += 1
    if without:
        source.notes.append(f"left out {without:,} objects without text under {key!r}")
    if hidden:
        source.notes.append(f"left out {hidden:,} posts that are not for everybody")
    source.finish()
