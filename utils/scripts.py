"""What differs between scripts: where words end, how sentences end, and how much of a text makes five words."""

import re
import unicodedata

# Scripts that put no spaces between words: Han; kana; and Thai, Lao, Tibetan, Burmese and Khmer.
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_SOUTHEAST = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3"
WORD = 60  # the weight of a word: enough that the others are whole numbers
WEIGHTS = {_HAN: WORD // 2, _KANA: WORD // 3, _SOUTHEAST: WORD // 3}  # of a character; vowel signs weigh nothing

SPACELESS = re.compile(f"[{_HAN}{_KANA}{_SOUTHEAST}]")
# A character of a word, as in a regular expression's brackets. Python's \w leaves out vowel signs and other marks,
# which are a third of the characters of Hindi or Thai; joiners stand inside the words of some scripts.
LETTER = (
    r"\w\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0963\u0971-\u0df3"
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f18\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f84\u0f86-\u0fbc\u102b-\u109d"
    r"\u135d-\u135f\u17b4-\u17d3\u1b00-\u1b44\u200c\u200d\ua980-\ua9c0"
)

ENDS = ".!?…。！？‽؟।॥۔։።፧།။៕។᙮⸮．｡｡\u037e"  # marks that end a sentence
CLOSERS = "'’\"”»)]}*」』】〉》〗〕〙〛］｝）〟›﴾"  # what may stand after such a mark
HANGING = " ,;，、،؛،፣၊､；"  # marks that can't end a sentence
# Full stops by the script of the last letter; any other script has ".", and Thai and Lao have none.
_STOPS = (
    (re.compile(f"[{_HAN}{_KANA}]"), "。"),
    (re.compile("[\u0900-\u097f\u0980-\u09ff\u0a00-\u0a7f\u0b00-\u0b7f]"), "।"),
    (re.compile("[\u0e00-\u0eff]"), ""),
    (re.compile("[\u1000-\u109f]"), "။"),
    (re.compile("[\u1780-\u17ff]"), "។"),
    (re.compile("[\u0f00-\u0fff]"), "།"),
    (re.compile("[\u1200-\u137f]"), "።"),
    (re.compile("[\u0530-\u058f]"), "։"),
)
_ARABIC = re.compile("[\u0600-\u06ff]")
_URDU = re.compile("[ٹڈڑںےھہۂۃ]")  # letters of Urdu that Arabic and Persian don't have
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
_LAUGHTER = re.compile(r"(?:^|[\s\W\uac00-\ud7a3])[\u3131-\u3163]{2,}[~!]*$")  # ㅋㅋㅋ ends a sentence as a smiley does


def last_letter(text: str) -> str:
    """The last letter of a text; "" where it has none."""
    return next((c for c in reversed(text) if c.isalpha()), "")


def full_stop(text: str) -> str:
    """The full stop that belongs after a text, by the script of its last letter."""
    letter = last_letter(text)
    if letter.isascii():
        return "."
    if _ARABIC.match(letter):
        return "۔" if _URDU.search(text) else "."
    return next((stop for script, stop in _STOPS if script.match(letter)), ".")


def ends_in_its_script(text: str) -> bool:
    """Whether a text ends in a way that only its script has: a Greek question mark, or Korean laughter."""
    if text[-1].isalnum() and text[-1] < "\u3131":  # nearly all
        return False
    return (text[-1] == ";" and bool(_GREEK.match(last_letter(text)))) or bool(_LAUGHTER.search(text[-64:]))


class _Units(dict[int, str | None]):
    """A table for str.translate, filled as it is used: what becomes of each character when a text is cut into units."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        found: str | None = character
        if SPACELESS.match(character):
            found = None if category[0] == "M" else f" {character} "
        elif category[0] in "PSC" or (category[0] == "M" and not 0x0900 <= code <= 0x0DFF):
            found = " " if character == "_" or character.isspace() else None
        self[code] = found
        return found


_UNITS = _Units()


def units(text: str) -> list[str]:
    """The words of a text, without case, punctuation, accents and emoji; of scripts without spaces, the characters.

    It is what two near-copies have in common.
    """
    return text.casefold().translate(_UNITS).split()


def weight(unit: str) -> int:
    """How much of a word a unit is, in parts of WORD: a Chinese character is half a word."""
    if len(unit) == 1 and SPACELESS.match(unit):
        return next(part for script, part in WEIGHTS.items() if re.match(f"[{script}]", unit))
    return WORD
