"""The tour for learners: its code is in the files, its commands work, its pictures show what they claim."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.cli import COMMANDS, parse
from config.schema import Config
from docs import comparison, figures
from inspection.attention import read
from model.checkpoint import Bundle
from model.transformer import Block
from utils.preprocess import Tweet

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "how_it_works.md"
TEXT = TOUR.read_text(encoding="utf-8")
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
    assert shown == {f"{name}.png" for name in [*figures.FIGURES, *figures.MEASURED, "page"]}


def test_links_and_pictures_exist_and_none_is_left_over() -> None:
    linked = set()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]:
        links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        paths = {(page.parent / link).resolve() for link in links if "://" not in link}
        assert all(path.exists() for path in paths), page
        linked |= paths
    assert set((ROOT / "docs" / "pictures").iterdir()) <= linked
    assert {page.resolve() for page in (ROOT / "docs").glob("*.md")} <= linked, "the README leads to every document"


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


def test_positions_are_compared_by_cosine(trained: tuple[Config, Bundle]) -> None:
    shown = figures.positions(trained[1]).axes[0].images[0].get_array()
    table = trained[1].model.wpe.weight[: figures.PLACES].detach()
    table = table - table.mean(0)
    a, b = table[3], table[17]
    assert shown is not None and shown[3, 17] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
    assert list(shown.diagonal()) == pytest.approx([1.0] * figures.PLACES, abs=1e-5)


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
    assert names == sorted(f"{name}.png" for name in [*figures.FIGURES, *figures.MEASURED])
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert "page.png stays as it is" in capsys.readouterr().err


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
