"""The playground's parts by themselves; test_web_app_browser.py has the whole page in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from config.cli import parse
from config.schema import Config
from generate.best_of import Sample
from model.checkpoint import Bundle
from model.tokenizer import load_tokenizer
from server.engine import Engine
from tests.serving import NASTY, Playground, built, data_of
from utils.clean import Cleaner
from utils.filters import Filters
from utils.preprocess import load_processed
from web.cards import Column, cards
from web.charts import Curve, bar_chart, line_chart
from web.models import Models
from web.tab_about import about
from web.tab_data import RULES, DataTab, change, find_examples, rules_table
from web.tab_inside import tokens_view
from web.tab_training import TrainingTab, file_versions, read_runs
from web.templates import figures_table, notice, public, short_percent, source_name

# Gradio still uses what pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated")

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def config(playground: Playground) -> Config:
    return playground.config


@pytest.fixture(scope="module")
def engine(playground: Playground) -> Engine:
    return playground.engine


@pytest.fixture
def empty(tmp_path: Path) -> Config:
    """Settings of a folder with nothing in it."""
    return parse("serve", ["--paths.root", str(tmp_path)])[0]


# ---- HTML and charts ------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The names, attribute values and text of some HTML."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.values: list[str | None] = []
        self.text = ""
        self.feed(str(page))  # a part of a Markup is one too, and would escape what is added to it
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_text_is_never_markup(text: str) -> None:
    found = Elements(figures_table((text, text), [(text, text)]))
    assert found.names == ["div", "table", "thead", "tr", "th", "th", "tbody", "tr", "th", "td"]
    assert f"{text}, {text}" in found.values and text in found.values
    assert found.text.replace("\n", "") == 4 * text.replace("\n", "")
    shown = Elements(notice(text))
    assert shown.text == text.replace("`", "") and set(shown.names) <= {"p", "code"}


@pytest.mark.parametrize("tweet", ["<script>alert(1)</script>", NASTY])
def test_a_tweet_with_a_script_is_shown_as_text(tweet: str) -> None:
    sample = Sample(prompt="", text=tweet, ids=[], finish_reason="stop", tokens=3, novel=True, seed=7)
    request: Any = object()  # what is finished is drawn from its sample
    shown = cards([Column("model", [request], {0: sample})])
    assert tweet in Elements(shown).text and not {"script", "img"} & set(Elements(shown).names)
    assert data_of(shown)[0]["text"] == tweet
    drawn = line_chart([Curve(tweet, [(0, 1.0), (1, 2.0)], 0)], title=tweet, x_name="epoch", y_name="bits")
    assert tweet in Elements(drawn).text and not {"script", "img"} & set(Elements(drawn).names)


def test_a_notice_shows_commands_as_code() -> None:
    assert notice("Run `a <b>`!") == '<p class="notice" role="status">Run <code>a &lt;b&gt;</code>!</p>'


@pytest.mark.parametrize(("share", "text"), [(0, "0.0%"), (0.0004, "under 0.1%"), (0.034, "3.4%"), (0.5, "50%")])
def test_percent(share: float, text: str) -> None:
    assert short_percent(share) == text


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("{root}/results/metrics.jsonl, line 1: not JSON", "results/metrics.jsonl, line 1: not JSON"),
        ("can't read '/home/ann/my.csv': denied", "can't read 'my.csv': denied"),
        (r"C:\Users\ann\my.csv is gone", "my.csv is gone"),
        ("data/my.csv or since/until; `python main.py run`", "data/my.csv or since/until; `python main.py run`"),
    ],
)
def test_no_folder_of_the_server_is_told(tmp_path: Path, message: str, shown: str) -> None:
    paths = parse("serve", ["--paths.root", str(tmp_path / "of ann")])[0].paths
    assert public(message.format(root=paths.root), paths) == shown
    assert source_name({"path": "/home/ann/tweets/my.csv"}) == "my.csv"
    assert source_name({"path": "?", "files": [{"path": "data/a.csv"}, {"path": "/b/b.csv"}]}) == "data/a.csv, b.csv"


def shapes(drawn: str) -> dict[str, ElementTree.Element]:
    """The shapes of a chart that have a title, by that title."""
    found = re.search("<svg.*</svg>", drawn, re.DOTALL)
    assert found
    svg = ElementTree.fromstring(found[0])
    assert svg.attrib["role"] == "img" and svg.attrib["aria-label"]
    return {each.findtext(f"{SVG}title") or "": each for each in svg.iter() if each.find(f"{SVG}title") is not None}


def test_a_chart_has_every_point_at_its_place() -> None:
    points = [(0.0, 2.5), (1.0, 2.0), (3.0, 1.5)]
    curves = [Curve("a<b", points, 0), Curve("$x$", [(0.0, 2.0)], 9, dashed=True)]
    drawn = line_chart(curves, title="t", x_name="epoch", y_name="bits")
    found = shapes(drawn)
    assert list(found) == [f"a<b: {y:.3f} at epoch {x:g}" for x, y in points] + ["$x$: 2.000 at epoch 0"]
    places = [(float(found[title].attrib["x"]), float(found[title].attrib["y"])) for title in list(found)[:3]]
    (x0, y0), (x1, y1), (x3, y3) = places
    assert x3 - x0 == pytest.approx(3 * (x1 - x0), rel=1e-3) and x1 > x0
    assert y3 - y1 == pytest.approx(y1 - y0, rel=1e-3) and y1 > y0  # SVG counts downwards
    numbers = re.findall(r">(-?[\d.]+)</text>", drawn)
    assert {"0", "1", "2", "3"} <= set(numbers) and {"1.6", "2.4"} <= set(numbers)  # both axes
    assert "var(--series-0)" in drawn and "var(--series-1)" in drawn and not re.search("#[0-9a-f]{6}", drawn)


def test_bars_are_as_high_as_their_shares() -> None:
    series = [("one", [0.5, 0.25, 0.25]), ("two", [0.0, 1.0, 0.0])]
    found = shapes(bar_chart(["0", "10", "20+"], series, title="t", x_name="tokens", y_name="share"))
    assert len(found) == 6

    def height(title: str) -> float:
        path = next(iter(found[title].iter(f"{SVG}path"))).attrib["d"]
        ys = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        return max(ys) - min(ys)

    assert height("one, tokens 0: 50.0%") == pytest.approx(2 * height("one, tokens 20+: 25.0%"), rel=1e-3)
    assert height("two, tokens 10: 100.0%") == pytest.approx(2 * height("one, tokens 0: 50.0%"), rel=1e-3)
    assert height("two, tokens 0: 0.0%") == 0


# ---- what the tabs compute ------------------------------------------------------------------------------------------


def test_every_rule_that_did_something_has_an_example(config: Config) -> None:
    info = load_processed(config.paths).info
    found = find_examples(info).found
    for line in info["rules"]:
        if line["changed"] or line["dropped"]:
            assert found[line["rule"]], line
    assert all(not after for _, after in found["duplicates"])
    assert all("http" in before and "http" not in after for before, after in found["drop_links"])


def test_every_rule_has_a_sentence(config: Config) -> None:
    flags = ["--data.replies", "false", "--data.min_likes", "3", "--data.since", "2020-01-01", "--data.languages", "en"]
    settings = parse("serve", flags)[0].data
    names = [name for name, _ in (*Filters(settings).filters, *Cleaner(settings, private=True).rules)]
    assert {*names, "duplicates"} == set(RULES) and all(sentence.endswith(".") for sentence in RULES.values())
    assert RULES["tidy"] in rules_table(load_processed(config.paths).info, config.paths)


@given(st.text(max_size=80), st.text(max_size=30), st.text(max_size=30), st.text(max_size=80))
def test_an_example_shows_what_changed(head: str, old: str, new: str, rest: str) -> None:
    before, after = head + old + rest, head + new + rest
    shown = change(before, after)
    assert isinstance(shown, Markup) and (("dropped" in shown) >= (not after))


def test_token_chips_are_the_tokenizers(trained: tuple[Config, Bundle]) -> None:
    shown = tokens_view(trained[1], NASTY)
    assert [int(index) for index in re.findall(r"<small>(\d+)</small>", shown)] == load_tokenizer().encode(NASTY)
    assert "<script" not in shown and "<img" not in shown
    assert "notice" in tokens_view(trained[1], "\ud83d")
    assert "0 tokens" in tokens_view(trained[1], "")


def test_a_folder_without_anything_gets_friendly_lines(empty: Config, trained: tuple[Config, Bundle]) -> None:
    _, _, training = built(lambda: TrainingTab(empty.paths)).refresh((), [])
    data = built(lambda: DataTab(trained[1], empty.paths)).show()
    assert "<code>python main.py train</code>" in training and "<code>python main.py evaluate</code>" in training
    assert "<code>python main.py preprocess</code>" in data
    assert "not those that are in this folder now" in about(trained[1], empty.paths)


def test_a_run_in_progress_grows(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config.paths.results, tmp_path / "results")
    paths = parse("serve", ["--paths.root", str(tmp_path)])[0].paths
    tab = built(lambda: TrainingTab(paths))
    seen, chosen, page = tab.refresh((), [])
    assert chosen.value == ["model"] and "<svg" in page
    assert "__type__" in str(tab.refresh(seen, ["model"])[2])  # nothing new: the page stays as it is
    line = {"step": 99, "epoch": 7, "val/loss": 5.0, "val/bits_per_byte": 1.875, "sample": "Hello <b>"}
    with paths.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    _, _, grown = tab.refresh(seen, ["model"])
    assert "model: 1.875 at epoch 7" in grown and "model: 1.875 at epoch 7" not in page and "Hello &lt;b&gt;" in grown


def test_the_n_gram_baseline_of_a_run_is_drawn(tmp_path: Path) -> None:
    paths = parse("serve", ["--paths.root", str(tmp_path)])[0].paths
    records = [
        {"step": 0, "baseline/ngram": 2.25},
        {"step": 5, "epoch": 1, "val/loss": 4.0, "val/bits_per_byte": 2.5},
        {"step": 10, "epoch": 2, "val/loss": 3.5, "val/bits_per_byte": 2.0},
    ]
    paths.metrics.parent.mkdir(parents=True)
    paths.metrics.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    page = built(lambda: TrainingTab(paths)).draw(["model"])
    assert {f"n-gram, which only counts words: 2.250 at epoch {epoch}" for epoch in (1, 2)} <= set(
        shapes(page.split("</figure>")[0])
    )
    assert "n-gram" not in page.split("</figure>")[1]  # the log has no loss of it


def test_what_is_broken_in_the_results_is_told(config: Config, tmp_path: Path) -> None:
    paths = parse("serve", ["--paths.root", str(tmp_path)])[0].paths
    paths.results.mkdir()
    (paths.results / "metrics.jsonl").write_text("not json\n", encoding="utf-8")
    (paths.results / "evaluation.json").write_text('{"model": 3}', encoding="utf-8")
    (paths.results / "other.jsonl").write_text("[1]\n", encoding="utf-8")
    assert read_runs(paths)[0] == {} and len(file_versions(paths)) == 3
    page = built(lambda: TrainingTab(paths)).draw([])
    assert "line 1: not JSON" in page and "evaluation.json is not what this version writes" in page
    assert str(tmp_path) not in page


def test_a_model_that_changed_is_opened_again(engine: Engine, config: Config) -> None:
    models = Models(engine, config)
    assert list(models.others()) == ["student"]
    first = models.open("student")
    assert models.open("student") is first
    path = config.paths.checkpoints / "student.pth"
    shutil.copy(path, path.with_name("control.pth"))
    path.unlink()
    shutil.copy(path.with_name("control.pth"), path)
    (path.with_name("control.pth")).unlink()
    assert models.open("student") is not first
    models.open("student").close()
