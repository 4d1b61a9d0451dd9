"""Tweets as cards: what was written, how it ended, and whether it is copied."""

import json
from dataclasses import asdict, dataclass

from generate.generate import Sample
from server.engine import TextRequest
from web.markup import Markup, tag


@dataclass
class Column:
    """The tweets of one model. A sample takes a request's place when it is done."""

    model: str
    requests: list[TextRequest]
    samples: dict[int, Sample]


def card(text: str, prompt: str, *notes: str | Markup, state: str = "") -> Markup:
    """A tweet with what is to be said of it; the prompt is set apart where the text begins with it."""
    given = prompt if text.startswith(prompt) else ""
    body = tag("p", tag("span", given, class_="given"), text[len(given) :], class_="text")
    return tag("li", body, tag("p", *notes, class_="notes"), class_=f"card {state}".strip())


def done_card(sample: Sample) -> Markup:
    """The card of a tweet that is written."""
    why = {"stop": "ended by itself", "length": "cut at the length limit"}.get(sample.finish_reason, "stopped")
    length = f"{len(sample.text):,} characters"
    notes = [tag("span", length), tag("span", why, class_=sample.finish_reason), tag("span", f"seed {sample.seed}")]
    if sample.novel is False:
        notes.insert(2, tag("span", "copied from training", class_="copied"))
    copy = tag("button", "Copy", type="button", data_copy=sample.text, aria_label=f"Copy: {sample.text[:40]}")
    return card(sample.text, sample.prompt.rstrip(), *notes, copy, state="" if sample.novel is not False else "known")


def cards(columns: list[Column]) -> Markup:
    """All columns; what is done is also there as JSON, for the buttons that copy and save it."""
    sections, written = [], []
    for column in columns:
        items = []
        for number, request in enumerate(column.requests):
            if sample := column.samples.get(number):
                items.append(done_card(sample))
                facts = {key: value for key, value in asdict(sample).items() if key != "ids"}
                written.append({"model": column.model, **facts})
            else:
                prompt = request.draft.prompt.rstrip()
                items.append(card(prompt + request.text, prompt, "writing …", state="writing"))
        title = [tag("h3", column.model)] if len(columns) > 1 else []
        sections.append(tag("section", *title, tag("ol", *items)))
    kind = "columns two" if len(columns) > 1 else "columns"
    return tag("div", *sections, class_=kind, data_samples=json.dumps(written, ensure_ascii=False))
