"""doctor: says what is there and what is not, breaks at neither, changes nothing, and guesses the time fairly."""

import csv
import gzip
import json
import re
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from config.cli import run_command
from config.schema import Config
from pipeline import doctor
from trainer.train import train
from utils.kaggle import SAMPLE
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--machine.device", "cpu"]


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short trials, and no tweets of this machine's own."""
    monkeypatch.setattr(doctor, "SECONDS", 0.05)
    monkeypatch.setattr(doctor, "TRIAL", 2)
    monkeypatch.setattr(doctor, "newest_cached", lambda: None)
    monkeypatch.setattr(doctor, "local_default", lambda config: None)


def ask(root: Path, *flags: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """The object that `doctor --json` prints."""
    assert run_command("doctor", ["--json", "--paths.root", str(root), *TINY, *flags]) == code
    return json.loads(capsys.readouterr().out)


def test_without_anything_it_still_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(tmp_path / "none", capsys=capsys)
    assert set(found) == {
        *("python", "platform", "packages", "missing_core", "machine"),
        *("data", "processed", "checkpoints", "estimate"),
    }
    assert found["packages"]["torch"]["version"] == metadata.version("torch")
    assert found["machine"]["device"] == "cpu" and found["machine"]["disk_free"] > 0
    assert found["data"]["path"] == str(SAMPLE) and "Kaggle" in found["data"]["plan"]
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        assert found["data"]["rows"] == sum(1 for _ in csv.DictReader(file))
    assert found["processed"] is None and found["checkpoints"] == {"best": None, "last": None}
    assert found["estimate"]["seconds"] > 0 and found["estimate"]["problem"] is None
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_the_table_says_it_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("doctor", ["--paths.root", str(tmp_path), *TINY]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"ms and about \d+ MB of memory", shown)
    assert "about" in shown and "of training at most" in shown and "none yet" in shown and "gradio" in shown


def test_after_a_run_it_knows_the_tweets_and_the_model(
    trained: tuple[Config, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = trained[0].paths
    found = ask(Path(paths.root), capsys=capsys)
    counts = json.loads(paths.processed_json.read_text(encoding="utf-8"))["split"]
    assert (found["processed"]["train"], found["processed"]["val"]) == (counts["train"], counts["val"])
    assert found["checkpoints"]["best"]["epoch"] in (1, 2) and found["checkpoints"]["last"]["epoch"] == 2
    assert found["estimate"]["parameters"] == trained[1].model.num_parameters()


def test_a_file_that_is_not_there_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(tmp_path, "--data.path", str(tmp_path / "no.csv"), capsys=capsys, code=1)
    assert "does not exist" in found["data"]["problem"]


def test_the_model_is_the_one_that_training_makes(
    trained: tuple[Config, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before `preprocess` too: the vocabulary is that of the training tweets."""
    found = ask(tmp_path, "--data.path", str(trained[0].data.path), capsys=capsys)["estimate"]
    assert found["parameters"] == trained[1].model.num_parameters()
    assert found["vocab_size"] == trained[1].vocabulary.vocab_size


def test_broken_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "data" / "processed.txt").write_text("half", encoding="utf-8")
    (tmp_path / "checkpoints" / "best_model.pth").write_bytes(b"PK not a checkpoint")
    found = ask(tmp_path, capsys=capsys)
    assert "processed.json is missing" in found["processed"]["problem"]
    assert "not a checkpoint" in found["checkpoints"]["best"]["problem"]
    assert "processed.json is missing" in found["estimate"]["problem"]


@pytest.mark.parametrize(("name", "code"), [("gradio", 0), ("torch", 1)])
def test_a_missing_package_is_named_with_its_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    original = metadata.version

    def version(package: str) -> str:
        if package == name:
            raise metadata.PackageNotFoundError(package)
        return original(package)

    monkeypatch.setattr(metadata, "version", version)
    found = ask(tmp_path, capsys=capsys, code=code)
    assert found["packages"][name]["version"] is None and found["packages"][name]["install"].startswith("pip install")
    assert found["missing_core"] == ([name] if code else [])
    assert (found["estimate"]["problem"] is None) == (code == 0)


def test_standard_input_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, "--data.path", "-", capsys=capsys)["data"]["path"] == "standard input"


TEXTS = [f"Post number {n} of a lamp that is as quiet as ever" for n in range(60)]
FILES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "table.txt": (
        "\n".join(["Id;Tweet Text;Likes", *(f"{n};{text};1.2K" for n, text in enumerate(TEXTS))]).encode("utf-16"),
        {"kind": "csv", "encoding": "utf-16", "column": "Tweet Text", "rows": 60, "columns": {"likes": "Likes"}},
    ),
    "lines.json": (
        "\n".join(json.dumps({"body": text, "createdAt": "2021-05-01"}) for text in TEXTS).encode(),
        {"kind": "jsonl", "encoding": "utf-8", "column": "body", "rows": 60, "columns": {"date": "createdAt"}},
    ),
    "packed.csv.gz": (
        gzip.compress("\n".join(["text", *TEXTS]).encode()),
        {"kind": "csv", "encoding": "utf-8", "column": "text", "rows": 60, "columns": {}},
    ),
    "plain": (
        "\n".join(TEXTS).encode("utf-8-sig"),
        {"kind": "txt", "encoding": "utf-8-sig", "column": None, "rows": 60, "columns": {}},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_it_says_how_a_file_would_be_read(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = FILES[name]
    (tmp_path / name).write_bytes(content)
    found = ask(tmp_path, "--data.path", str(tmp_path / name), capsys=capsys)["data"]
    assert found["files"][0].items() >= {**expected, "first": TEXTS[0], "problem": None}.items()
    assert (found["kind"], found["rows"], found["problem"]) == (expected["kind"], 60, None)
    assert run_command("doctor", ["--paths.root", str(tmp_path), *TINY, "--data.path", str(tmp_path / name)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{expected['kind']}, {expected['encoding']}" in shown and f"first: {TEXTS[0]}" in shown


def test_each_file_is_told_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "b.parquet").write_bytes(b"PAR1\x15")
    flags = ["--data.path", f"[{tmp_path / 'a.txt'}, {tmp_path / 'b.parquet'}]"]
    found = ask(tmp_path, *flags, capsys=capsys, code=1)["data"]
    assert [file["rows"] for file in found["files"]] == [60, None] and found["rows"] is None
    assert "is a Parquet file" in found["problem"] and found["files"][0]["problem"] is None


def test_of_many_posts_a_few_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tweets: list[Tweet]
) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{n} {tweets[n % 150].text}\n" for n in range(2000)), encoding="utf-8")
    exact = ask(tmp_path, "--data.path", str(path), capsys=capsys)
    monkeypatch.setattr(doctor, "POSTS", 500)
    guessed = ask(tmp_path, "--data.path", str(path), capsys=capsys)
    assert exact["data"]["rows"] == 2000 and guessed["data"]["rows"] is None
    assert guessed["estimate"]["tokens"] == pytest.approx(exact["estimate"]["tokens"], rel=0.15)
    assert guessed["estimate"]["steps"] == pytest.approx(exact["estimate"]["steps"], rel=0.15)


@pytest.mark.slow
def test_the_time_is_about_right(settings: SettingsOf, sample: tuple[Config, Corpus]) -> None:
    """Against the clock of a real run; any of three tries will do, as a machine may be busy just then."""
    tweets = [*sample[1].train, *sample[1].val]
    ratios = []
    for _ in range(3):
        config = settings("--train.epochs", "4")
        guessed = doctor.measure(config, tweets, 1.0)["seconds"]
        started = time.perf_counter()
        train(config, sample[1])
        ratios.append(guessed / (time.perf_counter() - started))
        if 1 / 3 < ratios[-1] < 3:
            return
    raise AssertionError(f"guessed over real: {ratios}")


def test_durations_are_told_shortly() -> None:
    shown = [doctor.duration(seconds) for seconds in (4.2, 89, 150, 7200, 1e6)]
    assert shown == ["4 seconds", "89 seconds", "2.5 minutes", "2 hours", "12 days"]
