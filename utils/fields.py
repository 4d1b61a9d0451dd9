"""The fields of a post: their many names, and the flags and numbers in them as they occur."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from config.schema import UserError
from utils.scripts import LETTER

# What each field may be called, the best name first, without case, spaces, underscores and dots (`plain`).
_TEXT = (
    "fulltext text tweettext tweet rawcontent content tweetcontent body message posttext statustext tweetbody post"
    " status caption renderedcontent selftext comment texto texte contenido contenu mensaje nachricht текст 内容 正文"
    " 本文 내용"
)
TEXT_NAMES = tuple(_TEXT.split())
_NAMES = {
    "long": "notetweettext extendedtweetfulltext longtext",
    "date": "date createdat datetime timestamp time tweetcreatedat tweetdate published publishedat postedat dateposted"
    " postdate createdtime createdutc created createdon pubdate indexedat",
    "retweet": "isretweet isrt retweet isrepost",
    "retweet of": "retweetedstatusid retweetedstatus retweetedstatusidstr retweetedtweet retweetedtweetid retweetid"
    " userrtid reblog referencedtweetsretweetedid retweetedstatusresult",
    "references": "referencedtweets",
    "reply": "isreply",
    "likes": "favorites favoritecount likes likecount likescount nlikes publicmetricslikecount metricslikecount"
    " favouritescount favouritecount favoritescount",
    "language": "lang language tweetlang",
    "truncated": "truncated istruncated",
}
_ROLES = {name: (role, rank) for role, names in _NAMES.items() for rank, name in enumerate(names.split())}
# A column whose name has one of these is beside the post: whose it is, where it is from, what it answers or quotes.
_BESIDE = re.compile(
    r"user|author|profile|account|owner|screenname|bio|description|source|url|link|location|place|hashtag|mention"
    r"|media|image|photo|quoted|retweeted|inreply|translat|alttext|headline|json|html|entit|query|keyword"
)
_LIKE_TEXT = re.compile(r"text|tweet|content|body|message|post|status|caption|comment")

# How cells say that they are empty, as databases, R, pandas and spreadsheets write them; how they say no and yes.
_BLANK = r"none null nil nan na n/a #n/a #na <na> \n \\n nat undefined (null) - -- [] {} ()"
_FALSE = "false f 0 0.0 no n off -1 falsch faux falso ложь нет non nein"
_TRUE = "true t 1 1.0 yes y on x retweet retweeted rt reply repost wahr vrai verdadero verdadeiro vero истина да oui sí"
BLANK_WORDS, FALSE_WORDS, TRUE_WORDS = {"", *_BLANK.split()}, {*_FALSE.split()}, {*_TRUE.split()}
_FACTORS = {
    **dict.fromkeys(("k", "tsd", "mil", "тыс", "千", "천"), 1e3),
    **dict.fromkeys(("m", "mio", "mi", "mln", "млн"), 1e6),
    **dict.fromkeys(("b", "bn", "mrd"), 1e9),
    **dict.fromkeys(("万", "萬", "만"), 1e4),
    **dict.fromkeys(("億", "亿", "억"), 1e8),
}
_NO_LETTER = re.compile(rf"[^{LETTER}]|[\d_]")
_NUMBER = re.compile(r"(?P<digits>\d[\d.,'’ \u00a0\u202f٬٫]*)(?P<power>[eE][+-]?\d+)?\s*(?P<factor>[^\W\d_]*)\.?\+?")
_GROUPS = re.compile(r"[1-9]\d{0,2}(?:([.,'’ \u00a0\u202f٬])\d{3})(?:\1\d{3})*")  # 1,234,567 or 1.234

SAMPLE_ROWS = 200  # rows looked at to find out what the columns hold
SHORT = 20  # a column whose cells are shorter than this on average holds names or codes, not posts
SAME = 0.3  # a column with a smaller share of different cells is the same in many rows: not the text


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A field's name without case, spaces and signs: isRetweet, is_retweet and "Is retweet" are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def find_roles(names: Iterable[str]) -> dict[str, str]:
    """Which of a record's fields holds what: the role -> the field's name, the best name of each role."""
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        if (place := _ROLES.get(plain(name))) and (place[0] not in found or place[1] < found[place[0]][0]):
            found[place[0]] = (place[1], name)
    return {role: name for role, (_, name) in found.items()}


def is_blank(cell: object) -> bool:
    """Whether a cell holds nothing, in one of the many ways to write that."""
    if cell is None or cell == "":
        return True
    text = str(cell)
    return len(text) < 16 and text.strip().casefold() in BLANK_WORDS


@lru_cache(maxsize=4096)
def parse_word(word: str) -> bool | None:
    """What a word says as a flag; None where it is empty or says neither."""
    word = word.strip().casefold()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def parse_flag(cell: object) -> bool | None:
    """Whether a cell says yes; None where it is empty or says neither."""
    return parse_word(str(cell))


def is_marked(cell: object) -> bool:
    """Whether a field names another post, by its id or as an object."""
    return not is_blank(cell) and parse_flag(cell) is not False


def parse_count(cell: object) -> int | None:
    """A number of likes: 1234, 1,234, 1.234 (as German writes it), 1.2K, 3.0; None where it can't be read."""
    if isinstance(cell, str) and cell.isdecimal():
        return int(cell)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return int(cell) if 0 <= cell < 1e15 else None
    match = _NUMBER.fullmatch(str(cell).strip())
    if match is None:
        return None
    digits, factor = match["digits"].strip(), match["factor"].casefold()
    if factor and factor not in _FACTORS:
        return None
    if _GROUPS.fullmatch(digits) and not factor:
        digits = re.sub(r"\D", "", digits)
    elif digits.count(",") + digits.count(".") > 1:  # 1,234.5 or 1.234,5: the last sign is the decimal one
        head, tail = re.split(r"[.,](?=\d*$)", digits)
        if not _GROUPS.fullmatch(head):
            return None
        digits = re.sub(r"\D", "", head) + f".{tail}"
    try:
        return int(round(float(digits.replace(",", ".") + (match["power"] or "")) * _FACTORS.get(factor, 1), 6))
    except (ValueError, OverflowError):
        return None


def is_count_column(cells: Iterable[object]) -> bool:
    """Whether a column that is named as a flag holds numbers: how often a post was retweeted, say."""
    return any((count := parse_count(cell)) is not None and count > 1 for cell in cells)


def one_line(text: str) -> str:
    """A cell as it can stand in a message."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def is_wordy(cell: str) -> bool:
    """Whether a cell holds words rather than a number, a link or a code."""
    letters = len(cell) - len(_NO_LETTER.findall(cell))
    return 2 * letters >= len(cell) and "://" not in cell[:8]


def holds_text(cells: Sequence[str]) -> bool:
    """Whether a column holds words, and different ones."""
    wordy = sum(map(is_wordy, cells))
    same = len(cells) >= 3 and len(set(cells)) <= max(1, SAME * len(cells))
    return 2 * wordy > len(cells) and not same


def find_text_column(where: str, names: Sequence[str], columns: Sequence[Sequence[str]], wanted: str | None) -> int:
    """Position of the text column: the wanted one, else a known name, else the one with the longest text.

    What is the same in most rows is not taken, nor what is named as something beside the post (user_description).

    Args:
        where: the file, for messages.
        names: of the columns.
        columns: the cells of each in the first rows; empty ones are left out.

    Raises:
        UserError: no such column, or none that looks like text; lists the columns with a cell of each.
    """
    listing = "; ".join(
        f"{one_line(name)[:40]} ({one_line(cells[0])[:24] if cells else 'empty'})"
        for name, cells in zip(names, columns, strict=True)
    )
    short = [plain(name) or name for name in names]
    if wanted is not None:
        for spelt, given in ((list(names), wanted), (short, plain(wanted) or wanted)):
            if given in spelt:
                return spelt.index(given)
        raise UserError(f"{where} has no column {wanted!r} (data.column); it has: {listing}")
    known = sorted((i for i in range(len(names)) if short[i] in TEXT_NAMES), key=lambda i: TEXT_NAMES.index(short[i]))
    for i in known:
        if holds_text(columns[i]):
            return i
    if len(names) == 1 and any(map(is_wordy, columns[0])):
        return 0
    length = {
        i: sum(map(len, cells)) / len(cells)
        for i, cells in enumerate(columns)
        if holds_text(cells) and not _BESIDE.search(short[i])
    }
    long = [i for i in length if length[i] >= SHORT]
    if best := [i for i in long if _LIKE_TEXT.search(short[i])] or long:
        return max(best, key=length.__getitem__)
    if filled := [i for i in known if columns[i]]:
        return filled[0]
    raise UserError(f"{where} has no column of text: name one with data.column; it has: {listing}")
