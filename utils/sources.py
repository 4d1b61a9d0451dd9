"""Where tweets come from: a file of one's own, Kaggle's copy of Elon Musk's, or the sample that ships."""

import contextlib
import re
import shutil
import sys
import tempfile
import threading
import weakref
from argparse import Namespace
from pathlib import Path

from config.schema import Config, DataConfig, UserError
from utils.files import atomic_write
from utils.read_archive import is_zip, read_archive
from utils.read_csv import read_csv
from utils.read_json import read_json, read_txt
from utils.source import TEXT_COLUMNS, Post, Scan, Source, scan

__all__ = ["KAGGLE", "Post", "Source", "default_path", "download", "open_sources", "read_posts"]

KAGGLE = "gpreda/elon-musk-tweets"
KAGGLE_HOST = "https://api.kaggle.com"  # where kagglehub asks
SAMPLE = Path(__file__).parents[1] / "data" / "sample_tweets.csv"
OWN = "elon_tweets.csv"
PROBE_SECONDS = 3.0
KINDS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".txt", ".text", ".md"), "txt"),
    **dict.fromkeys((".zip", ".js"), "archive"),
    ".json": "json",
}


def say(message: str) -> None:
    """A line for the person watching."""
    print(message, file=sys.stderr, flush=True)


def open_sources(config: Config) -> list[Source]:
    """The sources that data.path names, or the default one."""
    named = config.data.path
    paths: list[str] = [str(default_path(config))] if named is None else [named] if isinstance(named, str) else named
    if not paths:
        raise UserError("data.path is an empty list: name a file, or null for the default")
    return [read_posts(path, config.data) for path in paths]


def read_posts(path: str, settings: DataConfig) -> Source:
    """Open tweets of any kind: CSV, TSV, X archive (.zip, folder, .js), JSONL, JSON, TXT, or "-" for standard input.

    The kind is told by the ending of the name, else by the content. Posts are read as they are asked for.

    Raises:
        UserError: it cannot be read as tweets; says what was found and what to do.
    """
    if path == "-":
        return read_stdin(settings)
    return read_file(Path(path).expanduser(), settings)


def read_file(path: Path, settings: DataConfig) -> Source:
    """A file or folder of tweets as a source of posts."""
    kind = KINDS.get(path.suffix.casefold())
    if path.is_dir() or (kind == "archive" and path.is_file() and path.stat().st_size):
        return read_archive(path)
    if path.is_file() and kind is None and is_zip(path):
        return read_archive(path)
    file_scan = scan(path, encoding=settings.encoding)
    kind = kind or kind_by_content(file_scan)
    if kind == "archive":
        return read_archive(path)
    if kind in ("json", "jsonl"):
        return read_json(file_scan, column=settings.column, lines=kind == "jsonl")
    if kind == "txt":
        return read_txt(file_scan, separator=settings.separator)
    return read_csv(file_scan, column=settings.column)


def kind_by_content(file: Scan) -> str:
    """What a text file without a telling name holds."""
    first = next((line.strip() for line in file.lines() if line.strip()), "")
    if first.startswith("window.YTD"):
        return "archive"
    if first.startswith("["):
        return "json"
    if first.startswith("{"):
        return "jsonl"
    cells = {cell.strip(' "').casefold() for cell in re.split(r"[,;\t|]", first)}
    return "csv" if cells & set(TEXT_COLUMNS) else "txt"


def read_stdin(settings: DataConfig) -> Source:
    """Standard input as a source: kept in a temporary file, as it is read more than once."""
    copy = tempfile.NamedTemporaryFile(prefix="elon-transformer-stdin-")  # noqa: SIM115 (it lives as long as the source)
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.flush()
    try:
        source = read_file(Path(copy.name), settings)
    except UserError as error:
        raise UserError(str(error).replace(copy.name, "standard input")) from None
    source.path = "standard input"
    weakref.finalize(source, copy.close)  # the file goes with the source
    return source


def local_default(config: Config) -> Path | None:
    """One's own elon_tweets.csv, under the root or in the checkout."""
    return next((path for path in (config.paths.data / OWN, Path("data") / OWN) if path.is_file()), None)


def default_path(config: Config) -> Path:
    """The file to use when data.path is null: one's own elon_tweets.csv, else Kaggle's, else the sample."""
    if path := local_default(config):
        return path
    own = config.paths.data / OWN
    say(f"No data.path and no {own}: trying Kaggle's {KAGGLE} (public, no account needed) ...")
    try:
        return fetch(own)
    except UserError as error:
        if not SAMPLE.is_file():
            raise
        say(f"{error}\nUsing the sample that ships with this project: invented posts, {SAMPLE.name}.")
        return SAMPLE


def download(config: Config, arguments: Namespace) -> None:
    """The `download` command: Kaggle's tweets to data/elon_tweets.csv.

    Raises:
        UserError: Kaggle cannot be reached, or gives no CSV.
    """
    path = fetch(config.paths.data / OWN)
    print(f"{path}: {path.stat().st_size:,} bytes")


def fetch(target: Path) -> Path:
    """Copy the CSV of Kaggle's dataset to `target`, from kagglehub's cache when Kaggle cannot be reached.

    Raises:
        UserError: neither works; says how to get the file by hand.
    """
    by_hand = f"to use Elon Musk's tweets, download https://www.kaggle.com/datasets/{KAGGLE} and save it as {target}"
    handle = KAGGLE if reachable() else newest_cached()
    if handle is None:
        raise UserError(f"Kaggle cannot be reached from here; {by_hand}")
    try:
        import kagglehub

        with contextlib.redirect_stdout(sys.stderr):  # it greets newer versions of itself on stdout
            folder = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # a network library inside a download library: anything can come out
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"Kaggle's {KAGGLE} did not download ({type(error).__name__}: {reason}); {by_hand}") from None
    files = sorted(folder.rglob("*.csv"), key=lambda file: file.stat().st_size)
    if not files:
        raise UserError(f"Kaggle's {KAGGLE} holds no CSV any more ({folder}); {by_hand}")
    with atomic_write(target) as temporary:
        shutil.copyfile(files[-1], temporary)
    say(f"Saved {KAGGLE} from Kaggle as {target}.")
    return target


def reachable() -> bool:
    """Whether Kaggle answers within a few seconds; in a thread, as looking up a name has no time-out of its own."""
    answered = threading.Event()

    def probe() -> None:
        import requests

        with contextlib.suppress(requests.RequestException):
            requests.head(KAGGLE_HOST, timeout=PROBE_SECONDS)
            answered.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def newest_cached() -> str | None:
    """The handle of the newest version that kagglehub has on this machine, which needs no network."""
    try:
        from kagglehub.cache import get_cached_path
        from kagglehub.handle import parse_dataset_handle
    except ImportError:
        return None
    versions = Path(get_cached_path(parse_dataset_handle(KAGGLE))) / "versions"
    numbers = [int(folder.name) for folder in versions.glob("*") if folder.name.isdecimal()]
    return f"{KAGGLE}/versions/{max(numbers)}" if numbers else None
