"""Flags, numbers, dates and the text column, as they occur in other people's files."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import UserError
from utils.dates import parse_date
from utils.fields import find_roles, find_text_column, is_blank, parse_count, parse_flag


@pytest.mark.parametrize("word", ["true", "T", "1", "1.0", "Yes", "y", "WAHR", "VRAI", "on", "x", True])
def test_yes(word: object) -> None:
    assert parse_flag(word) is True


@pytest.mark.parametrize("word", ["False", "f", "0", "0.0", "No", "n", "-1", "FALSCH", "off", False])
def test_no(word: object) -> None:
    assert parse_flag(word) is False and not is_blank(word)


@pytest.mark.parametrize(
    "word", ["", " ", "NA", "N/A", "#N/A", r"\N", "null", "None", "nan", "NaN", "[]", "-", None, [], {}]
)
def test_empty(word: object) -> None:
    assert parse_flag(word) is None and is_blank(word)


@pytest.mark.parametrize("word", ["maybe", "7", "2021-01-01"])
def test_neither(word: object) -> None:
    assert parse_flag(word) is None and not is_blank(word)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0), ("17", 17), ("3.0", 3), ("1,234", 1234), ("1.234", 1234), ("1 234", 1234), ("1\u202f234", 1234),
        ("1'234'567", 1234567), ("12,345,678", 12345678), ("1.2K", 1200), ("1,2K", 1200), ("3M", 3000000),
        ("1.5 Mio.", 1500000), ("2,3 тыс.", 2300), ("1.2万", 12000), ("3천", 3000), ("1e3", 1000), ("4.1E+05", 410000),
        ("1,234.5", 1234), ("1.234,5", 1234), ("٤٢", 42), ("1,2 mil", 1200), (17, 17), (3.9, 3),
    ],
)  # fmt: skip
def test_numbers(written: object, number: int) -> None:
    assert parse_count(written) == number


@pytest.mark.parametrize("written", ["", "many", "-1", "1.2.3.4", "K", "12 apples", "NaN", None, True, float("nan")])
def test_what_is_no_number(written: object) -> None:
    assert parse_count(written) is None


@given(st.integers(0, 10**12))
def test_whole_numbers_come_back_however_they_are_grouped(number: int) -> None:
    for text in (
        str(number),
        f"{number:,}",
        f"{number:,}".replace(",", "."),
        f"{number:,}".replace(",", " "),
        f"{number}.0",
    ):
        assert parse_count(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "2018-10-10 20:19:24+00:00", "2018-10-10T20:19:24Z", "2018-10-10T20:19:24.000Z", "2018-10-10 20:19:24 +0000",
        "Wed Oct 10 20:19:24 +0000 2018", "Wed, 10 Oct 2018 20:19:24 +0000", "Wed, 10 Oct 2018 16:19:24 EDT",
        "2018/10/10 20:19:24", "2018-10-10 22:19:24 +02:00", "10.10.2018 20:19:24", "10/10/2018 8:19:24 PM",
        "Oct 10, 2018 · 8:19:24 PM UTC", "8:19:24 PM · Oct 10, 2018", "2018年10月10日 20:19:24", "1539202764",
        "1539202764000", "1539202764.0", "10 October 2018 at 20:19:24", "October 10th, 2018, 8:19:24 p.m.",
    ],
)  # fmt: skip
def test_dates(text: str) -> None:
    assert parse_date(text) == 1539202764.0


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "",
        None,
        "5",
        "2021",
        "31.06.2020",
        "May 5",
        "5/1/2021",
        "version 1.2.2018",
        "0001-01-01",
        "25:10 1 May 2021",
    ],
)
def test_what_is_no_date(text: str | None) -> None:
    assert parse_date(text) is None


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0, tzinfo=UTC)))
def test_days_with_numbers_need_their_order(moment: datetime) -> None:
    american, european = moment.strftime("%m/%d/%Y %I:%M:%S %p"), moment.strftime("%d.%m.%Y %H:%M:%S")
    assert parse_date(american, day_first=False) == parse_date(european, day_first=True) == moment.timestamp()
    if moment.day > 12:
        assert parse_date(american) == parse_date(european) == moment.timestamp()
    elif moment.day != moment.month:
        assert parse_date(american) is None and parse_date(european) is None


def test_names_are_compared_without_case_and_signs() -> None:
    names = ["ID", "Created At", "isRetweet", "Favorite_Count", "LANG", "retweets"]
    assert find_roles(names) == {
        "date": "Created At",
        "retweet": "isRetweet",
        "likes": "Favorite_Count",
        "language": "LANG",
    }
    assert find_roles(["likes", "Favorites"]) == {"likes": "Favorites"}, "the better name counts"


SAID = [f"This is what was said in post number {i}" for i in range(30)]
BIO = ["The same words about the same person in every row of the file, and many of them"] * 30
CODES = [str(10**18 + i) for i in range(30)]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"id": CODES, "user_description": BIO, "whatever": SAID}, "whatever"),
        ({"id": CODES, "about": BIO, "whatever": SAID}, "whatever"),
        ({"message": BIO, "whatever": SAID}, "whatever"),
        ({"tweet": CODES, "said": SAID}, "said"),
        ({"text": [""] * 30, "whatever": SAID}, "whatever"),
        ({"user_description": [f"{text} {text}" for text in SAID], "My Tweet Text": SAID}, "My Tweet Text"),
        ({"translated": [f"{text} {text}" for text in SAID], "said": SAID}, "said"),
        ({"full_text": SAID, "text": [text[:20] for text in SAID]}, "full_text"),
        ({"text": ["ok", "no", "hm"] * 10, "who": ["Ann Example of Somewhere"] * 30}, "text"),
        ({"id": CODES, "текст": SAID}, "текст"),
        ({"post_title": [text[:25] for text in SAID], "post_body": SAID}, "post_body"),
    ],
)
def test_the_text_column(columns: dict[str, list[str]], found: str) -> None:
    cells = [[cell for cell in column if cell] for column in columns.values()]
    assert list(columns)[find_text_column("t.csv", list(columns), cells, None)] == found


def test_side_columns_alone_are_refused() -> None:
    with pytest.raises(UserError, match=r"t.csv has no column of text: name one with data.column; it has: id \(1"):
        find_text_column("t.csv", ["id", "user_description"], [CODES, BIO], None)


def test_a_wanted_column_is_taken_however_it_is_spelt() -> None:
    names = ["text", "Tweet Body"]
    assert [find_text_column("t", names, [SAID, BIO], name) for name in ("Tweet Body", "tweet_body", "tweetBody")] == [
        1,
        1,
        1,
    ]
