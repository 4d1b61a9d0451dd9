"""evaluation/report.py: the page stands alone, hides nothing and runs nothing."""

import re
from html.parser import HTMLParser

import pytest

from evaluation.metrics import as_written
from evaluation.report import Section, histogram, mark, plot_html, samples_html, table_html
from generate.copies import CopyCheck
from model.tokenizer import load_tokenizer

EVIL = "<script>alert('x')</script> & <b>bold</b> {{tables}}"
COPIED = "the very first rocket that we ever built on the beach flew for a minute"


class Strict(HTMLParser):
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

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def copies() -> CopyCheck:
    return CopyCheck([COPIED], load_tokenizer().encode_batch([COPIED]))


def test_samples_are_escaped_and_copied_spans_marked(copies: CopyCheck) -> None:
    tokenizer = load_tokenizer()
    texts = [EVIL, f"Yes 🚀: {COPIED} <i>", COPIED, ""]
    page = samples_html(as_written(texts, [True, False, True, True], tokenizer), copies, tokenizer)
    found = parse(page)
    assert "script" not in found.tags and "i" not in found.tags
    for text in texts:
        assert text in found.text
    assert re.findall(r"<mark>(.*?)</mark>", page)[1] == COPIED
    assert "cut at the length limit" in page and "a training tweet word for word" in page and "(empty)" in page


def test_marks_lie_on_whole_characters() -> None:
    tokenizer = load_tokenizer()
    sample = as_written(["go 🚀 é!"], [True], tokenizer)[0]
    for place in range(len(sample.ids)):
        flags = [token == place for token in range(len(sample.ids))]
        marked = mark(sample, flags, tokenizer)
        assert marked.replace("<mark>", "").replace("</mark>", "") == sample.text
        assert marked.count("<mark>") == marked.count("</mark>") == 1


def test_a_table_is_escaped() -> None:
    found = parse(table_html(Section(EVIL, ("", EVIL), [(EVIL, EVIL)], EVIL)))
    assert "script" not in found.tags and found.text.count(EVIL) == 5


def test_histogram_bars_are_shares() -> None:
    page = histogram([0, 1, 2, 3], [1, 2] * 100 + [500])
    parse(page)
    heights = {
        kind: sum(float(h) for h in re.findall(rf"class='{kind}' [^>]*height='([\d.]+)'", page))
        for kind in ("samples", "real")
    }
    assert heights["samples"] == pytest.approx(heights["real"], rel=0.01)  # both are the whole
    assert "0 to 1 tokens: 50% of samples" in page or "0 to 0 tokens: 25% of samples" in page


def test_no_plot_no_picture(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plot") / "loss_plot.png"
    assert plot_html(None) == plot_html(path) == ""
    path.write_bytes(b"\x89PNG")
    assert "src='data:image/png;base64,iVBORw=='" in plot_html(path)
