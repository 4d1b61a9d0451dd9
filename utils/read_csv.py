"""CSV and TSV: the layout is found, and a broken quote costs one row, not the thousands that follow it."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from config.schema import UserError
from utils.dates import find_day_first, in_numbers
from utils.fields import (
    SAMPLE_ROWS,
    TEXT_NAMES,
    find_roles,
    find_text_column,
    is_count_column,
    one_line,
    plain,
)
from utils.scan import Scan
from utils.source import Post, Source
from utils.unescape import find_decoder

RECORD_LINES = 20_000  # a quoted cell with more lines than this is a quote that was never closed
DELIMITERS = ",;\t|"
LOOKED_AT = 2_000  # characters of a cell, to find out what its column holds
TITLE_LINES = 20  # lines of title or comment that may stand before the header
SURE, LIKELY = 0.9, 0.5  # share of the rows that are as wide as the header, for it to be one

_SEP = re.compile(r'\s*"?sep=(.)"?\s*')  # Excel's first line
_BACKSLASH = re.compile(r"\\(.?)", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
        escaped: a quote inside a cell has a backslash before it (as MySQL and Spark write), not another quote.
        skip: lines of title or comment before the header.
        header: the cells of the first row.
        same: the share of rows that are as wide as the header; 0 where that has one cell only.
    """

    delimiter: str = ","
    escaped: bool = False
    skip: int = 0
    header: tuple[str, ...] = ()
    same: float = 0.0

    def records(self, lines: Iterable[str], *, strict: bool = False) -> Iterator[list[str]]:
        """The records of these lines; with `strict`, raises csv.Error at a broken quote."""
        if not self.escaped:
            return csv.reader(lines, delimiter=self.delimiter, strict=strict)
        kept = (_BACKSLASH.sub(self._keep, line) for line in lines)
        return csv.reader(kept, delimiter=self.delimiter, escapechar="\\", strict=strict)

    def _keep(self, match: re.Match[str]) -> str:
        """A backslash that escapes nothing is doubled, so that it stays."""
        return match[0] if match[1] in ('"', "\\", self.delimiter, "\r", "\n") else "\\" + match[0]


def find_layout(lines: Sequence[str], column: str | None = None) -> Layout:
    """The layout of a table, from its first lines.

    Args:
        column: the text column's name, if it is known.
    """
    sep = _SEP.fullmatch(lines[0]) if lines else None
    found = starting_at(lines, int(sep is not None), sep[1] if sep else DELIMITERS)
    if not names_text(found.header, column) and found.same < LIKELY:
        later = (starting_at(lines, skip, DELIMITERS) for skip in range(1, min(TITLE_LINES, len(lines) - 1) + 1))
        others = [layout for layout in later if layout.header]
        named = [layout for layout in others if names_text(layout.header, column)]
        wide = [layout for layout in others if is_header(layout.header) and layout.same >= SURE]
        found = next(iter(named + wide), found)
    return replace(found, escaped=has_escaped_quotes(lines, found.delimiter))


def starting_at(lines: Sequence[str], skip: int, delimiters: str) -> Layout:
    """The layout of the lines from `skip` on: the delimiter under which most records are as wide as the first."""
    layouts = []
    for delimiter in delimiters:
        header, widths = tuple[str, ...](), list[int]()
        for record in csv.reader(lines[skip:], delimiter=delimiter):
            if record:
                header = header or tuple(record)
                widths.append(len(record))
        same = widths.count(len(header)) / len(widths) if len(header) > 1 else 0.0
        layouts.append(Layout(delimiter, False, skip, header, same))
    return max(layouts, key=lambda layout: (layout.same, len(layout.header)))


def names_text(header: Sequence[str], column: str | None) -> bool:
    """Whether a record is a header that names a column of text."""
    names = {plain(cell) for cell in header}
    return bool(names & set(TEXT_NAMES)) or (column is not None and plain(column) in names)


def has_escaped_quotes(lines: Iterable[str], delimiter: str) -> bool:
    r"""Whether \" stands for a quote inside a cell: where it is no doubled quote, and ends no cell."""
    end = rf"[{re.escape(delimiter)}\r\n]|$"
    single = re.compile(rf'(?<!\\)\\"(?!"|{end})')
    doubled = re.compile(rf'\\""(?!{end})')
    return sum(len(single.findall(line)) - len(doubled.findall(line)) for line in lines) > 0


def read_records(lines: Iterable[str], layout: Layout, *, notes: Counter[str]) -> Iterator[list[str]]:
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
            record = next(layout.records(feed(), strict=True), None)
            if record is None:
                return
        except csv.Error:
            notes["rows have broken quotes"] += 1
            record = next(layout.records(chain(taken[:], feed())))
            if len(taken) > 1 and (len(record) != width or holds_record(taken[1:], layout, width)):
                waiting.extend(reversed(taken[1:]))
                record = [cell.strip('"') for cell in taken[0].rstrip("\r\n").split(layout.delimiter)]
        if record:
            width = width or len(record)
            yield record


def holds_record(lines: Iterable[str], layout: Layout, width: int) -> bool:
    """Whether one of these lines is a whole, well-formed record by itself."""
    for line in lines:
        try:
            if len(next(layout.records([line], strict=True), ())) == width > 1:
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
    """A CSV or TSV as a source of posts.

    Raises:
        UserError: it has no rows, or no column of text (or not the wanted one).
    """
    head = list(islice(file.lines(), SAMPLE_ROWS + TITLE_LINES))
    layout = find_layout(head, column)
    sample = list(islice(read_records(head[layout.skip :], layout, notes=Counter()), SAMPLE_ROWS))
    if not sample:
        raise UserError(f"{file.name} has no rows")
    titled = is_header(sample[0]) or column is not None or names_text(sample[0], column)
    names = [name.strip() for name in sample[0]] if titled else [f"column {i + 1}" for i in range(len(sample[0]))]
    if titled and len(sample) == 1:
        raise UserError(f"{file.name} has a header and no rows: {one_line(', '.join(names))[:80]}")
    rows = [[cell.strip()[:LOOKED_AT] for cell in row] for row in sample[titled:]]
    cells = [[row[i] for row in rows if i < len(row) and row[i]] for i in range(len(names))]
    text = find_text_column(file.name, names, cells, column)
    source = file.source("csv", names[text] or f"#{text + 1}")
    if layout.skip:
        source.notes.append(f"the first {layout.skip:,} lines are no part of the table")
    if layout.escaped:
        source.notes.append(r"quotes inside cells are written \"")
    described = [cell for name, some in zip(names, cells, strict=True) if "description" in plain(name) for cell in some]
    source.fiction = any("fiction" in cell.casefold() for cell in described)
    places = {role: names.index(name) for role, name in find_roles(names).items()}
    table = Table(file, source, layout, names, text, places, titled)
    table.look_into(cells)
    source.posts = table.posts()
    return source


@dataclass
class Table:
    """The rows of a CSV as posts.

    Attributes:
        text: position of the text column.
        places: of the other known columns, by what they hold (utils/fields.py).
        titled: whether the first record is a header.
    """

    file: Scan
    source: Source
    layout: Layout
    names: list[str]
    text: int
    places: dict[str, int]
    titled: bool

    def look_into(self, cells: Sequence[Sequence[str]]) -> None:
        """Find out from the cells of each column, in the first rows, how flags, dates and texts are written."""
        for role in ("retweet", "reply"):
            if role in self.places and is_count_column(cells[self.places[role]]):
                del self.places[role]
        self.source.columns = {role: self.names[place] for role, place in self.places.items()}
        if decoder := find_decoder(cells[self.text]):
            self.source.decode, note = decoder
            self.source.notes.append(note)
        place = self.places.get("date")
        if place is not None and any(map(in_numbers, cells[place])):
            self.source.set_day_order(*find_day_first(row[place] for row in self.rows(Counter()) if len(row) > place))

    def rows(self, problems: Counter[str]) -> Iterator[list[str]]:
        """The records below the header; one that is too long has its text put together again."""
        lines = islice(self.file.lines(), self.layout.skip, None)
        for record in islice(read_records(lines, self.layout, notes=problems), int(self.titled), None):
            extra = len(record) - len(self.names)
            if extra > 0:  # delimiters inside the text that were not quoted
                problems["rows have unquoted delimiters: taken as part of the text"] += 1
                end = self.text + extra + 1
                record[self.text : end] = [self.layout.delimiter.join(record[self.text : end])]
            yield record

    def posts(self) -> Iterator[Post]:
        """The posts; counts the rows and, at the end, notes what was wrong with them."""
        problems: Counter[str] = Counter()
        for record in self.rows(problems):
            self.source.rows += 1
            if len(record) < len(self.names):
                problems["rows have too few cells"] += 1
            if len(record) > self.text:
                known = {role: record[place] for role, place in self.places.items() if place < len(record)}
                yield self.source.post(record[self.text], known)
        self.source.notes += [f"{count:,} {problem}" for problem, count in problems.items()]
        self.source.finish()
