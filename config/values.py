"""A setting's value from its text: what was typed after a flag, or what stands in a config file.

A setting that may hold text keeps the text as it was written: `#1.csv`, `no`, `~` and `null` are names of files like
any other. Only lists, numbers and booleans are parsed. `null` means "not set" in a config file, and on the command
line for settings that hold no text.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from config.schema import UserError

if TYPE_CHECKING:
    import yaml

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
NULL_TAG = "tag:yaml.org,2002:null"

# An item of a list: in double quotes, in single quotes, or as it stands up to the next comma.
_ITEM = re.compile(r"""\s*(?:"(?P<double>[^"]*)"|'(?P<single>(?:[^']|'')*)'|(?P<plain>[^,]*?))\s*(?:,|$)""")


class WrongType(ValueError):
    """A text that is no value of the setting's type."""


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The types that a setting may have: int | None has two."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def in_words(kind: Any, *, flag: bool) -> str:
    """What to give for a setting of this type, as a flag or in a config file."""
    names, kinds = [], kinds_of(kind)
    for one in kinds:
        if one is NoneType and flag and str in kinds:
            continue  # there "null" is a text like any other
        if get_origin(one) is Literal:
            names.append(" or ".join(map(str, get_args(one))))
        elif get_origin(one) is list:
            names.append("a list such as [a, b]" if get_args(one) == (str,) else "a list such as [1, 2]")
        else:
            names.append(WORDS[one])
    return " or ".join(names)


def split_list(text: str) -> list[str]:
    """The items of `[a, b]` or of `a, b`; an item in quotes may hold commas."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    items, place = [], 0
    while place < len(inner) and inner[place:].strip():
        match = _ITEM.match(inner, place)
        if match is None:
            raise WrongType(text)
        double, single, plain = match.group("double", "single", "plain")
        items.append(double if double is not None else single.replace("''", "'") if single is not None else plain)
        place = match.end()
    return items


def from_text(kind: Any, text: str) -> Any:
    """The value of a flag.

    Raises:
        WrongType: the text is no value of this type.
    """
    kinds = kinds_of(kind)
    lists = [one for one in kinds if get_origin(one) is list]
    if lists and str in kinds and not re.fullmatch(r"\[.*\]", text, re.DOTALL):
        lists = []
    if text == "null" and NoneType in kinds and str not in kinds:
        return None
    if lists:
        return [simple(get_args(lists[0]), item) for item in split_list(text)]
    return simple(kinds, text)


def simple(kinds: Sequence[Any], text: str) -> Any:
    """A number, a boolean, one of a few words, or the text itself, by what the setting may be."""
    for one in kinds:
        if get_origin(one) is Literal and text in get_args(one):
            return text
        if one is bool and text.casefold() in BOOLEANS:
            return BOOLEANS[text.casefold()]
        try:
            if one is int:
                return int(text)
            if one is float and math.isfinite(number := float(text)):
                return number
        except ValueError:
            pass
    if str not in kinds or not text:
        raise WrongType(text)
    return text


def from_node(kind: Any, node: "yaml.Node") -> Any:
    """The value that a config file gives to a setting.

    Raises:
        WrongType: it is no value of this type.
    """
    import yaml

    kinds = kinds_of(kind)
    if isinstance(node, yaml.SequenceNode):
        lists = [one for one in kinds if get_origin(one) is list]
        if not lists:
            raise WrongType(f"[{len(node.value)} items]")
        return [from_node(get_args(lists[0])[0], item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise WrongType("several settings")
    if node.tag == NULL_TAG:  # a quoted 'null' is text
        if NoneType not in kinds or not node.value:  # `key:` with nothing after it, or with a comment only
            raise WrongType(node.value)
        return None
    if str in kinds:
        if not node.value:
            raise WrongType("")
        return node.value
    return from_text(kind, node.value)


def read_config(path: Path) -> "dict[str, yaml.Node]":
    """The settings of a YAML file by dotted name, as nodes that still have their text. It is read as UTF-8, always.

    Raises:
        UserError: it cannot be read, is no YAML, or holds no settings; names the file.
    """
    import yaml  # here, so that --help needs no package

    try:
        text = path.read_bytes().decode("utf-8-sig")
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: check --config") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UserError(f"{path} holds no settings")
    found: dict[str, yaml.Node] = {}
    for section, inside in root.value:
        if isinstance(inside, yaml.ScalarNode) and not inside.value:
            continue  # a section without settings
        if not isinstance(section, yaml.ScalarNode) or not isinstance(inside, yaml.MappingNode):
            raise UserError(
                f"{path}, line {section.start_mark.line + 1}: put settings below a section, as in config.yaml"
            )
        for key, node in inside.value:
            name = f"{section.value}.{key.value}"
            if name in found:
                raise UserError(f"{path}, line {key.start_mark.line + 1}: {name} is there twice")
            found[name] = node
    return found
