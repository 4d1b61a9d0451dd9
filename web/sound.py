"""In the tab Training: what a judge found of the tweets that the evaluated model writes."""

from typing import Any

from markupsafe import Markup

from evaluation.tables import SOUND_WORDS, as_sentence, sound_table
from web.templates import figures_table


def sound_parts(result: dict[str, Any]) -> list[tuple[str, Markup, list[str]]]:
    """Title, table and explanations for the template evaluation.html; nothing if `evaluate` had no judge.

    Args:
        result: the content of results/evaluation.json.

    Raises:
        KeyError, TypeError: another version wrote it.
    """
    if not (judge := result.get("judge")):
        return []
    section = sound_table(result)
    words = [f"The judge is {judge['name']}.", *SOUND_WORDS, *map(as_sentence, judge["notes"])]
    return [(section.title, figures_table(section.heads, section.rows), words)]
