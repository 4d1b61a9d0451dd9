"""What a file is, by its content: the name of a file counts only where the content leaves it open."""

import json
import re
from collections.abc import Sequence

from config.schema import UserError
from utils.dates import parse_date
from utils.fields import is_blank, parse_count, parse_flag
from utils.read_csv import LIKELY, SURE, find_layout, names_text
from utils.scan import Scan

# How files begin that are no posts, and what to do with them.
STRANGE = (
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file: save it as CSV or plain text"),
    (b"PAR1", "a Parquet file: convert it to CSV or JSONL (pandas.read_parquet, then to_csv)"),
    (b"ARROW1", "a Feather file: convert it to CSV or JSONL (pandas.read_feather, then to_csv)"),
    (b"SQLite format 3\0", "an SQLite database: export the table of posts as CSV"),
    (b"\x89HDF", "an HDF5 file: convert it to CSV"),
    (b"\x93NUMPY", "a NumPy file: convert it to CSV"),
    (b"\x80\x04\x95", "a Python pickle, which may run code: convert it to CSV where it was made"),
    (b"%PDF", "a PDF: copy its text into a TXT file, a post a line"),
    (b"{\\rtf", "an RTF document: save it as plain text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it with `zstd -d`"),
    (b"\x89PNG", "a binary file: a picture"),
    (b"\xff\xd8\xff", "a binary file: a picture"),
    (b"GIF8", "a binary file: a picture"),
    (b"version https://git-lfs", "only a pointer to a file in Git LFS: fetch it with `git lfs pull`"),
)
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml)", re.IGNORECASE)
_PYTHON = re.compile(r"\[?\s*\{\s*u?'")
_SCRIPT = re.compile(r"\s*(?:window\.YTD\.|Grailbird\.data\.)")


def refuse_strange(name: str, head: bytes) -> None:
    """Raise UserError for a file that is known and holds no posts that can be read; says what to do."""
    what = next((what for magic, what in STRANGE if head.startswith(magic)), None)
    if head[257:262] == b"ustar":
        what = "a tar archive: unpack it, and give the folder or the file in it"
    if what is None and _PAGE.match(head):
        what = "a web page or XML, not data: export the posts as CSV, JSON or text"
    if what:
        raise UserError(f"{name} is {what}")


def kind_of_text(file: Scan, *, column: str | None, separator: str) -> str:
    """What a text file holds: script (of an X archive), json, jsonl, csv or txt."""
    lines = file.first_lines()
    first = next((line.strip() for line in lines if line.strip()), "")
    ending = file.content.ending
    if _SCRIPT.match(first):
        return "script"
    if first.startswith("{") and is_json(lines):
        return "jsonl" if is_jsonl(lines) else "json"
    if first.startswith("[") and (is_json(lines) or ending in (".json", ".jsonl", ".ndjson", ".js")):
        return "jsonl" if is_row(first) and "".join(lines).strip() != first and is_jsonl(lines) else "json"
    if _PYTHON.match(first):
        raise UserError(f"{file.name} holds Python's own notation, not JSON: write it with json.dumps instead of str")
    if ending in (".json", ".jsonl", ".ndjson"):
        return "csv" if is_table(lines, column) else "json" if ending == ".json" else "jsonl"
    if ending == ".js":
        return "script"
    if ending in (".csv", ".tsv", ".tab"):
        return "csv"
    if separator == "auto" and is_table(lines, column):
        return "csv"
    return "txt"


def is_json(lines: Sequence[str]) -> bool:
    """Whether a text begins as JSON: a whole value, or one that goes on beyond the lines looked at."""
    text = "".join(lines).strip()
    try:
        json.JSONDecoder().raw_decode(text)
        return True
    except RecursionError:
        return True
    except ValueError as error:
        at_end = getattr(error, "pos", 0) >= len(text) - 1 or "Unterminated string" in str(error)
        return at_end or is_jsonl(lines) or re.match(r'[\[{]\s*(?:[\[{]\s*)*"', text) is not None


def is_jsonl(lines: Sequence[str]) -> bool:
    """Whether most lines are JSON objects or lists by themselves."""
    full = [line.strip().rstrip(",") for line in lines if line.strip()]
    good = 0
    for line in full:
        try:
            good += isinstance(json.loads(line, strict=False), dict | list)
        except (ValueError, RecursionError):
            continue
    return 2 * good > len(full) and (len(full) > 1 or good == len(full))


def is_row(line: str) -> bool:
    """Whether a line is a whole JSON list of cells: a row of a table, one of many lines."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and not any(isinstance(cell, dict | list) for cell in value)


def is_table(lines: Sequence[str], column: str | None) -> bool:
    """Whether a text that is not named as a table is one: it has the header of one, or rows of the same shape."""
    layout = find_layout(lines, column)
    if len(layout.header) == 1:
        return layout.skip == 0 and names_text(layout.header, column)
    records = [record for record in layout.records(lines[layout.skip :]) if record]
    even = [record for record in records if len(record) == len(layout.header)]
    if names_text(layout.header, column):
        return len(even) > LIKELY * len(records) and (not spaced(even) or len(even) > SURE * len(records))
    if len(even) < 3 or len(even) <= SURE * len(records) or spaced(even):
        return False
    return any(is_data(cells) for cells in zip(*even[1:], strict=True))


def spaced(records: Sequence[Sequence[str]]) -> bool:
    """Whether spaces follow the delimiters, as they follow the commas of a sentence."""
    cells = [cell for record in records for cell in record[1:] if cell]
    return 2 * sum(cell.startswith(" ") for cell in cells) > len(cells)


def is_data(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, dates or flags, as no part of a sentence does."""
    full = [cell for cell in cells if not is_blank(cell)]
    read = [
        cell
        for cell in full
        if parse_count(cell) is not None or parse_date(cell, day_first=True) is not None or parse_flag(cell) is not None
    ]
    return len(full) * 2 > len(cells) and len(read) > 0.9 * len(full)
