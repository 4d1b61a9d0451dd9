"""Texts that were written in a way of their own - Python bytes, escapes, HTML - and how to read them."""

import ast
import html
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser

MOST = 0.5  # of the texts must look so, where each of them is written so
SOME = 0.02  # of the texts must hold an escape, where only some characters are escaped

_BYTES = re.compile(r"""b(?:'.*'|".*")""", re.DOTALL)
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)
_TAG = re.compile(r"</?(?:p|br|a|span|div|b|i|em|strong|ul|ol|li|blockquote)\b[^<>]*>", re.IGNORECASE)
_ESCAPE = re.compile(
    r"(?:\\x[0-9a-fA-F]{2})+|(?:\\u[0-9a-fA-F]{4})+|\\U[0-9a-fA-F]{8}|\\[nrt\"'/\\]|(?:<U\+[0-9A-Fa-f]{4,8}>)+"
)
_SURE = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\n|\\\"|\\'|<U\+[0-9A-Fa-f]{4,8}>")
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t"}


def find_decoder(texts: Sequence[str]) -> tuple[Callable[[str], str], str] | None:
    """How the texts of a source are written, from the first of them: what reads them, and a note; None: as they are."""
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        return None

    def share(pattern: re.Pattern[str], *, whole: bool) -> float:
        return sum(1 for t in texts if (pattern.fullmatch(t) if whole else pattern.search(t))) / len(texts)

    if share(_BYTES, whole=True) > MOST:
        return from_bytes_literal, "the texts are Python bytes (b'...'): decoded"
    if share(_TAG, whole=False) > MOST:
        return from_html, "the texts are HTML: its tags are left out"
    escaped = sum(1 for text in texts if _SURE.search(text))
    backslashes = sum(text.count("\\") for text in texts)
    understood = sum(match[0].count("\\") for text in texts for match in _ESCAPE.finditer(text))
    if escaped >= max(2, SOME * len(texts)) and 10 * understood >= 9 * backslashes:
        if share(_QUOTED, whole=True) > MOST:
            return from_quoted, "the texts stand in quotes and are escaped: decoded"
        return from_escapes, r"the texts are escaped (\n, \u2019 ...): decoded"
    return None


def from_bytes_literal(text: str) -> str:
    """b'It\\xe2\\x80\\x99s' -> It's; what is no bytes literal is left as it is."""
    try:
        value = ast.literal_eval(text.strip()) if _BYTES.fullmatch(text.strip()) else text
    except (ValueError, SyntaxError):
        return from_escapes(text.strip()[2:-1])
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else text


def from_quoted(text: str) -> str:
    """A text in quotes, as Python or JSON writes it."""
    stripped = text.strip()
    return from_escapes(stripped[1:-1]) if _QUOTED.fullmatch(stripped) else from_escapes(text)


def from_escapes(text: str) -> str:
    r"""\n, \u2019, \xe2\x80\x99 and R's <U+2019> become what they stand for."""
    return _ESCAPE.sub(_character, text) if "\\" in text or "<U+" in text else text


def _character(match: re.Match[str]) -> str:
    escape = match[0]
    if escape.startswith("\\x"):
        codes = bytes.fromhex(escape.replace("\\x", ""))
        try:
            return codes.decode("utf-8")
        except UnicodeDecodeError:
            return codes.decode("latin-1")
    if escape.startswith("\\u"):
        return str(json.loads(f'"{escape}"'))  # pairs of surrogates become one character
    if escape.startswith("<U+") or escape.startswith("\\U"):
        codes_of = [int(code, 16) for code in re.findall(r"[0-9A-Fa-f]{4,8}", escape)]
        return "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes_of)
    return _SIMPLE.get(escape[1], escape[1])


class _Text(HTMLParser):
    """Collects the text of HTML; paragraphs and line breaks become line ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "br", "div", "li", "blockquote") and self.parts:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def from_html(text: str) -> str:
    """The text of a piece of HTML, as Mastodon keeps its posts."""
    if "<" not in text:
        return html.unescape(text)
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)
