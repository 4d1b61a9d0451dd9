"""Tweets as they come -> clean, different, split tweets: data/processed.txt, and how it was made in processed.json."""

import hashlib
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import eq
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from config.schema import Config, DataConfig, PathsConfig, UserError
from utils.clean import Cleaner
from utils.files import atomic_write
from utils.filters import Filters, columns_of
from utils.rules_report import Tally, report
from utils.source import Post, Source
from utils.sources import open_sources
from utils.split import choose_validation, clusters, normal_form

VERSION = 1
LONG_TEXT = 100_000  # characters: a document rather than a tweet, worth a line
NEARLY_ALL = 0.9  # of the rows: a rule that leaves out more may read a column that means something else
MIN_TWEETS = 50  # with fewer there is nothing to learn, and 10% of them measure nothing


@dataclass(frozen=True, slots=True)
class Tweet:
    """A cleaned tweet. One that is not finished was cut off by the API: no end mark may be learnt from it."""

    text: str
    finished: bool


class Lines(Sequence[Tweet]):
    """Some lines of processed.txt as tweets, each made when it is asked for: a million objects would fill the memory.

    Args:
        text: the whole file.
        starts: (lines + 1,) where each line begins in it.
        chosen: (n,) the lines.
        finished: (lines,) which tweets were not cut off.
    """

    def __init__(
        self, text: bytes, starts: NDArray[np.int64], chosen: NDArray[np.int64], finished: NDArray[np.bool_]
    ) -> None:
        self.text, self.starts, self.chosen, self.finished = text, starts, chosen, finished

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Tweet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tweet]: ...
    def __getitem__(self, index: int | slice) -> Tweet | list[Tweet]:
        """One tweet, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line = self.chosen[index]
        return Tweet(self.text[self.starts[line] : self.starts[line + 1] - 1].decode(), bool(self.finished[line]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


@dataclass(frozen=True)
class Corpus:
    """The tweets of both sides, in the file's order; `info` is the content of processed.json."""

    train: Sequence[Tweet]
    val: Sequence[Tweet]
    info: dict[str, Any]


class Collector:
    """Filters, cleans and de-duplicates the posts of one source after another."""

    def __init__(self, settings: DataConfig) -> None:
        self.settings = settings
        self.tally = Tally(keep=max(1, settings.show_dropped))
        self.filters = Filters(settings)
        self.tweets: list[Tweet] = []
        self.dates: list[float | None] = []  # of the tweets; filled only where the split needs them
        self.rules: list[str] = []
        self.seen: dict[bytes, int] = {}
        self.sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Take in all posts of a source; drops exact copies (of two copies, a finished one stays)."""
        private = source.private if self.settings.mask_private is None else self.settings.mask_private
        cleaner, longest = Cleaner(self.settings, private=private), 0
        names = [name for name, _ in (*self.filters.filters, *cleaner.rules)]
        self.rules = list(dict.fromkeys(names if len(names) > len(self.rules) else self.rules))
        unknown_before = self.filters.unknown.copy()
        self.sources.append(source)
        for post in source.posts:
            if stopped := self.filters.stopped_by(post):
                self.tally.drop(stopped, post.text)
                continue
            longest = max(longest, len(post.text))
            cleaned = cleaner.clean(post.text)
            for rule in cleaned.changed:
                self.tally.change(rule, post.text)
            if cleaned.dropped:
                self.tally.drop(cleaned.dropped, post.text)
            else:
                self.keep(Tweet(cleaned.text, cleaned.finished), post)
        if longest > LONG_TEXT:
            source.notes.append(f"the longest text has {longest:,} characters: a document, not a tweet")
        source.notes += self.filters.notes(source, unknown_before)
        if self.settings.split == "time" and "date" in source.unread:
            count, example = source.unread["date"]
            source.notes.append(f"{count:,} dates can't be read, such as {example!r}: those posts count as the oldest")

    def keep(self, tweet: Tweet, post: Post) -> None:
        """Add a tweet, unless it was there before."""
        key = hashlib.blake2b(normal_form(tweet.text).encode(), digest_size=16).digest()
        first = self.seen.setdefault(key, len(self.tweets))
        if first == len(self.tweets):
            self.tweets.append(tweet)
            if self.settings.split == "time":
                self.dates.append(post.date)
            return
        self.tally.drop("duplicates", post.text)
        if tweet.finished and not self.tweets[first].finished:
            self.tweets[first] = tweet

    def check(self, where: str, rows: int) -> None:
        """Raise UserError when too little is left to learn from; it names the rules and the columns that they read."""
        self.filters.check(self.sources)
        if len(self.tweets) >= MIN_TWEETS:
            return
        lost = [f"{count:,} by {self.rule_in_words(rule)}" for rule, count in self.tally.dropped.most_common(3)]
        facts = [f"dropped: {', '.join(lost)}"] if lost else []
        facts += self.columns_in_words()
        facts += [note for source in self.sources for note in source.notes][:3]
        raise UserError(
            f"{where} has {len(self.tweets):,} usable tweets of {rows:,} rows, and {MIN_TWEETS} are needed"
            + (f" ({'; '.join(facts)})" if facts else "")
        )

    def columns_in_words(self) -> list[str]:
        """Which columns the text is from, as part of a message; nothing where there are none."""
        columns = dict.fromkeys(source.column for source in self.sources if source.column)
        return [f"the text is column {' and '.join(map(repr, columns))}"] if columns else []

    def greedy_rules(self, rows: int) -> list[str]:
        """Of each rule that left out nearly all rows, a line that says so."""
        shares = {rule: count / max(1, rows) for rule, count in self.tally.dropped.items()}
        return [
            f"{self.rule_in_words(rule)}, left out {share:.0%} of the rows"
            for rule, share in shares.items()
            if share > NEARLY_ALL
        ]

    def rule_in_words(self, rule: str) -> str:
        """A rule, and the column that it reads where it reads one."""
        there = next((text for source in self.sources if (text := columns_of(rule, source))), "")
        return f"{rule}, from {there}" if there else rule


def split_tweets(
    tweets: list[Tweet], dates: list[float | None], settings: DataConfig
) -> tuple[list[int], dict[str, Any]]:
    """Validation positions and the `split` part of processed.json."""
    texts = [tweet.text for tweet in tweets]
    cluster = clusters(texts, length=settings.near_duplicate_words)
    validation = choose_validation(
        texts,
        cluster,
        fraction=settings.val_fraction,
        seed=settings.split_seed,
        dates=dates if settings.split == "time" else None,
    )
    chosen = set(validation)
    sides = {cluster[i] for i in chosen} & {cluster[i] for i in range(len(texts)) if i not in chosen}
    assert not sides, f"clusters on both sides: {len(sides)}"
    sizes = Counter(cluster)
    return validation, {
        "method": settings.split,
        "seed": settings.split_seed,
        "train": len(texts) - len(validation),
        "val": len(validation),
        "clusters": len(sizes),
        "largest_cluster": max(sizes.values()),
        "hash": split_hash(tweets, chosen),
    }


def split_hash(tweets: list[Tweet], validation: set[int]) -> str:
    """A fingerprint of the split: two runs with the same one trained and measured on the same tweets."""
    digest = hashlib.sha256()
    for i, tweet in enumerate(tweets):
        digest.update(f"{int(i in validation)}{int(tweet.finished)}{tweet.text}\n".encode())
    return digest.hexdigest()[:16]


def preprocess(config: Config) -> Corpus:
    """Read, clean, de-duplicate, split, and write data/processed.txt and processed.json; prints what it did to stderr.

    Raises:
        UserError: the source cannot be read, or leaves too few tweets; nothing is written then.
    """
    settings = config.data
    sources = open_sources(config)
    collector = Collector(settings)
    for source in sources:
        collector.add(source)
    facts = source_info(sources)
    collector.check(facts["path"], facts["rows"])
    collector.seen.clear()  # of a big file, hundreds of megabytes that the split can use
    tweets = collector.tweets
    try:
        validation, split = split_tweets(tweets, collector.dates, settings)
    except UserError as error:
        raise UserError("; ".join([str(error), *collector.columns_in_words()])) from None
    info = {
        "version": VERSION,
        "source": facts,
        "rules": collector.tally.table([*collector.rules, "duplicates"], facts["rows"]),
        "split": split,
        "validation": validation,
        "unfinished": [i for i, tweet in enumerate(tweets) if not tweet.finished],
        "settings": asdict(settings),
    }
    write_processed(config.paths, tweets, info)
    report(sources, collector.tally, collector.greedy_rules(facts["rows"]), info, config.paths.processed_txt)
    return load_processed(config.paths)


def source_info(sources: list[Source]) -> dict[str, Any]:
    """The `source` part of processed.json; of several sources, their sum, with each under `files`."""
    infos = [source.info() for source in sources]
    if len(infos) == 1:
        return infos[0]

    def joined(name: str) -> str:
        return ", ".join(dict.fromkeys(str(info[name]) for info in infos if info[name]))

    return {
        **{name: joined(name) for name in ("path", "column", "encoding", "kind")},
        "sha256": hashlib.sha256(joined("sha256").encode()).hexdigest(),
        "bytes": sum(source.bytes for source in sources),
        "rows": sum(source.rows for source in sources),
        "fiction": all(source.fiction for source in sources),
        "files": infos,
    }


def write_processed(paths: PathsConfig, tweets: list[Tweet], info: dict[str, Any]) -> None:
    """Write the pair. The JSON comes last and holds the text's hash, so that half a pair is never read as whole."""
    digest = hashlib.sha256()
    with atomic_write(paths.processed_txt) as temporary, temporary.open("wb") as file:
        for tweet in tweets:
            line = f"{tweet.text}\n".encode()
            digest.update(line)
            file.write(line)
    info["sha256"] = digest.hexdigest()
    with atomic_write(paths.processed_json) as temporary:
        text = json.dumps(info, ensure_ascii=False) + "\n"
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may hold any bytes


def load_processed(paths: PathsConfig) -> Corpus:
    """What `preprocess` wrote.

    Raises:
        UserError: a file of the pair is missing, or they do not belong together (half-written, or changed by hand).
    """
    text_path, json_path = paths.processed_txt, paths.processed_json
    for path in (text_path, json_path):
        if not path.is_file():
            raise UserError(f"{path} is missing: make it with `python main.py preprocess`")
    again = "make both again with `python main.py preprocess`"
    text = text_path.read_bytes()
    try:
        info = json.loads(json_path.read_text(encoding="utf-8"))
        version, sha256 = info["version"], info["sha256"]
        unfinished, validation = (np.array(info[key], dtype=np.int64) for key in ("unfinished", "validation"))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{json_path} is broken: {again}") from None
    if version != VERSION:
        raise UserError(f"{json_path} is of version {version!r}, this program reads {VERSION}: {again}")
    if hashlib.sha256(text).hexdigest() != sha256:
        raise UserError(
            f"{text_path} is not the file that {json_path.name} describes (changed or half-written): {again}"
        )
    starts = line_starts(text)
    finished, is_train = np.ones(len(starts) - 1, np.bool_), np.ones(len(starts) - 1, np.bool_)
    finished[unfinished], is_train[validation] = False, False
    train, val = (Lines(text, starts, chosen, finished) for chosen in (np.flatnonzero(is_train), validation))
    return Corpus(train, val, info)


def line_starts(text: bytes) -> NDArray[np.int64]:
    """Where each line begins, and the end, (lines + 1,)."""
    codes, step = np.frombuffer(text, np.uint8), 1 << 24
    ends = [first + np.flatnonzero(codes[first : first + step] == ord("\n")) for first in range(0, len(codes), step)]
    return np.concatenate([[0], *(part + 1 for part in ends)]).astype(np.int64)


def run(config: Config, arguments: Namespace) -> None:
    """The `preprocess` command."""
    corpus = preprocess(config)
    print(f"{config.paths.processed_txt}: {len(corpus.train):,} train + {len(corpus.val):,} validation tweets")


if __name__ == "__main__":
    from config.cli import run_command

    sys.exit(run_command("preprocess", sys.argv[1:]))
