"""What every reader of tweets shares: a post, its source, a file's encoding, and which field holds what."""

import codecs
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.schema import UserError

TEXT_COLUMNS = ("text", "tweet", "full_text", "content")
DATE_COLUMNS = ("date", "created_at", "datetime", "timestamp", "time")
RETWEET_COLUMNS = ("is_retweet", "isretweet", "retweeted_status_id", "retweeted_status")
REPLY_COLUMNS = ("is_reply", "isreply")
LIKES_COLUMNS = ("favorites", "favorite_count", "likes", "like_count")
LANGUAGE_COLUMNS = ("lang", "language")
FALSE_WORDS = {"", "false", "0", "0.0", "no", "none", "null", "nan"}

HEAD = 1 << 18  # bytes looked at to tell what a file is
SAMPLE_ROWS = 200  # rows looked at to find the text column
SHORT = 20  # a column whose cells are shorter than this on average holds names or codes, not tweets


@dataclass(slots=True)
class Post:
    """One post as its source has it, before any cleaning."""

    text: str
    date: str | None = None
    retweet: bool = False
    reply: bool = False
    likes: int | None = None
    language: str | None = None


def make_post(text: str, find: Callable[[tuple[str, ...]], object]) -> Post:
    """A post from its text and a look-up that gives the first of several fields, or None."""
    date, language, reply = find(DATE_COLUMNS), find(LANGUAGE_COLUMNS), find(REPLY_COLUMNS)
    return Post(
        text,
        str(date) if date else None,
        is_true(find(RETWEET_COLUMNS)),
        # An answer begins with the names it answers; what only continues one's own thread does not.
        text.lstrip().startswith("@") if reply is None else is_true(reply),
        int(count) if (count := str(find(LIKES_COLUMNS)).partition(".")[0].replace(",", "")).isdecimal() else None,
        str(language) if language else None,
    )


def is_true(cell: object) -> bool:
    """Whether a field says yes: a true word, or an id."""
    return str(cell).strip().casefold() not in FALSE_WORDS


@dataclass(eq=False)
class Source:
    """Where posts come from. `rows` and `notes` are complete once `posts` has been read to its end."""

    path: str
    kind: str
    sha256: str
    bytes: int
    encoding: str = "utf-8"
    column: str | None = None
    rows: int = 0
    fiction: bool = False
    private: bool = False  # somebody's own archive: personal data is masked unless told otherwise
    notes: list[str] = field(default_factory=list)
    posts: Iterator[Post] = field(default_factory=lambda: iter(()))

    def info(self) -> dict[str, object]:
        """What processed.json keeps of it."""
        return {
            name: getattr(self, name)
            for name in ("path", "sha256", "bytes", "rows", "column", "encoding", "kind", "fiction", "notes")
        }


class SingleBytes:
    """A codec error handler: a byte that is not UTF-8 is read as Windows-1252, and counted."""

    name = "single-bytes"
    count = 0

    @classmethod
    def handle(cls, error: UnicodeError) -> tuple[str, int]:
        """The characters for the bytes that could not be decoded, and where to go on."""
        assert isinstance(error, UnicodeDecodeError)
        broken = error.object[error.start : error.end]
        cls.count += len(broken)
        # Five bytes have no character there: as in browsers, they become C1 controls, which cleaning removes.
        return "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in broken), error.end


@dataclass(frozen=True)
class Scan:
    """What one pass over a file's bytes finds."""

    path: Path
    sha256: str
    bytes: int
    encoding: str
    note: str | None

    def lines(self) -> Iterator[str]:
        """The file's lines with their ends, decoded; raises UserError where the bytes contradict the encoding."""
        try:
            with self.path.open(encoding=self.encoding, errors=self._errors(), newline="") as file:
                yield from file
        except UnicodeError as error:
            raise UserError(
                f"{self.path} is not {self.encoding} ({error}): set data.encoding to the right one, or null to find it"
            ) from None

    def _errors(self) -> str:
        return SingleBytes.name if self.note else "strict"

    def source(self, kind: str, column: str | None = None) -> Source:
        """A source of this file, with its encoding's note."""
        notes = [self.note] if self.note else []
        return Source(str(self.path), kind, self.sha256, self.bytes, self.encoding, column, notes=notes)


def scan(path: Path, *, encoding: str | None = None) -> Scan:
    """Hash the file and find its encoding (unless given).

    Raises:
        UserError: the file is missing, a folder, empty, binary, or the encoding has no such name.
    """
    if encoding is not None:
        try:
            "".encode(encoding)
        except LookupError:
            raise UserError(f"data.encoding is {encoding!r}: no such encoding; try utf-8, cp1252 or utf-16") from None
    if not path.exists():
        raise UserError(f"{path} does not exist: check data.path")
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    codecs.register_error(SingleBytes.name, SingleBytes.handle)
    digest, size, characters, head = hashlib.sha256(), 0, 0, b""
    decoder = codecs.getincrementaldecoder("utf-8")(errors=SingleBytes.name)
    SingleBytes.count = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            head = head or chunk[:HEAD]
            digest.update(chunk)
            size += len(chunk)
            characters += len(decoder.decode(chunk))
    characters += len(decoder.decode(b"", final=True))
    if not head.strip():
        raise UserError(f"{path} is empty: there is nothing to learn from")
    note = None
    if encoding is None:
        encoding, note = find_encoding(path, head, broken=SingleBytes.count, multibyte=size - characters)
    return Scan(path, digest.hexdigest(), size, encoding, note)


def find_encoding(path: Path, head: bytes, *, broken: int, multibyte: int) -> tuple[str, str | None]:
    """The encoding, and a note where it had to be guessed.

    Args:
        broken: bytes of the whole file that are not UTF-8.
        multibyte: bytes that continue a well-formed UTF-8 character.
    """
    mixed = f"{broken:,} bytes are not UTF-8 and were read as cp1252: the file mixes encodings"
    for bom, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(bom):
            return name, mixed if broken and name == "utf-8-sig" else None
    zeros_even, zeros_odd = head[::2].count(0), head[1::2].count(0)
    most, least = max(zeros_even, zeros_odd), min(zeros_even, zeros_odd)
    # Spaces, commas and line ends alone put zeros in every sixth place or so of UTF-16, always on the same side.
    if most > len(head) / 40 and least < most / 20:
        return ("utf-16-be" if zeros_even > zeros_odd else "utf-16-le"), None
    controls = sum(head.count(bytes([c])) for c in (*range(9), *range(14, 27), *range(28, 32)))
    if head.count(0) or controls > len(head) / 50:
        raise UserError(f"{path} looks like a binary file, not text: give a CSV, TXT, JSONL or X archive")
    if not broken:
        return "utf-8", None
    if multibyte > 2 * broken:
        return "utf-8", mixed
    return "cp1252", "the bytes are not UTF-8: read as cp1252 (if letters look wrong, set data.encoding)"


def one_line(text: str) -> str:
    """A cell as it can stand in a message."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def find_text_column(path: Path, names: Sequence[str], sample: Sequence[Sequence[str]], wanted: str | None) -> int:
    """Position of the text column: the wanted one, else a known name, else the one with the longest text.

    Raises:
        UserError: no such column, or none that looks like text; lists the columns with a cell of each.
    """
    lower = [name.strip().casefold() for name in names]
    cells = [[row[i].strip() for row in sample if i < len(row) and row[i].strip()] for i in range(len(names))]
    listing = "; ".join(
        f"{one_line(name)[:40]} ({one_line(cell[0])[:24] if cell else 'empty'})"
        for name, cell in zip(names, cells, strict=True)
    )
    if wanted is not None:
        if wanted.strip().casefold() in lower:
            return lower.index(wanted.strip().casefold())
        raise UserError(f"{path} has no column {wanted!r} (data.column); it has: {listing}")
    for known in TEXT_COLUMNS:
        if known in lower:
            return lower.index(known)

    def mean_text(column: list[str]) -> float:
        """Average length of a column's cells, 0 where they are numbers, links or codes rather than words."""
        wordy = [cell for cell in column if 2 * sum(map(str.isalpha, cell)) >= len(cell) and "://" not in cell[:8]]
        return sum(map(len, column)) / len(column) if 2 * len(wordy) > len(column) else 0.0

    lengths = [mean_text(column) for column in cells]
    if max(lengths) < (SHORT if len(names) > 1 else 1):
        raise UserError(f"{path} has no column of text: name one with data.column; it has: {listing}")
    return lengths.index(max(lengths))
