"""benchmarks/teacher.py with a tiny teacher: a line a model, made once, and a table of them."""

import itertools
import json
import random
import sys
from pathlib import Path

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


def test_a_line_a_model_that_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [" ".join(("The", *words)) for words in itertools.product(SUBJECTS, VERBS, HOWS, PLACES)]
    texts = random.Random(0).sample(every, 340)
    csv, out = tmp_path / "tweets.csv", tmp_path / "teacher.jsonl"
    csv.write_text("text\n" + "\n".join(texts), encoding="utf-8")
    make_llama(tmp_path / "llama", texts)
    make_peer(tmp_path / "judge", n_positions=128)
    monkeypatch.setattr(teacher, "JUDGED", 30)
    line = ["teacher", "--csv", str(csv), "--root", str(tmp_path / "root"), "--teacher", str(tmp_path / "llama")]
    line += ["--judge", str(tmp_path / "judge"), "--seeds", "0", "1", "--splits", "0", "--sampled", "0.2", "0.4"]
    line += ["--sizes", "1x16", "--epochs", "1", "--out", str(out), "--", *TINY, *QUICK]
    line += ["--data.near_duplicate_words", "9"]
    monkeypatch.setattr(sys, "argv", line)
    teacher.main()
    table = capsys.readouterr().out
    records = read(out)
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
    rows = [row for row in table.splitlines() if row.startswith("| student")]
    assert len(rows) == 2 and all(f"{means[name]:.3f} ±" in row for name, row in zip((0.2, 0.4), rows, strict=True))
    student = Checkpoint(next((tmp_path / "root").rglob("student.pth")), torch.device("cpu"))
    assert student.outside_models == [str(tmp_path / "llama")]
    monkeypatch.setattr(
        sys, "argv", [str(tmp_path / "llama") if word == str(tmp_path / "judge") else word for word in line]
    )
    out.rename(tmp_path / "kept.jsonl")
    with pytest.raises(UserError, match="taught the student, so it can't judge it"):
        teacher.main()
    (tmp_path / "kept.jsonl").rename(out)
    monkeypatch.setattr(sys, "argv", line)
    before = out.read_text(encoding="utf-8")
    teacher.main()
    assert out.read_text(encoding="utf-8") == before and "Training" not in capsys.readouterr().err
    assert json.loads(before.splitlines()[0])["teacher"] == str(tmp_path / "llama")

    # The model of `train` can be taken over from benchmarks.quality.
    usual = [each for each in records if each["who"] == "usual"]
    known = [{"recipe": "small", "parameters": 7, "bytes": each["num_bytes"], **each} for each in usual]
    known = [{**each, "nats": [2.0 * nat for nat in each["nats"]]} for each in known]
    (tmp_path / "quality.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known), encoding="utf-8")
    others = [
        "--usual-from",
        str(tmp_path / "quality.jsonl"),
        "--beside",
        "usual",
        "--out",
        str(tmp_path / "other.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", [*line[: line.index("--out")], *others, *line[line.index("--") :]])
    teacher.main()
    again = [each for each in read(tmp_path / "other.jsonl") if each["who"] == "usual"]
    expected = [pytest.approx(2.0 * each["bits_per_byte"], abs=1e-3) for each in usual]
    assert [each["bits_per_byte"] for each in again] == expected and again[0]["fluency_gap"] is not None
    capsys.readouterr()

    # The probe of what the teacher wrote: with more of it, an n-gram of both is better than one of the real tweets.
    flags = [word for word in line[1:] if word not in ("--judge", str(tmp_path / "judge"))]
    flags = [*flags[: flags.index("--seeds")], "--sampled", "0.2", "0.4", *flags[flags.index("--") :]]
    monkeypatch.setattr(sys, "argv", ["probe", *flags])
    probe.main()
    cells = [row.split("|") for row in capsys.readouterr().out.splitlines()[2:]]
    corpus = preprocess(parse("train", ["--paths.root", str(tmp_path), "--data.path", str(csv), *line[-2:]])[0])
    assert [row[3].strip() for row in cells] == [str(round(share * len(corpus.train))) for share in (0.2, 0.4)]
    baselines = measure_baselines(corpus.train, corpus.val, load_tokenizer())
    assert all(float(row[4]) < baselines.bits_per_byte["ngram"] + 0.05 for row in cells)


def alone(seed: int) -> list[tuple[str, int, float]]:
    """The models without a teacher."""
    return [("usual", seed, 0.0), ("control", seed, 0.0)]
