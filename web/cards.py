"""Tweets as cards: the text, how it ended, and whether it is copied."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from generate.best_of import Sample
from generate.copies import RULES, CopyCheck
from server.best_text import BestText
from web.templates import render

REASONS = {"stop": "ended by itself", "length": "cut at the length limit"}
MOST_EARLIER = 100  # tweets of the visit that the page keeps


@dataclass
class Column:
    """The tweets of one model. `samples` holds those that are finished, by the number of their request."""

    model: str
    requests: list[BestText]
    samples: dict[int, Sample]
    copies: CopyCheck | None = None


@dataclass(frozen=True)
class Card:
    """A finished tweet. `copied` says by which rule it is a copy; "" if it is none."""

    model: str
    sample: Sample
    copied: str


def finished_cards(column: Column) -> dict[int, Card]:
    """The cards of the tweets that are finished, by the number of their request."""
    copies = column.copies
    return {
        number: Card(column.model, sample, copies.how(sample.text) if copies and sample.novel is False else "")
        for number, sample in sorted(column.samples.items())
    }


def samples_json(cards: Sequence[Card]) -> str:
    """The tweets for the buttons that copy and save them."""
    samples = []
    for card in cards:
        fields = {key: value for key, value in asdict(card.sample).items() if key != "ids"}
        samples.append({"model": card.model, **fields})
    return json.dumps(samples, ensure_ascii=False)


def cards(columns: Sequence[Column]) -> Markup:
    """All columns, and the buttons that copy and save; these are off while no tweet is finished."""
    finished = [finished_cards(column) for column in columns]
    done = [card for each in finished for card in each.values()]
    return render(
        "cards.html",
        columns=[(column, cards) for column, cards in zip(columns, finished, strict=True)],
        samples_json=samples_json(done),
        done=done,
        reasons=REASONS,
        rules=RULES,
    )


def earlier_cards(earlier: Sequence[Card]) -> Markup:
    """The tweets that were written before in this visit, the newest first."""
    if not earlier:
        return Markup()
    compared = len({card.model for card in earlier}) > 1
    return render(
        "earlier.html",
        cards=earlier,
        compared=compared,
        samples_json=samples_json(earlier),
        reasons=REASONS,
        rules=RULES,
    )
