"""Which posts count at all, by what their source knows of them: retweets, replies, likes, dates, languages."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from config.schema import DataConfig, UserError
from utils.source import Post


def parse_date(text: str | None) -> float | None:
    """Seconds since 1970 of an ISO date, X's own form (Wed Oct 10 20:19:24 +0000 2018) or a Unix time; else None."""
    text = (text or "").strip()
    whole, _, _ = text.partition(".")
    if text.replace(".", "", 1).isdecimal() and 9 <= len(whole) <= 13:
        return float(text) / (1000 if len(whole) > 11 else 1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.strptime(text, "%a %b %d %H:%M:%S %z %Y")
        except ValueError:
            return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Filters:
    """The filters that the settings turn on, in order. A post that lacks what a filter asks for does not pass it."""

    def __init__(self, settings: DataConfig) -> None:
        since, until = parse_date(settings.since), parse_date(settings.until)
        languages = {language.casefold() for language in settings.languages or ()}

        def in_range(post: Post) -> bool | None:
            date = parse_date(post.date)
            return None if date is None else (since is None or date >= since) and (until is None or date < until)

        def liked(post: Post) -> bool | None:
            return None if post.likes is None else post.likes >= settings.min_likes

        def spoken(post: Post) -> bool | None:
            return None if post.language is None else post.language.casefold() in languages

        # name, what it asks of a post, whether it is on, and the question
        filters: list[tuple[str, str, bool, Callable[[Post], bool | None]]] = [
            ("drop_retweets", "retweet mark", settings.drop_retweets, lambda post: not post.retweet),
            ("replies", "text", not settings.replies, lambda post: not post.reply),
            ("min_likes", "number of likes", settings.min_likes > 0, liked),
            ("since/until", "date that can be read", bool(settings.since or settings.until), in_range),
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

    def check(self) -> None:
        """Raise UserError when a filter asked for something that no post had."""
        for name, count in self.unknown.items():
            if count and count == self.asked[name]:
                raise UserError(f"data.{name} is set, but no post here has a {self.asks[name]}: unset it")
