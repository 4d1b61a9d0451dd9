"""A file's bytes: one pass finds their hash and encoding, and then they are read as lines of text."""

import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any

from config.schema import UserError
from utils.source import Source

HEAD = 1 << 18  # bytes looked at to find out what a file is
LINES = 200  # the same, of lines
CHUNK = 1 << 20
MAX_RATIO = 100  # posts pack to about a tenth; what packs to a thousandth is a bomb
SMALL = 50_000_000  # bytes that do no harm, however well they pack
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError)
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # by how such a file begins
# Encodings of scripts that a file which is neither UTF-8 nor Western may have.
OTHERS = ("cp1251", "gb18030", "big5", "cp932", "euc_kr", "cp1256", "cp1253", "cp874", "koi8-r")


@dataclass(frozen=True)
class Content:
    """Bytes that can be read more than once: a file, a member of a ZIP, standard input.

    Attributes:
        name: what messages call it.
        open: opens it anew, from its beginning.
        size: of the file they lie in, bytes.
    """

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    size: int

    @property
    def ending(self) -> str:
        """The ending of the name in small letters; of posts.csv.gz it is .csv."""
        path = PurePath(self.name)
        return (path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path).suffix.casefold()

    def head(self) -> bytes:
        """The first HEAD bytes."""
        with self.open() as stream:
            return stream.read(HEAD)


def file_content(path: Path) -> Content:
    """The content of a file on disk."""
    return Content(str(path), lambda: path.open("rb"), path.stat().st_size)


def memory_content(name: str, content: bytes) -> Content:
    """Content that is held in memory."""
    return Content(name, lambda: io.BytesIO(content), len(content))


def unpacked(content: Content, head: bytes) -> Content:
    """What a .gz, .bz2 or .xz holds; other content as it is."""
    unpack: Any = next((PACKED[magic] for magic in PACKED if head.startswith(magic)), None)
    if unpack is None:
        return content

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with content.open() as stream, unpack(stream) as inner:
            yield inner

    return Content(content.name, opened, content.size)


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
    """What one pass over some content finds."""

    content: Content
    sha256: str
    bytes: int
    encoding: str
    single_bytes: bool  # what is not UTF-8 is read byte by byte as Windows-1252
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.content.name

    def lines(self) -> Iterator[str]:
        """Its lines with their ends, decoded, without NUL characters.

        Raises:
            UserError: the bytes contradict the encoding.
        """
        return self._read(iter)

    def chunks(self) -> Iterator[str]:
        """Its text in pieces of about a megabyte; raises as `lines` does."""
        return self._read(lambda text: iter(lambda: text.read(CHUNK), ""))

    def first_lines(self) -> list[str]:
        """Its first LINES lines, of the first HEAD characters; the last may be cut where it is the only one."""
        start = next(self.chunks(), "")[:HEAD]
        lines = start.splitlines(keepends=True)[:LINES]
        return lines[:-1] if len(lines) > 1 and len(start) == HEAD else lines

    def _read(self, pieces: Callable[[io.TextIOWrapper], Iterator[str]]) -> Iterator[str]:
        """The decoded text, piece by piece."""
        errors = SingleBytes.name if self.single_bytes else "strict"
        try:
            with self.content.open() as stream, io.TextIOWrapper(stream, self.encoding, errors, newline="") as text:
                for piece in pieces(text):
                    yield piece.replace("\0", "") if "\0" in piece else piece
        except UnicodeError as error:
            raise UserError(
                f"{self.name} is not {self.encoding} ({error}): set data.encoding to the right one, or leave it out"
            ) from None

    def source(self, kind: str, column: str | None = None) -> Source:
        """A source of this content, with the notes of its encoding."""
        return Source(self.name, kind, self.sha256, self.bytes, self.encoding, column, notes=list(self.notes))


def scan(content: Content, *, encoding: str | None = None) -> Scan:
    """Hash the content and find its encoding (unless given).

    Raises:
        UserError: it is empty, damaged, binary or in an encoding that must be named; or no encoding has the given name.
    """
    if encoding is not None:
        try:
            "".encode(encoding)
        except LookupError:
            raise UserError(f"data.encoding is {encoding!r}: no such encoding; try utf-8, cp1252 or utf-16") from None
    codecs.register_error(SingleBytes.name, SingleBytes.handle)
    digest, size, characters, zeros, head = hashlib.sha256(), 0, 0, 0, b""
    decoder = codecs.getincrementaldecoder("utf-8")(errors=SingleBytes.name)
    SingleBytes.count = 0
    try:
        with content.open() as stream:
            while chunk := stream.read(CHUNK):
                head = head or chunk[:HEAD]
                digest.update(chunk)
                size += len(chunk)
                zeros += chunk.count(0)
                characters += len(decoder.decode(chunk))
                if size > SMALL and size > MAX_RATIO * content.size:
                    raise UserError(f"{content.name} unpacks from {content.size:,} to over {size:,} bytes: not opened")
    except DAMAGED as error:
        raise UserError(f"{content.name} is damaged ({error}): get it again") from None
    characters += len(decoder.decode(b"", final=True))
    if not head.strip():
        raise UserError(f"{content.name} is empty: there is nothing to learn from")
    if encoding is not None:
        return Scan(content, digest.hexdigest(), size, encoding, False)
    encoding, note = find_encoding(content.name, head, broken=SingleBytes.count, multibyte=size - characters)
    notes = [note] if note else []
    if zeros and not encoding.startswith(("utf-16", "utf-32")):
        notes.append(f"{zeros:,} NUL characters are left out")
    return Scan(content, digest.hexdigest(), size, encoding, note is not None, notes)


def find_encoding(name: str, head: bytes, *, broken: int, multibyte: int) -> tuple[str, str | None]:
    """The encoding, and a note where it had to be guessed.

    Args:
        name: of the content, for messages.
        broken: bytes of the whole content that are not UTF-8.
        multibyte: bytes that continue a well-formed UTF-8 character.
    """
    mixed = f"{broken:,} bytes are not UTF-8 and were read as cp1252: the file mixes encodings"
    for bom, found in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(bom):
            return found, mixed if broken and found == "utf-8-sig" else None
    zeros_even, zeros_odd = head[::2].count(0), head[1::2].count(0)
    most, least = max(zeros_even, zeros_odd), min(zeros_even, zeros_odd)
    # Spaces, commas and line ends alone put zeros in every sixth place or so of UTF-16, always on the same side.
    if most > len(head) / 40 and least < most / 20:
        return ("utf-16-be" if zeros_even > zeros_odd else "utf-16-le"), None
    controls = sum(head.count(bytes([c])) for c in (*range(1, 9), *range(14, 27), *range(28, 32)))
    if controls > len(head) / 50 or head.count(0) > 1 + len(head) / 500:
        raise UserError(f"{name} looks like a binary file, not text: give a CSV, TXT, JSONL or X archive")
    if not broken:
        return "utf-8", None
    if multibyte > 2 * broken:
        return "utf-8", mixed
    # Letters with accents stand alone between plain ones; whole words of bytes above 127 are another script.
    if 2 * len(b"".join(re.findall(rb"[\x80-\xff]{3,}", head))) > len(re.findall(rb"[\x80-\xff]", head)) > 20:
        fitting = ", ".join(codec for codec in OTHERS if decodes(head, codec))
        raise UserError(
            f"{name} is neither UTF-8 nor Western text: save it as UTF-8, or set data.encoding (it may be {fitting})"
        )
    return "cp1252", "the bytes are not UTF-8: read as cp1252 (if letters look wrong, set data.encoding)"


def decodes(head: bytes, codec: str) -> bool:
    """Whether bytes are valid in an encoding; their last character may be cut."""
    try:
        codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeError:
        return False
    return True
