"""The cleaning rules, one function each, in the order in which they run.

Every rule takes a text and returns a text. A rule that leaves nothing drops the tweet.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from config.schema import DataConfig
from utils.scripts import CLOSERS, ENDS, HANGING, LETTER, SPACELESS, ends_in_its_script, full_stop

# A link ends before the punctuation that closes its sentence; t.co codes are ASCII, whatever is glued to them.
LINK = (
    r"https?://t\.co/[A-Za-z0-9]*"
    r"|(?:https?://|\bwww\.|pic\.twitter\.com/)(?:[^\s<>\"“”…]*[^\s<>\"“”….,!?;:'’)\]])?"
)
# Not after a letter or digit, which is an e-mail address; with the dots of Bluesky and Threads, @user@server and a
# possessive 's. A dot before a capital letter ends a sentence whose space is missing.
MENTION = (
    r"(?<![\w@＠])[@＠][A-Za-z0-9_]+(?:[A-Za-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*)+)?(?:@[\w-]+(?:\.[\w-]+)+)?(?:['’]s\b)?"
)
END_MARK = "<|endoftext|>"  # the tokenizer would read it as the end of a tweet
CUT_ALONE = 130  # the API cut at 140 characters: shorter than this, a "…" without a link is the author's
CUT_WORD = 100  # shorter than this, the API's "…" stands for a link it hid, and the word before it is whole
PIECE = 1 << 20  # characters: the words of a longer text are looked at piece by piece, or they would fill the memory
PASSES = 8  # rules run until nothing changes; two passes do for nearly all

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Controls, soft hyphen, zero-width space, marks of direction, word joiner, BOM, replacement character, lone surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffd\ud800-\udfff]"
)
# Misread UTF-8 always holds one of these (its first bytes, as a Western or a Cyrillic page has them).
_FOREIGN = re.compile("[\x80-\xff\u0400-\u04ff]")
# Joiners mean something inside an emoji and in Persian or Hindi, nothing beside Latin letters.
_LOOSE_JOINER = re.compile("(?<![^\x00-\xff])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\xff])")
_RETWEET = re.compile(r"^\W{0,2}RT @.*|\s[\"“(]?RT @\w+:.*")
_CUT = re.compile(r"(?<=\S)…\s?(?P<link>h(?:t(?:t(?:ps?(?::\S*)?)?)?)?)?$")
_LINK_AT_END = re.compile(rf"\s*(?:{LINK})$", re.IGNORECASE)
_LINK = re.compile(rf"(?P<before> ?)(?:{LINK})(?P<after> ?)", re.IGNORECASE)
_MENTION = re.compile(rf"(?P<before> ?){MENTION}(?:(?:,? (?:and |& )?|,|/){MENTION})*(?P<after> ?)")
# Bounded, and never from the middle of a run: text without an "@" must not take quadratic time.
_EMAIL = re.compile(r"(?<![\w.+@-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_DIGIT = re.compile(r"\d")
# International, (555) 123-4567 in its spellings, a leading 0 with nine digits or more, or ten digits in one.
_PHONE = re.compile(
    r"(?<![\w.,/$€£+-])(?:\+\d(?:[ ().-]{0,2}\d){7,14}|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"
    r"|\(?0\d(?:[ ()/.-]{0,2}\d){7,12}|\d{10,11})(?![\w%]|[.,]\d)"
)
_STREET = re.compile(
    r"(?<![\w.,$€£-])\d{1,5}[A-Za-z]?,? (?:(?:[NSEW]\.? )?(?:[A-Z\d][\w'.]{0,20} ){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Terrace|Highway|Hwy|Parkway|Pkwy)\b\.?"
    r"|(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Cc]hemin) (?:de |du |des |la |le |l'){0,3}[A-ZÀ-Ý][\w'-]{1,30})"
    r"|\b[A-ZÄÖÜ][\wäöüß-]{1,30}(?:straße|strasse|str\.|gasse|allee|platz|weg) \d{1,4}[a-z]?\b"
    r"|\b(?:Calle|Via|Rua|Avenida) (?:[A-ZÀ-Ý][\w']{1,20} ?){1,3},? \d{1,4}\b"
)
_IN_WORD = re.compile(rf"[{LETTER}\-'’@#$&/]")
_EMPTY_PAIR = re.compile(r" ?(?:\( ?\)|\[ ?\]|\" ?\"|“ ?”)")
_LEADING = re.compile(r"^(?:[,:;.&|/+–—-] +)+")
_HASHTAG = re.compile(rf"(?<![{LETTER}&#＃])[#＃](?=\w*[^\W\d_])([{LETTER}]+)")  # "#1" and "# of" are not hashtags
_END = re.compile(
    rf"[{re.escape(ENDS)}][{re.escape(CLOSERS)}]*$|[:：]$|(?:^|\s)(?:[:;=][-'o]?[()DPpOo/\\|*]|<3|[xX]D)$"
)
_FOLDS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′ʼ", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys("—―", " - "),
        "…": "...",
    }
)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that end between words; joined by spaces they are the text."""
    start = 0
    while len(text) - start > PIECE and (gap := text.find(" ", start + PIECE)) >= 0:
        yield text[start:gap]
        start = gap + 1
    yield text[start:] if start else text


def squeeze(text: str) -> str:
    """One space between words, none around; every kind of line end and space counts."""
    if len(text) <= PIECE:
        return " ".join(text.split())
    return " ".join(filter(None, (" ".join(piece.split()) for piece in pieces(text))))


def decode_entities(text: str) -> str:
    """&amp; and &#39; become what they stand for, also where they were escaped twice."""
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda match: html.unescape(match[0]), re.sub(r"&(?:amp;)+", "&", text))


def fix_mojibake(text: str) -> str:
    """UTF-8 that was once read in another encoding (â€™) is put right; text that is not broken is left alone."""
    if text.isascii() or not _FOREIGN.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(text) if ftfy.badness.is_bad(text) else text


def drop_end_marks(text: str) -> str:
    """A literal end mark in a tweet would end it."""
    return squeeze(text.replace(END_MARK, " ")) if END_MARK in text else text


def tidy(text: str) -> str:
    """Line ends and runs of spaces become one space; invisible characters go, but for the joiners inside emoji."""
    if not text.isascii() or not text.isprintable():
        text = _LOOSE_JOINER.sub("", _INVISIBLE.sub("", text))
    return squeeze(text)


def drop_retweets(text: str) -> str:
    """ "RT @x: …" is another person's text, at the start or after a comment."""
    return _RETWEET.sub("", text) if "RT @" in text else text


def trim_cutoff(text: str) -> str:
    """Remove what the API put where it cut a tweet: "…" right after a letter, then a link to the whole tweet.

    An author's own "…" has a space before the link (" … https://t.co/x"), or more text after it ("… and then").
    Its last word goes, unless it is surely whole; where a script has no spaces, every character is. Whatever this rule
    changes was cut.
    """
    match = _CUT.search(text) if "…" in text else None
    if match is None or (len(text) < CUT_ALONE and "://" not in (match["link"] or "")):
        return text
    before = text[: match.start()]
    if link := _LINK_AT_END.search(before):
        return before[: link.start()]
    broken = len(text) >= CUT_WORD and bool(_IN_WORD.match(before[-1]))
    return before[: last_gap(before)] if broken else before


def last_gap(text: str) -> int:
    """Where the last word of a text begins, its space included: after a space, or a character that is a word itself."""
    place = len(text)
    while place and not text[place - 1].isspace() and not SPACELESS.match(text[place - 1]):
        place -= 1
    return place - 1 if place and text[place - 1].isspace() else place


def _joined(match: re.Match[str]) -> str:
    """What stands in for something taken out of a sentence: a space, or nothing at its edges and before punctuation."""
    text, start, end = match.string, match.start(), match.end()
    if not match["after"]:
        return "" if text[end : end + 1] in ",.!?;:)]'’\"”…" else match["before"]
    return "" if start == 0 or (text[start - 1] in '([{"“' and not match["before"]) else " "


def _take_out(pattern: re.Pattern[str], text: str) -> str:
    """Remove all matches, and the commas, colons and empty brackets they leave behind."""
    first = pattern.search(text)
    if first is None:
        return text
    text = _EMPTY_PAIR.sub("", pattern.sub(_joined, text))
    return squeeze(_LEADING.sub("", text.lstrip()) if first.start() <= 1 else text)


def drop_links(text: str) -> str:
    """Links are random letters."""
    lower = text.lower()
    found = "://" in lower or "www." in lower or "pic.twitter.com/" in lower
    return _take_out(_LINK, text) if found else text


def drop_mentions(text: str) -> str:
    """@names go, wherever they stand; e-mail addresses are not mentions."""
    return _take_out(_MENTION, text) if "@" in text or "＠" in text else text


def mask_emails(text: str) -> str:
    """ann@example.com becomes [email]."""
    return _EMAIL.sub("[email]", text) if "@" in text else text


def mask_phones(text: str) -> str:
    """+44 20 7946 0958 becomes [phone]; years, prices and big numbers do not."""
    return _PHONE.sub("[phone]", text) if _DIGIT.search(text) else text


def mask_streets(text: str) -> str:
    """12 Elm Street becomes [address]."""
    return _STREET.sub("[address]", text) if _DIGIT.search(text) else text


def strip_hashtags(text: str) -> str:
    """#Mars becomes Mars."""
    return _HASHTAG.sub(r"\1", text) if "#" in text or "＃" in text else text


def drop_hashtags(text: str) -> str:
    """#Mars goes."""
    return squeeze(_HASHTAG.sub("", text)) if "#" in text or "＃" in text else text


def fold_typography(text: str) -> str:
    """One spelling for each quote, dash and ellipsis."""
    return text if text.isascii() else squeeze(text.translate(_FOLDS))


def is_emoji(character: str) -> bool:
    """Whether a character is a pictograph, or the invisible tail of one."""
    return character > "\u2000" and (
        unicodedata.category(character) in ("So", "Sk", "Cf", "Me") or character == "\ufe0f"
    )


def has_end(text: str) -> bool:
    """Whether a text ends as a sentence does: in a mark of its script, an emoji or a smiley."""
    return bool(_END.search(text[-32:])) or is_emoji(text[-1]) or ends_in_its_script(text)


def punctuate(text: str) -> str:
    """The full stop of its script where a finished tweet has no end of its own.

    An end is . ! ? … : and the like (also inside closing quotes or brackets), an emoji, or a smiley. A comma or a dash
    left hanging becomes the full stop.
    """
    if not text or text[-1] in ".!?" or has_end(text):
        return text
    base = text.rstrip(HANGING)
    while len(base) > 1 and base[-1] in "-–—&/|+" and base[-2] == " ":
        base = base[:-1].rstrip(HANGING)
    base = base or text
    return base if has_end(base) else base + full_stop(base)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What the rules made of one tweet."""

    text: str
    finished: bool
    changed: tuple[str, ...]  # rules that changed it
    dropped: str | None  # the rule after which nothing was left


class Cleaner:
    """The rules that the settings turn on, in order. Cleaning what is clean changes nothing.

    With `private`, what leads to a person is masked, and @names go whatever the settings say.
    """

    def __init__(self, settings: DataConfig, *, private: bool = False) -> None:
        def too_short(text: str) -> str:
            return text if len(text) >= settings.min_chars else ""

        rules: list[tuple[str, bool, Callable[[str], str]]] = [
            ("decode_entities", settings.decode_entities, decode_entities),
            ("fix_mojibake", settings.fix_mojibake, fix_mojibake),
            ("end_marks", True, drop_end_marks),
            ("tidy", True, tidy),
            ("drop_retweets", settings.drop_retweets, drop_retweets),
            ("trim_cutoff", settings.trim_cutoff, trim_cutoff),
            ("drop_links", settings.drop_links, drop_links),
            ("mask_emails", private, mask_emails),
            ("mask_phones", private, mask_phones),
            ("mask_streets", private, mask_streets),
            ("drop_mentions", settings.drop_mentions or private, drop_mentions),
            ("hashtags", settings.hashtags == "strip", strip_hashtags),
            ("hashtags", settings.hashtags == "drop", drop_hashtags),
            ("fold_typography", settings.fold_typography, fold_typography),
            ("min_chars", True, too_short),
            ("punctuate", settings.punctuate, punctuate),
        ]
        self.rules = [(name, rule) for name, on, rule in rules if on]

    def clean(self, text: str, *, finished: bool = True) -> Cleaned:
        """Run the rules until none changes anything: one rule's work may be another's to finish."""
        changed: list[str] = []
        for _ in range(PASSES):
            before = text
            for name, rule in self.rules:
                if name == "punctuate" and not finished:
                    continue
                new = rule(text)
                if new == text:
                    continue
                if name not in changed:
                    changed.append(name)
                if name == "trim_cutoff":
                    finished = False
                if not new:
                    return Cleaned("", finished, tuple(changed), name)
                text = new
            if text == before:
                break
        return Cleaned(text, finished, tuple(changed), None if text else "tidy")
