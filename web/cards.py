"""Tweets as cards: the text, how it ended, and whether it is copied."""

import json
from dataclasses import asdict, dataclass

from markupsafe import Markup

from generate.best_of import Sample
from server.best_text import BestText
from web.templates import render

REASONS = {"stop": "ended by itself", "length": "cut at the length limit"}


@dataclass
class Column:
    """The tweets of one model. `samples` holds those that are finished, by the number of their request."""

    model: str
    requests: list[BestText]
    samples: dict[int, Sample]


def cards(columns: list[Column]) -> Markup:
    """All columns. The finished tweets are in it as JSON too, for the buttons that copy and save them."""
    samples = []
    for column in columns:
        for _, sample in sorted(column.samples.items()):
            fields = {key: value for key, value in asdict(sample).items() if key != "ids"}
            samples.append({"model": column.model, **fields})
    text = json.dumps(samples, ensure_ascii=False)
    return render("cards.html", columns=columns, samples_json=text, reasons=REASONS)
