"""The tour for learners: its code is in the files, its commands work, its pictures show what they claim."""

import ast
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from config.cli import COMMANDS, parse
from config.schema import Config
from docs import comparison, figures, photographs
from inspection.attention import attention_weights, read
from model.checkpoint import Bundle
from model.tokenizer import END
from model.transformer import Block
from utils.preprocess import Corpus, Tweet

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "how_it_works.md"
TEXT = TOUR.read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```python\n# (\S+), (\S+)\n(.+?)```", TEXT, re.DOTALL)


def source_of(path: str, name: str) -> list[str]:
    """The lines of a function, found by its dotted name, without indentation and comments at their ends."""
    text = (ROOT / path).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        inside = [child for child in ast.walk(node) if getattr(child, "name", None) == part]
        assert inside, f"{path} has no {name}"
        node = inside[0]
    assert isinstance(node, ast.FunctionDef)
    return [line.split("  #")[0].strip() for line in text.splitlines()[node.lineno : node.end_lineno]]


@pytest.mark.parametrize(("path", "name", "code"), SHOWN, ids=[f"{path}:{name}" for path, name, _ in SHOWN])
def test_code_that_is_shown_stands_in_the_file(path: str, name: str, code: str) -> None:
    rest = iter(source_of(path, name))
    for line in code.strip().splitlines():
        assert line.strip() in rest, f"{path}, {name} no longer has this line (in this order): {line}"


def test_every_step_shows_its_code() -> None:
    steps = re.split(r"^## \d+\. ", TEXT, flags=re.MULTILINE)[1:]
    assert len(steps) == 9 and len(SHOWN) == TEXT.count("```python")
    assert all("```python" in step and "*Try:*" in step for step in steps)


def test_the_tour_shows_every_figure_of_its_command() -> None:
    shown = {Path(link).name for link in re.findall(r"\]\((pictures/[^)]+)\)", TEXT)}
    assert shown == {f"{name}.png" for name in [*figures.FIGURES, *figures.MEASURED, "positions", "page"]}


def test_links_and_pictures_exist_and_none_is_left_over() -> None:
    linked = set()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]:
        links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        paths = {(page.parent / link).resolve() for link in links if "://" not in link}
        assert all(path.exists() for path in paths), page
        linked |= paths
    assert set((ROOT / "docs" / "pictures").iterdir()) <= linked
    assert {page.resolve() for page in (ROOT / "docs").glob("*.md")} <= linked, "the README leads to every document"


FACTS = {
    path.stem: json.loads(Image.open(path).text["Facts"])  # type: ignore[attr-defined]
    for path in sorted((ROOT / "docs" / "pictures").glob("*.png"))
}


def test_all_pictures_are_of_one_model_and_the_documents_say_its_figures() -> None:
    of_model = {name: facts for name, facts in FACTS.items() if name not in figures.MEASURED}
    shown = {(facts["parameters"], facts["bits_per_byte"]) for facts in of_model.values()}
    assert len(shown) == 1 and len(of_model) >= 9
    model, ngram = (f"{FACTS['loss'][key]:.3f}" for key in ("bits_per_byte", "ngram"))
    assert f"{model} bits per byte" in TEXT and f"n-gram\nhas {ngram}" in TEXT
    assert all(figure in README for figure in (model, ngram))


def test_pictures_of_measurements_show_those_of_the_file() -> None:
    curves = json.loads(comparison.RESULT.read_text(encoding="utf-8"))["bits_per_byte"]
    for name in figures.MEASURED:
        assert FACTS[name] == {variant: round(mean(run[-1] for run in runs), 3) for variant, runs in curves.items()}


def test_the_readme_quotes_the_tweets_of_its_picture() -> None:
    written = FACTS["playground_write"]
    assert written["prompt"] == photographs.PROMPT and min(map(int, written["tweets"])) == photographs.SEED
    rows = dict(re.findall(r"^\| (\d+) \| ([^|]+) \|$", README, re.MULTILINE))
    assert rows == written["tweets"]
    command = f'python main.py generate "{photographs.PROMPT}" --generate.seed {photographs.SEED}'
    assert command in README


def test_commands_parse() -> None:
    commands = re.findall(r"python main\.py (\w+)([^`\n]*)", TEXT)
    assert len(commands) >= 6
    for name, rest in commands:
        assert name in COMMANDS
        parse(name, shlex.split(rest))


# ---- the pictures ---------------------------------------------------------------------------------------------------


def heights(figure: object) -> list[float]:
    return [bar.get_height() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_tokens_are_those_of_the_tweet(trained: tuple[Config, Bundle]) -> None:
    texts = [text.get_text() for text in figures.tokens(trained[1]).axes[0].texts]
    numbers = [int(text) for text in texts[1::2]]
    assert trained[1].tokenizer.decode(numbers) == figures.TWEET


def test_wrong_positions_are_given_to_the_model(sample: tuple[Config, Corpus], trained: tuple[Config, Bundle]) -> None:
    """Against the model that is given its positions one by one; and it is as before afterwards."""
    bundle, corpus = trained[1], replace(sample[1], val=sample[1].val[:20])
    before = bundle.model.wpe.weight.detach().clone()
    shown = [bar.get_width() for bar in figures.positions(bundle, corpus).axes[0].patches]  # type: ignore[attr-defined]
    assert torch.equal(bundle.model.wpe.weight, before)

    def bits_per_byte(by: int) -> float:
        nats = 0.0
        for tweet in corpus.val:
            ids = [END, *bundle.tokenizer.encode(tweet.text), *([END] if tweet.finished else [])]
            places = [0, *range(1 + by, len(ids) - 1 + by)]
            rows = bundle.vocabulary.from_gpt2(ids)
            x = bundle.model.wte(rows[:-1]) + bundle.model.wpe.weight[places]
            for block in bundle.model.h:
                x = block(x[None], cache=None, positions=None, mask=None)[0]
            logits = bundle.model.head(bundle.model.ln_f(x))
            found = bundle.vocabulary.log_probs(logits)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            nats -= float(found.detach().sum())
        return nats / math.log(2) / sum(len(tweet.text.encode()) + tweet.finished for tweet in corpus.val)

    assert shown[1] == pytest.approx(bits_per_byte(5) - bits_per_byte(0), abs=1e-5)


def test_the_head_is_the_one_that_looks_at_full_stops(trained: tuple[Config, Bundle]) -> None:
    bundle = trained[1]
    axes = figures.head(bundle).axes[0]
    layer, chosen = map(int, re.findall(r"\d+", axes.get_title()))
    ids = bundle.vocabulary.from_gpt2(read(bundle, figures.SENTENCES))
    weights = attention_weights(bundle.model, ids)
    names = [label.get_text() for label in axes.get_xticklabels()]
    stops = [place for place, name in enumerate(names[:-1]) if name == "."]
    looks = {
        (at, number): sum(float(weights[at, number, place + 1, place]) for place in stops)
        for at in range(weights.shape[0])
        for number in range(weights.shape[1])
    }
    assert len(stops) == 3 and (layer - 1, chosen - 1) == max(looks, key=lambda key: looks[key])


@torch.no_grad()
def test_endings_are_the_probability_of_the_mark(trained: tuple[Config, Bundle]) -> None:
    bundle = trained[1]
    ids = read(bundle, figures.WHOLE)
    shown = heights(figures.ending(bundle))
    for t in range(len(ids)):
        scores = bundle.model(bundle.vocabulary.from_gpt2(ids[: t + 1])[None])[0, -1].exp()
        expected = scores[bundle.vocabulary.end] / scores[~bundle.vocabulary.is_shared].sum()
        assert shown[t] == pytest.approx(float(expected), rel=1e-3)


def test_temperature_raises_to_a_power(trained: tuple[Config, Bundle]) -> None:
    """softmax(l / T) is p^(1/T), normalised: so ratios of two bars are powers of each other."""
    bars = heights(figures.temperature(trained[1]))
    cool, middle, hot = bars[:10], bars[10:20], bars[20:30]
    assert (cool[0] / cool[4]) ** 0.4 == pytest.approx((middle[0] / middle[4]) ** 0.8, rel=1e-3)
    assert (hot[0] / hot[4]) ** 1.5 == pytest.approx((middle[0] / middle[4]) ** 0.8, rel=1e-3)


def test_one_command_draws_them_all(
    trained: tuple[Config, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    figures.make(trained[0], tmp_path / "one")
    figures.make(trained[0], tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(f"{name}.png" for name in [*figures.FIGURES, *figures.MEASURED, "positions", "loss"])
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert "page.png, playground_*.png stay as they are" in capsys.readouterr().err


def test_without_a_model_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--paths.root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no checkpoint at")


# ---- the training comparison -----------------------------------------------------------------------------------------


def test_the_committed_measurements_are_those_of_the_code() -> None:
    found = json.loads(comparison.RESULT.read_text(encoding="utf-8"))
    config = parse("run", comparison.FLAGS)[0]
    assert found["epochs"] == config.train.epochs and found["n_embd"] == config.model.n_embd
    assert found["bits_per_byte"].keys() == comparison.VARIANTS.keys()
    for curves in found["bits_per_byte"].values():
        assert [len(curve) for curve in curves] == [1 + config.train.epochs] * len(comparison.SEEDS)


@torch.no_grad()
def test_a_block_without_skips_does_not_pass_its_input_on(settings: Callable[..., Config]) -> None:
    where = {"cache": None, "positions": None, "mask": None}
    block = Block(settings().model, 0).eval()
    x = torch.randn(1, 5, 16)
    for projection in (block.attn.c_proj, block.mlp.c_proj):
        projection.weight.zero_()
        projection.bias.zero_()
    assert torch.equal(block(x, **where), x)
    block.__class__ = comparison.WithoutSkips
    assert not block(x, **where).any()


def test_every_variant_is_trained_with_every_seed(tweets: list[Tweet], tmp_path: Path) -> None:
    source = tmp_path / "tweets.csv"
    source.write_text("text\n" + "\n".join(tweet.text for tweet in tweets), encoding="utf-8")
    flags = ["--data.path", str(source), "--data.near_duplicate_words", "9", "--machine.device", "cpu"]
    flags += ["--model.n_embd", "16", "--train.epochs", "1", "--train.sample_every", "0"]
    curves = comparison.compare(flags, (0, 1))["bits_per_byte"]
    ends = [round(run[-1], 6) for runs in curves.values() for run in runs]
    assert len(ends) == len(set(ends)) == 2 * len(comparison.VARIANTS)
