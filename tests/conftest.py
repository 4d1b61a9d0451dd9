"""What many tests share: tiny settings, the sample tweets preprocessed once, a tiny model trained once."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from playwright.sync_api import Browser, sync_playwright

from config.cli import parse
from config.schema import Config
from model.checkpoint import Bundle, load_bundle
from trainer.train import train
from utils.preprocess import Corpus, Tweet, preprocess

if TYPE_CHECKING:
    from tests.serving import Playground

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start: two tests share two cores
# A busy machine is no bug: no example fails for being slow.
hypothesis_settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("calm")

TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--train.epochs", "2"]
TINY += ["--train.learning_rate", "0.01", "--train.sample_every", "0", "--machine.device", "cpu"]
TINY += ["--machine.precision", "f32"]  # on every CPU the same, whether it was made for bfloat16 or not
SAMPLE_POSTS = 1065  # of 4,850: enough to learn from, and four times as fast
BROWSER = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSER += " --disable-component-update --disable-sync"


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """Tiny settings under the test's own folder; more flags may follow: settings("--train.epochs", "5")."""
    return lambda *flags: parse("train", ["--paths.root", str(tmp_path), *TINY, *flags])[0]


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of the first posts of the sample that ships."""
    lines = (Path(__file__).parents[1] / "data" / "sample_tweets.csv").read_text(encoding="utf-8").splitlines(True)
    path = tmp_path_factory.mktemp("sample") / "sample_tweets.csv"
    path.write_text("".join(lines[: SAMPLE_POSTS + 1]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sample(sample_file: Path) -> tuple[Config, Corpus]:
    """Its tweets, preprocessed into a folder of their own."""
    config = parse("train", ["--paths.root", str(sample_file.parent), "--data.path", str(sample_file), *TINY])[0]
    return config, preprocess(config)


@pytest.fixture(scope="session")
def trained(sample: tuple[Config, Corpus]) -> tuple[Config, Bundle]:
    """A tiny model trained on the sample for two epochs."""
    config, corpus = sample
    train(config, corpus)
    return config, load_bundle(config.paths.best_model, torch.device("cpu"))


@pytest.fixture(scope="session")
def tweets() -> list[Tweet]:
    """Made-up tweets, enough to train a toy on."""
    subjects = ("rocket", "van", "dog", "engine", "battery", "comet")
    verbs = ("flies", "sleeps", "hums", "waits", "glows")
    ends = ("again.", "at dawn!", "in the rain", "for 3 days 🚀.", "on Mars?")
    return [Tweet(f"The {s} {v} {e}", finished=e[-1] != "n") for s in subjects for v in verbs for e in ends]


@pytest.fixture(scope="session")
def corpus(tweets: list[Tweet]) -> Corpus:
    """The made-up tweets, every seventh kept for validation."""
    held = tweets[::7]
    rest = [tweet for tweet in tweets if tweet not in held]
    return Corpus(train=rest, val=held, info={"split": {"hash": "made-up", "train": len(rest), "val": len(held)}})


@pytest.fixture(scope="session")
def real_csv() -> Path:
    """The real CSV, where the environment variable ELON_TWEETS_CSV names one."""
    if not (path := os.environ.get("ELON_TWEETS_CSV")):
        pytest.skip("ELON_TWEETS_CSV is not set")
    return Path(path)


@pytest.fixture(scope="module")
def playground(trained: tuple[Config, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator["Playground"]:
    """A playground of its own for the tests of a file."""
    from tests.serving import playing  # not above: most tests need no server

    with playing(trained, tmp_path_factory.mktemp("playground") / "root") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, where there is one; it asks nothing of the network by itself."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER.split(), headless=True)
        yield browser
        browser.close()
