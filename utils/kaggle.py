"""The default tweets: Kaggle's copy of Elon Musk's, fetched once and kept."""

import contextlib
import shutil
import sys
import threading
from argparse import Namespace
from pathlib import Path

from config.schema import Config, UserError
from utils.files import atomic_write

KAGGLE = "gpreda/elon-musk-tweets"
KAGGLE_HOST = "https://api.kaggle.com"  # where kagglehub asks
SAMPLE = Path(__file__).parents[1] / "data" / "sample_tweets.csv"
OWN = "elon_tweets.csv"
PROBE_SECONDS = 3.0


def say(message: str) -> None:
    """A line for the person watching."""
    print(message, file=sys.stderr, flush=True)


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
