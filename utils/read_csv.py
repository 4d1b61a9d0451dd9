"""CSV and TSV: the delimiter is found, and a broken quote costs one row, not the thousands that follow it."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from config.schema import UserError
from utils.source import (
    DATE_COLUMNS,
    LANGUAGE_COLUMNS,
    LIKES_COLUMNS,
    REPLY_COLUMNS,
    RETWEET_COLUMNS,
    SAMPLE_ROWS,
    Post,
    Scan,
    Source,
    find_text_column,
    make_post,
    one_line,
)

RECORD_LINES = 20_000  # a quoted cell with more lines than this is a quote that was never closed


def sniff_delimiter(lines: Sequence[str]) -> str:
    """The delimiter under which most of the first records have as many cells as the header has (more than one)."""

    def score(delimiter: str) -> tuple[float, int]:
        records = [record for record in csv.reader(lines, delimiter=delimiter) if record]
        width = len(records[0]) if records else 0
        return (sum(len(record) == width for record in records) / len(records), width) if width > 1 else (0.0, 0)

    return max(",;\t|", key=score)


def read_records(lines: Iterable[str], *, delimiter: str, notes: Counter[str]) -> Iterator[list[str]]:
    """Records of a CSV. A quote that is never closed costs its own line, not the thousands that follow it.

    A record that is well-formed by the strict rules is taken as it is. Another is read as a lenient reader would,
    unless it ran over several lines and a later one is a whole record by itself: then the first line alone counts.
    """
    source, waiting, taken, width = iter(lines), list[str](), list[str](), 0

    def feed() -> Iterator[str]:
        while len(taken) < RECORD_LINES and (line := waiting.pop() if waiting else next(source, None)) is not None:
            taken.append(line)
            yield line

    csv.field_size_limit(sys.maxsize)
    while True:
        taken.clear()
        try:
            record = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
            if record is None:
                return
        except csv.Error:
            notes["rows have broken quotes"] += 1
            record = next(csv.reader(chain(taken[:], feed()), delimiter=delimiter))
            if len(taken) > 1 and (len(record) != width or holds_record(taken[1:], delimiter, width)):
                waiting.extend(reversed(taken[1:]))
                record = [cell.strip('"') for cell in taken[0].rstrip("\r\n").split(delimiter)]
        if record:
            width = width or len(record)
            yield record


def holds_record(lines: Iterable[str], delimiter: str, width: int) -> bool:
    """Whether one of these lines is a whole, well-formed record by itself."""
    for line in lines:
        try:
            if len(next(csv.reader([line], delimiter=delimiter, strict=True), ())) == width > 1:
                return True
        except csv.Error:
            continue
    return False


def is_header(record: Sequence[str]) -> bool:
    """Whether a first record names columns: short, different, wordy cells."""
    cells = [cell.strip() for cell in record]
    return len(set(cells)) == len(cells) and all(
        0 < len(cell) <= 40 and not re.fullmatch(r"[\d\W]+", cell) and len(cell.split()) <= 4 for cell in cells if cell
    )


def read_csv(file: Scan, *, column: str | None) -> Source:
    """A CSV or TSV as a source of posts."""
    head = list(islice(file.lines(), SAMPLE_ROWS))
    delimiter = sniff_delimiter(head)
    sample = list(islice(read_records(head, delimiter=delimiter, notes=Counter()), SAMPLE_ROWS))
    if not sample:
        raise UserError(f"{file.path} has no rows")
    titled = is_header(sample[0]) or column is not None
    names = sample[0] if titled else [f"column {i + 1}" for i in range(len(sample[0]))]
    if titled and len(sample) == 1:
        raise UserError(f"{file.path} has a header and no rows: {one_line(', '.join(names))[:80]}")
    text = find_text_column(file.path, names, sample[titled:], column)
    source = file.source("csv", names[text].strip() or f"#{text + 1}")
    source.fiction = any("fiction" in cell.casefold() for cell in columns_like(names, sample[titled:], "description"))
    source.posts = csv_posts(file, source, names, text, delimiter, titled)
    return source


def columns_like(names: Sequence[str], rows: Iterable[Sequence[str]], part: str) -> Iterator[str]:
    """Cells of the columns whose name holds `part`."""
    for row in rows:
        yield from (cell for name, cell in zip(names, row, strict=False) if part in name.casefold())


def csv_posts(
    file: Scan, source: Source, names: Sequence[str], text: int, delimiter: str, titled: bool
) -> Iterator[Post]:
    """The posts of a CSV; counts its rows and, at the end, notes what was wrong with them."""
    place = {name.strip().casefold(): i for i, name in reversed(list(enumerate(names)))}
    known: tuple[tuple[str, ...], ...] = (DATE_COLUMNS, RETWEET_COLUMNS, REPLY_COLUMNS, LIKES_COLUMNS, LANGUAGE_COLUMNS)
    places = {some: next((place[name] for name in some if name in place), None) for some in known}
    problems: Counter[str] = Counter()
    for record in islice(read_records(file.lines(), delimiter=delimiter, notes=problems), int(titled), None):
        source.rows += 1
        extra = len(record) - len(names)
        if extra > 0:  # delimiters inside the text that were not quoted
            problems["rows have unquoted delimiters: taken as part of the text"] += 1
            record[text : text + extra + 1] = [delimiter.join(record[text : text + extra + 1])]
        elif extra < 0:
            problems["rows have too few cells"] += 1
            if len(record) <= text:
                continue
            record += [""] * -extra

        def find(some: tuple[str, ...], record: list[str] = record) -> str | None:
            return None if (i := places[some]) is None else record[i]

        yield make_post(record[text], find)
    source.notes += [f"{count:,} {problem}" for problem, count in problems.items()]
