"""benchmarks/teacher.py and probe.py with a tiny teacher: a line a model, made once, and a table of them."""

import io
import itertools
import json
import random
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import probe, teacher
from benchmarks.quality import read
from config.cli import parse
from config.schema import UserError
from evaluation.baselines import measure_baselines
from evaluation.subject import Checkpoint
from model.tokenizer import load_tokenizer
from tests.conftest import TINY
from tests.test_distillation_pretrained import HOWS, PLACES, SUBJECTS, VERBS
from tests.tiny_peer import make_llama, make_peer
from utils.preprocess import preprocess

pytestmark = pytest.mark.slow
QUICK = ["--distill.finetune_learning_rate", "0.02", "--distill.finetune_epochs", "6", "--evaluate.samples", "20"]
QUICK += ["--train.epochs", "1", "--model.block_size", "32", "--generate.max_new_tokens", "16"]


@dataclass(frozen=True)
class Made:
    """What one call of benchmarks.teacher left in a folder: its command line, its lines and its table."""

    folder: Path
    line: list[str]
    records: list[dict[str, Any]]
    table: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("teacher")
    every = [" ".join(("The", *words)) for words in itertools.product(SUBJECTS, VERBS, HOWS, PLACES)]
    texts = random.Random(0).sample(every, 340)
    csv, out = folder / "tweets.csv", folder / "teacher.jsonl"
    csv.write_text("text\n" + "\n".join(texts), encoding="utf-8")
    make_llama(folder / "llama", texts)
    make_peer(folder / "judge", n_positions=128)
    line = ["teacher", "--csv", str(csv), "--root", str(folder / "root"), "--teacher", str(folder / "llama")]
    line += ["--judge", str(folder / "judge"), "--seeds", "0", "1", "--splits", "0", "--sampled", "0.2", "0.4"]
    line += ["--sizes", "1x16", "--epochs", "1", "--out", str(out), "--", *TINY, *QUICK, "--distill.batch_size", "8"]
    line += ["--data.near_duplicate_words", "9"]
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told):
        patch.setattr(teacher, "JUDGED", 30)
        patch.setattr(sys, "argv", line)
        teacher.main()
    return Made(folder, line, read(out), told.getvalue())


@pytest.fixture(autouse=True)
def few_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "JUDGED", 30)


def alone(seed: int) -> list[tuple[str, int, float]]:
    """The models without a teacher."""
    return [("usual", seed, 0.0), ("control", seed, 0.0)]


def test_a_line_a_model(made: Made) -> None:
    records = made.records
    assert [(each["who"], each["seed"], each["sampled"]) for each in records] == [
        ("teacher", 0, 0.4),
        *(row for seed in (0, 1) for row in [("student", seed, 0.2), ("student", seed, 0.4), *alone(seed)]),
    ]
    for each in records:
        bits = np.sum(each["nats"]) / np.log(2) / np.sum(each["num_bytes"])
        assert bits == pytest.approx(each["bits_per_byte"], abs=1e-4)
        assert (each["track"] == "tweets only") == (each["who"] in ("control", "usual"))
        assert isinstance(each["fluency_gap"], float) and 0 <= each["stop_rate"] <= 1
    means = {
        name: np.mean(
            [each["bits_per_byte"] for each in records if each["who"] == "student" and each["sampled"] == name]
        )
        for name in (0.2, 0.4)
    }
    rows = [row for row in made.table.splitlines() if row.startswith("| student")]
    assert len(rows) == 2 and all(f"{means[name]:.3f} ±" in row for name, row in zip((0.2, 0.4), rows, strict=True))
    assert [row.split(" | ")[1:3] for row in rows] == [["0.2", "1"], ["0.4", "1"]]
    student = Checkpoint(next((made.folder / "root").rglob("student.pth")), torch.device("cpu"))
    assert student.outside_models == [str(made.folder / "llama")]


def test_what_taught_does_not_judge(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, taught, out = (str(path) for path in (made.folder / "judge", made.folder / "llama", tmp_path / "new.jsonl"))
    other = {judge: taught, str(made.folder / "teacher.jsonl"): out}
    monkeypatch.setattr(sys, "argv", [other.get(word, word) for word in made.line])
    with pytest.raises(UserError, match="taught the student, so it can't judge it"):
        teacher.main()
    assert not (tmp_path / "new.jsonl").exists()


def test_nothing_is_made_twice(made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = made.folder / "teacher.jsonl"
    before = out.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", made.line)
    teacher.main()
    assert out.read_text(encoding="utf-8") == before and "Training" not in capsys.readouterr().err
    assert json.loads(before.splitlines()[0])["teacher"] == str(made.folder / "llama")


def test_a_line_without_a_gap_gets_it(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "unjudged.jsonl"
    lines = [{**each, "fluency_gap": None} if each["seed"] else each for each in made.records]
    out.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    there = str(made.folder / "teacher.jsonl")
    monkeypatch.setattr(sys, "argv", [str(out) if word == there else word for word in made.line])
    teacher.main()
    found, wanted = ([each["fluency_gap"] for each in some] for some in (read(out), made.records))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_the_model_of_train_can_be_taken_over(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the lines of benchmarks.quality."""
    usual = [each for each in made.records if each["who"] == "usual"]
    known = [{"recipe": "small", "parameters": 7, "bytes": each["num_bytes"], **each} for each in usual]
    known = [{**each, "nats": [2.0 * nat for nat in each["nats"]]} for each in known]
    quality, out = tmp_path / "quality.jsonl", tmp_path / "other.jsonl"
    quality.write_text("".join(json.dumps(each) + "\n" for each in known), encoding="utf-8")
    others = ["--usual-from", str(quality), "--beside", "usual", "--out", str(out)]
    line = made.line
    monkeypatch.setattr(sys, "argv", [*line[: line.index("--out")], *others, *line[line.index("--") :]])
    teacher.main()
    again = [each for each in read(out) if each["who"] == "usual"]
    expected = [pytest.approx(2.0 * each["bits_per_byte"], abs=1e-3) for each in usual]
    assert [each["bits_per_byte"] for each in again] == expected and again[0]["fluency_gap"] is not None


def test_the_probe_of_what_the_teacher_wrote(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [word for word in made.line[1:] if word not in ("--judge", str(made.folder / "judge"))]
    flags = [*flags[: flags.index("--seeds")], "--sampled", "0.2", "0.4", *flags[flags.index("--") :]]
    monkeypatch.setattr(sys, "argv", ["probe", *flags])
    probe.main()
    cells = [row.split("|") for row in capsys.readouterr().out.splitlines()[2:]]
    csv = ["--data.path", str(made.folder / "tweets.csv")]
    corpus = preprocess(parse("train", ["--paths.root", str(tmp_path), *csv, *made.line[-2:]])[0])
    assert [row[3].strip() for row in cells] == [str(round(share * len(corpus.train))) for share in (0.2, 0.4)]
    baselines = measure_baselines(corpus.train, corpus.val, load_tokenizer())
    assert all(float(row[4]) < baselines.bits_per_byte["ngram"] + 0.05 for row in cells)
