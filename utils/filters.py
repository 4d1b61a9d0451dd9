"""Which posts count at all, by what their source knows of them: retweets, replies, likes, dates, languages."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from config.schema import DataConfig, UserError
from utils.dates import parse_date
from utils.source import Post, Source

# What each filter reads of a post, by the roles of utils/fields.py.
READS = {
    "drop_retweets": ("retweet", "retweet of", "references"),
    "min_likes": ("likes",),
    "since/until": ("date",),
    "languages": ("language",),
}


def columns_of(rule: str, source: Source) -> str:
    """The columns of a source that a filter reads, for messages; "" where there are none."""
    names = [source.columns[role] for role in READS.get(rule, ()) if role in source.columns]
    return f"column {' and '.join(map(repr, names))}" if names else ""


class Filters:
    """The filters that the settings turn on, in order. A post that lacks what a filter asks for does not pass it."""

    def __init__(self, settings: DataConfig) -> None:
        since, until = parse_date(settings.since), parse_date(settings.until)
        languages = {language.casefold() for language in settings.languages or ()}

        def in_range(post: Post) -> bool | None:
            if post.date is None:
                return None
            return (since is None or post.date >= since) and (until is None or post.date < until)

        def liked(post: Post) -> bool | None:
            return None if post.likes is None else post.likes >= settings.min_likes

        def spoken(post: Post) -> bool | None:
            if post.language is None:
                return None
            code = post.language.casefold()
            return code in languages or re.split("[-_]", code)[0] in languages  # en-GB is en

        # name, what it asks of a post, whether it is on, and the question
        filters: list[tuple[str, str, bool, Callable[[Post], bool | None]]] = [
            ("drop_retweets", "retweet mark", settings.drop_retweets, lambda post: not post.retweet),
            ("replies", "text", not settings.replies, lambda post: not post.reply),
            ("min_likes", "number of likes", settings.min_likes > 0, liked),
            ("since/until", "date", bool(settings.since or settings.until), in_range),
            ("languages", "language", bool(languages), spoken),
        ]
        self.filters = [(name, question) for name, _, on, question in filters if on]
        self.asks = {name: asks for name, asks, _, _ in filters}
        self.asked: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def stopped_by(self, post: Post) -> str | None:
        """The filter that the post does not pass, or None."""
        for name, question in self.filters:
            answer = question(post)
            self.asked[name] += 1
            self.unknown[name] += answer is None
            if not answer:
                return name
        return None

    def notes(self, source: Source, unknown_before: Counter[str]) -> list[str]:
        """What the filters could not read of the posts of a source.

        Args:
            unknown_before: `unknown` as it was before the source was read.
        """
        found = []
        for name, _ in self.filters:
            unread = [source.unread[role] for role in READS.get(name, ()) if role in source.unread]
            count = self.unknown[name] - unknown_before[name] or sum(count for count, _ in unread)
            if count:
                example = f", such as {unread[0][1]!r}" if unread else ""
                where = f" ({there})" if (there := columns_of(name, source)) else ""
                fate = "kept" if name == "drop_retweets" else "left out"
                found.append(
                    f"data.{name}: {count:,} posts have no {self.asks[name]} that can be read{example}{where}: {fate}"
                )
        return found

    def check(self, sources: Sequence[Source]) -> None:
        """Raise UserError when a filter asked for something that no post had."""
        for name, count in self.unknown.items():
            if count and count == self.asked[name]:
                there = [text for source in sources if (text := columns_of(name, source))]
                held = f" ({there[0]} has none that can be read)" if there else ""
                raise UserError(f"data.{name} is set, but no post here has a {self.asks[name]}{held}: unset it")
