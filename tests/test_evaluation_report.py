"""evaluation/report.py: the page escapes what it shows, runs nothing, and can be read on a phone and in the dark."""

import copy
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from evaluation.metrics import as_written
from evaluation.report import length_bins, write_report
from generate.copies import CopyCheck
from model.tokenizer import load_tokenizer

EVIL = "<script>alert('x')</script> & <b>bold</b> {{ title }}"
COPIED = "the very first rocket that we ever built on the beach flew for a minute"
DIFFERENCE = {"difference": -0.1, "low": -0.13, "high": -0.07}
RESULT: dict[str, Any] = {
    "model": {"name": EVIL, "kind": "checkpoint", "track": "tweets only", "parameters": 1000, "vocab_size": 10},
    "val": {
        "tweets": 450,
        "tokens": 6000,
        "bytes": 25_000,
        "bits_per_byte": 1.9,
        "interval": [1.8, 2.0],
        "nats_per_token": 5.5,
        "perplexity": 245.0,
        "eos_nats": 1.0,
        "end_probability": 0.4,
        "end_probability_elsewhere": 0.01,
    },
    "baselines": {"unigram": 2.9, "bigram": 2.2, "ngram": 2.0, "xz": 3.1, "bzip2": 3.0},
    "against_ngram": {"order": 3, "ours": 1.9, "theirs": 2.0, **DIFFERENCE},
    "against": {"model": EVIL, "track": "+ outside model", "ours": 1.9, "theirs": 2.0, **DIFFERENCE},
    "outside_ngram": None,
    "judge": None,
    "sampling": {"samples": 4, "temperature": 0.8, "top_p": 0.95, "top_k": 0, "max_new_tokens": 100},
    "stopping": {
        "stop_rate": 0.99,
        "mean_length": 13.0,
        "real_mean_length": 12.5,
        "length_ks": 0.05,
        "sentence_end": 0.9,
        "real_sentence_end": 0.9,
        "empty": 0.0,
    },
    "memorisation": {
        "train_tweets": 450,
        "train_nats_per_token": 5.2,
        "val_nats_per_token": 5.5,
        "gap": {"difference": 0.3, "low": 0.2, "high": 0.4},
        "membership_auc": 0.55,
        "train_ngram8_in_train": 0.02,
        "exact_copies": 0.01,
        "real_exact_copies": 0.0,
        "real_repeats": 0.126,
        "ngram8_in_train": 0.01,
        "real_ngram8_in_train": 0.01,
        "longest_copy_mean": 3.0,
        "real_longest_copy_mean": 3.0,
        "longest_copy_p95": 5.0,
        "real_longest_copy_p95": 5.0,
    },
    "diversity": {"unique": 1.0, "classifier_auc": 0.55}
    | {f"{side}distinct{length}": 0.8 for side in ("", "real_") for length in (1, 2, 3)},
    "notes": [f"it is {EVIL}"],
    "verdict": [EVIL, "It beats the 3-gram model."],
    "summary": [EVIL, "It predicts better than counting words."],
}
RESULT["shown"] = {
    "best_of": 4,
    "samples": 250,
    **{name: RESULT[name] for name in ("stopping", "memorisation", "diversity")},
}
CURVES = [
    {"step": 0, "baseline/ngram": 2.5},
    {"step": 0, "epoch": 0, "val/loss": 9.0, "val/bits_per_byte": 3.5},
    {"step": 9, "epoch": 1, "train/loss": 7.0, "val/loss": 6.0, "val/bits_per_byte": 2.1},
]


class StrictParser(HTMLParser):
    """Reads text, and fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass
class Page:
    """A page that was written, its source and what a reader finds in it."""

    path: Path
    source: str
    found: StrictParser = field(default_factory=StrictParser)


def write(folder: Path, texts: list[str], ended: list[bool], *, curves: Any = (), **changes: Any) -> Page:
    """The page of RESULT with these samples; the parser has checked that its tags match."""
    tokenizer = load_tokenizer()
    samples = as_written(texts, ended, tokenizer)
    path = folder / "report.html"
    write_report(
        path,
        {**copy.deepcopy(RESULT), **changes},
        shown=samples,
        samples=samples,
        real=as_written(["It flies.", "A comet hums over the van."], [True, True], tokenizer),
        copies=CopyCheck([COPIED]),
        curves=list(curves),
    )
    page = Page(path, path.read_text(encoding="utf-8"))
    page.found.feed(page.source)
    page.found.close()
    assert page.found.open == []
    return page


def test_everything_is_escaped_and_copied_spans_are_marked(tmp_path: Path) -> None:
    texts = [EVIL, f"Yes 🚀: {COPIED} <i>", COPIED, ""]
    page = write(tmp_path, texts, [True, False, True, True])
    assert not {"script", "b", "i"} & set(page.found.tags)
    for text in [*texts, f"It is {EVIL}", f"this model ({EVIL})"]:
        assert text in page.found.text
    assert re.findall(r"<mark>(.*?)</mark>", page.source)[1] == COPIED
    for words in ("cut at the length limit", "a training tweet word for word", "(empty)", "It beats the 3-gram model."):
        assert words in page.found.text


def test_without_samples_there_are_no_sections_about_them(tmp_path: Path) -> None:
    page = write(tmp_path, [], [], sampling={"samples": 0})
    assert "How well it predicts unseen tweets" in page.found.text
    assert not {"svg", "ol", "img"} & set(page.found.tags) and "Does it stop?" not in page.found.text


def test_the_curves_are_drawn_if_there_are_some(tmp_path: Path) -> None:
    assert "How was it trained?" not in write(tmp_path, ["x"], [True]).found.text
    page = write(tmp_path, ["x"], [True], curves=CURVES)
    assert page.found.tags.count("svg") == 3 and "img" not in page.found.tags
    assert "best: 2.100 at epoch 1" in page.source and "nats per token" in page.source
    assert "n-gram 2.000" in page.source and "2.500" not in page.source  # the figure of the table, not another one


def test_the_answer_comes_first_and_the_rest_is_folded(tmp_path: Path) -> None:
    page = write(tmp_path, ["x"], [True], curves=CURVES)
    text = " ".join(page.found.text.split())
    assert (
        text.index("How good is your model?") < text.index("better than counting words") < text.index("Does it stop?")
    )
    assert page.found.tags.count("section") == 1 and page.found.tags.count("h2") == page.found.tags.count("details") - 1
    assert " open" not in "".join(re.findall(r"<details[^>]*>", page.source))
    ids = re.findall(r' id="([^"]+)"', page.source)
    assert len(ids) == len(set(ids)) and all(
        f'id="{name}"' in page.source for name in re.findall(r"#(\w+_\w+)", page.source)
    )


def test_no_colour_is_fixed(tmp_path: Path) -> None:
    """All colours of the drawings are variables of the page, which has a light and a dark set of them."""
    page = write(tmp_path, ["x", "y z"], [True, True], curves=CURVES)
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert drawings.count("var(--") > 20 and not re.findall(r"#[0-9a-f]{6}\b", drawings)


def test_bins_hold_all_lengths() -> None:
    bins = length_bins([0, 1, 2, 3], [1, 2] * 100 + [500])
    assert sum(each.samples for each in bins) == pytest.approx(1) == sum(each.real for each in bins)
    assert [(each.label, each.samples) for each in bins[:4]] == [
        ("0", 0.25),
        ("1", 0.25),
        ("2", 0.25),
        ("3 or more", 0.25),
    ]
    assert bins[1].real == pytest.approx(100 / 201) and bins[-1].real == pytest.approx(1 / 201)
    wide = length_bins(list(range(100)), list(range(100)))
    assert wide[0].label == "0 to 3" and wide[0].samples == pytest.approx(0.04)


def brightness(colour: str) -> float:
    """Mean of red, green and blue, 0 to 255, of a colour as the browser gives it."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


SLOW = pytest.mark.slow


@pytest.mark.browser
@pytest.mark.parametrize(
    "width,scheme",
    [(1280, "light"), (390, "dark"), pytest.param(1280, "dark", marks=SLOW), pytest.param(390, "light", marks=SLOW)],
)
def test_it_can_be_read_on_any_screen_and_loads_nothing(
    browser: Browser, tmp_path: Path, scheme: Any, width: int
) -> None:
    page = write(tmp_path, [EVIL, COPIED, "word " * 80], [True, True, False], curves=CURVES)
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:
        tab = context.new_page()
        requests: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.path.as_uri())
        assert requests == [page.path.as_uri()]
        assert not tab.locator("table").first.is_visible()
        for summary in tab.locator("summary").all():
            summary.click()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
        ground = brightness(tab.locator("section").first.evaluate("part => getComputedStyle(part).backgroundColor"))
        assert (ground > 200) == (scheme == "light")
        for selector, colour in (
            ("td", "color"),
            ("svg text", "fill"),
            ("svg path[style*='fill: var(--samples)']", "fill"),
        ):
            for part in tab.locator(selector).all():
                found = part.evaluate(f"part => getComputedStyle(part).{colour}")
                assert found == "none" or abs(brightness(found) - ground) > 60, f"{selector} can't be seen"
        letters = tab.locator("svg text").evaluate_all("all => all.map(part => part.getBoundingClientRect().height)")
        assert min(letters) >= 10, "the letters of a drawing are too small"
