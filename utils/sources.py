"""Where posts come from: files of one's own, of any kind that can be read, or the default tweets."""

import sys
from pathlib import Path

from config.console import stdin_is_closed
from config.schema import Config, DataConfig, UserError
from utils.kaggle import default_path
from utils.kinds import kind_of_text, refuse_strange
from utils.read_archive import archive_members, read_archive, with_notes, zip_members
from utils.read_csv import read_csv
from utils.read_json import read_json
from utils.read_txt import read_txt
from utils.scan import DAMAGED, Content, file_content, memory_content, scan, unpacked
from utils.source import Source

ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # how a ZIP begins, an empty one too
STDIN = "standard input"


def open_sources(config: Config) -> list[Source]:
    """The sources that data.path names, or the default one."""
    named = config.data.path
    paths: list[str] = [str(default_path(config))] if named is None else [named] if isinstance(named, str) else named
    if not paths:
        raise UserError("data.path is an empty list: name a file, or leave it out for the default tweets")
    return [read_posts(path, config.data) for path in paths]


def read_posts(path: str, settings: DataConfig) -> Source:
    """Open posts of any kind: CSV, TSV, JSON, JSONL, TXT, an archive of X or Mastodon (.zip, folder, file), a ZIP or
    gzip of one of them; or "-" for standard input.

    The kind is found from the content; the ending of the name counts only where that leaves it open. Posts are read as
    they are asked for.

    Raises:
        UserError: it cannot be read as posts; says what was found and what to do.
    """
    if path == "-":
        return read_content(stdin_content(), settings)
    file = Path(path).expanduser()
    if file.is_dir():
        return read_members(str(file), archive_members(file), settings)
    if not file.exists():
        hint = "; null is a name like any other here: leave it out for the default tweets" if path == "null" else ""
        raise UserError(f"{file} does not exist: check data.path{hint}")
    if not file.is_file():
        raise UserError(f"{file} is not a file")
    return read_content(file_content(file), settings, file)


def read_content(content: Content, settings: DataConfig, path: Path | None = None) -> Source:
    """Some content as a source of posts.

    Args:
        path: where it lies on disk, if it does: other files of an archive may lie beside it.
    """
    try:
        head = content.head()
        if head.startswith(ZIP):
            return read_members(content.name, zip_members(content), settings)
        content = unpacked(content, head)
        head = content.head()
    except DAMAGED as error:
        raise UserError(f"{content.name} is damaged ({error}): get it again") from None
    refuse_strange(content.name, head)
    file = scan(content, encoding=settings.encoding)
    kind = kind_of_text(file, column=settings.column, separator=settings.separator)
    if kind == "script":
        return read_archive(content.name, with_notes(path) if path else [content])
    if kind in ("json", "jsonl"):
        return read_json(file, column=settings.column, lines=kind == "jsonl")
    if kind == "csv":
        return read_csv(file, column=settings.column)
    if settings.column is not None:
        raise UserError(f"{content.name} is plain text, without columns: leave data.column ({settings.column!r}) out")
    return read_txt(file, separator=settings.separator)


def read_members(name: str, found: tuple[str, list[Content]], settings: DataConfig) -> Source:
    """What was found in a folder or a ZIP as a source of posts."""
    kind, members = found
    if kind == "X archive":
        source = read_archive(name, members)
        if settings.column is not None:
            source.notes.append("data.column is not used: an X archive has its text in full_text")
        return source
    source = read_content(members[0], settings)
    source.path = name
    source.private |= kind == "own file"
    source.notes.insert(0, f"the posts are in {members[0].name.removeprefix(name).lstrip(':/')}")
    return source


def stdin_content() -> Content:
    """Standard input, kept in memory, as it is read more than once.

    Raises:
        UserError: this process has no standard input.
    """
    if stdin_is_closed():
        raise UserError(f"{STDIN} is closed: pipe the posts into it, or name a file with data.path")
    return memory_content(STDIN, sys.stdin.buffer.read())
