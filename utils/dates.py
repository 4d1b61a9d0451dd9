"""Dates as they occur in files of posts, to seconds since 1970."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIRST_YEAR, LAST_YEAR = 1970, 2200

_CLOCK = re.compile(
    r"(?<![\d:])T?(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?(?![\d:])"
    r"\s*(?P<half>[AaPp]\.?[Mm]\b\.?)?\s*(?P<zone>(?:Z|UTC|GMT|CES?T|[ECMP][SD]T)\b|[+-]\d{2}:?\d{2}\b)?"
)
_YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年년]\s*(\d{1,2})\s*[-/.月월]\s*(\d{1,2})\s*[日일]?")
_NUMBERS = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})")
_MONTH_NAME = re.compile(rf"\b({'|'.join(MONTHS)})[a-z]*\.?", re.IGNORECASE)
_WEEKDAY = r"\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\b"
_NO_PART = re.compile(rf"{_WEEKDAY}|\b(?:at|of)\b|[\s,·.•|T-]", re.IGNORECASE)  # what may stand beside a date
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_NAMED_ZONES = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # of RFC 2822
_NAMED_ZONES |= {"Z": 0, "UTC": 0, "GMT": 0, "CET": 1, "CEST": 2}


def parse_date(text: str | None, *, day_first: bool | None = None) -> float | None:
    """Seconds since 1970 of a date, with or without a time; None where it is none that can be read.

    It reads ISO dates, X's own form (Wed Oct 10 20:19:24 +0000 2018), those of e-mails (Wed, 10 Oct 2018 20:19:24
    +0000) and of web pages (Oct 10, 2018 · 8:19 PM UTC), numbers (10/31/2018) and Unix times. Without a zone it is UTC.

    Args:
        day_first: how 5/1/2021 is read where both numbers may be the month; None: not at all.
    """
    text = (text or "").strip()
    whole = text.partition(".")[0]
    if whole.isdecimal() and text.replace(".", "", 1).isdecimal() and 9 <= len(whole) <= 16:
        return float(text) / (1e6 if len(whole) > 13 else 1e3 if len(whole) > 11 else 1)
    moment = from_iso(text) or from_parts(text, day_first)
    if moment is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def from_iso(text: str) -> datetime | None:
    """An ISO date, which most are."""
    if not text[:4].isdecimal():
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def from_parts(text: str, day_first: bool | None) -> datetime | None:
    """A date from its day and its time, in any order."""
    clock = _CLOCK.search(text)
    day = find_day(f"{text[: clock.start()]} {text[clock.end() :]}".strip() if clock else text, day_first)
    if day is None:
        return None
    try:
        moment = datetime(*day)
        if clock is None:
            return moment
        hour = int(clock["hour"])
        if clock["half"]:
            hour = hour % 12 + (12 if clock["half"][0] in "Pp" else 0)
        moment = moment.replace(hour=hour, minute=int(clock["minute"]), second=int(clock["second"] or 0))
        return moment.replace(tzinfo=time_zone(clock["zone"] or "UTC"))
    except ValueError:  # the 31st of June, or 25 o'clock
        return None


def time_zone(name: str) -> timezone:
    """UTC, +0200, +02:00 or a name; raises ValueError beyond 24 hours."""
    if name in _NAMED_ZONES:
        return timezone(timedelta(hours=_NAMED_ZONES[name]))
    shift = timedelta(hours=int(name[1:3]), minutes=int(name[-2:]))
    return timezone(shift if name[0] == "+" else -shift)


@lru_cache(maxsize=4096)
def find_day(text: str, day_first: bool | None) -> tuple[int, int, int] | None:
    """Year, month and day of a text that holds nothing else."""
    if match := _YEAR_FIRST.match(text):
        year, month, day = map(int, match.groups())
        return None if _NO_PART.sub("", text[match.end() :]) else (year, month, day)
    if match := _NUMBERS.match(text):
        one, two, year = int(match[1]), int(match[3]), int(match[4])
        if one > 12 or two > 12 or one == two:
            day_first = one > 12
        if day_first is None or _NO_PART.sub("", text[match.end() :]):
            return None
        return (year + (2000 if year < 100 else 0), *((two, one) if day_first else (one, two)))
    name = _MONTH_NAME.search(text)
    if name is None:
        return None
    rest = _ORDINAL.sub("", f"{text[: name.start()]} {text[name.end() :]}")
    numbers = re.findall(r"\d+", rest)
    if len(numbers) != 2 or max(map(len, numbers)) != 4 or _NO_PART.sub("", re.sub(r"\d+", "", rest)):
        return None
    return (max(map(int, numbers)), 1 + MONTHS.index(name[1].casefold()), min(map(int, numbers)))


def in_numbers(cell: str) -> bool:
    """Whether a date is written as 5/1/2021 is."""
    return _NUMBERS.match(cell.strip()) is not None


def find_day_first(cells: Iterable[str]) -> tuple[bool, bool]:
    """Whether the day comes first in a column of dates such as 5/1/2021, and whether that is certain.

    The first cell with a number above 12 decides. Where there is none, it is the order in which the posts lie closer
    together, as they follow each other in time; else the month comes first.
    """
    before: dict[bool, float] = {}
    way = {True: 0.0, False: 0.0}
    for cell in cells:
        match = _NUMBERS.match(cell.strip())
        if match and (int(match[1]) > 12 or int(match[3]) > 12):
            return int(match[1]) > 12, True
        for order in (True, False):
            if match and (date := parse_date(match[0], day_first=order)) is not None:
                way[order] += abs(date - before.get(order, date))
                before[order] = date
    return way[True] < way[False], False
