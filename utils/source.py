"""What every reader of posts gives: a source, and its posts with what is known of each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from utils.dates import parse_date
from utils.fields import is_blank, is_marked, parse_count, parse_flag

T = TypeVar("T")


@dataclass(slots=True)
class Post:
    """One post as its source has it, before any cleaning.

    Attributes:
        date: seconds since 1970; None where the source has none that can be read. So are `likes` and `language`.
    """

    text: str
    date: float | None = None
    retweet: bool = False
    reply: bool = False
    likes: int | None = None
    language: str | None = None


@dataclass(eq=False)
class Source:
    """Where posts come from. `rows`, `notes` and `unread` are complete once `posts` has been read to its end.

    Attributes:
        columns: the names of the fields that hold the date, the likes and so on, by what they hold.
        unread: of the same, how many cells could not be read, and one of them.
        cut: posts whose end is not in the source.
        day_first: how dates such as 5/1/2021 are read.
        decode: makes the text of a cell of it, where cells are written in a way of their own.
    """

    path: str
    kind: str
    sha256: str
    bytes: int
    encoding: str = "utf-8"
    column: str | None = None
    rows: int = 0
    fiction: bool = False
    private: bool = False  # from a person's own archive: personal data is masked unless a setting says otherwise
    notes: list[str] = field(default_factory=list)
    posts: Iterator[Post] = field(default_factory=lambda: iter(()))
    columns: dict[str, str] = field(default_factory=dict)
    unread: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut: int = 0
    day_first: bool | None = None
    decode: Callable[[str], str] | None = None

    def info(self) -> dict[str, object]:
        """What processed.json keeps of it."""
        return {
            name: getattr(self, name)
            for name in ("path", "sha256", "bytes", "rows", "column", "encoding", "kind", "fiction", "notes")
        }

    def post(self, text: str, found: Mapping[str, object]) -> Post:
        """A post from its text and its other fields, by what they hold (utils/fields.py has the roles)."""
        whole = found.get("long")
        if isinstance(whole, str) and len(whole) > len(text):
            text = whole
        elif parse_flag(found.get("truncated")):
            self.cut += 1
        if self.decode:
            text = self.decode(text)
        retweet = self.read("retweet", found, parse_flag) or is_marked(found.get("retweet of"))
        reply = self.read("reply", found, parse_flag)
        return Post(
            text,
            self.read("date", found, lambda cell: parse_date(str(cell), day_first=self.day_first)),
            retweet or "retweeted" in str(found.get("references")),
            # An answer begins with the names it answers; what only continues one's own thread does not.
            text.lstrip().startswith("@") if reply is None else reply,
            self.read("likes", found, parse_count),
            self.read("language", found, str),
        )

    def read(self, role: str, found: Mapping[str, object], parse: Callable[[object], T | None]) -> T | None:
        """The value of a field; counts those that hold something and can't be read."""
        cell = found.get(role)
        if is_blank(cell):
            return None
        value = parse(cell)
        if value is None:
            count, example = self.unread.get(role, (0, str(cell)[:40]))
            self.unread[role] = (count + 1, example)
        return value

    def set_day_order(self, day_first: bool, certain: bool) -> None:
        """How dates such as 5/1/2021 are to be read; a guess is noted."""
        self.day_first = day_first
        if not certain:
            order = "day/month" if day_first else "month/day"
            self.notes.append(f"dates such as 5/1/2021 are read as {order}: no number above 12 says which it is")

    def finish(self) -> None:
        """Note what is known once all posts have been read."""
        if self.cut:
            self.notes.append(f"{self.cut:,} posts are cut short, and their whole text is not in this file")
