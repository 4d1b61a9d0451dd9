"""benchmarks/fluency.py with a tiny model and a tiny judge: its figures are those of `evaluate`, and are made once."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import fluency
from config.cli import parse
from config.schema import Config
from evaluation.evaluate import evaluate
from evaluation.sound import RAW, SAMPLED
from model.checkpoint import Bundle
from tests.conftest import TINY
from tests.tiny_peer import make_peer
from utils.preprocess import Corpus

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a judge, and with text by somebody else."""
    make_peer(tmp_path / "judge", n_positions=128)
    texts = [f"The {a} and the {b} waited near the {c}." for a in "abcdef" for b in "ghijk" for c in "lm"]
    (tmp_path / "other.txt").write_text("\n".join(texts), encoding="utf-8")
    return tmp_path


def test_figures_are_those_of_evaluate_and_are_kept(
    folder: Path,
    sample: tuple[Config, Corpus],
    trained: tuple[Config, Bundle],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained[0].paths.root, folder / "root")
    flags = [*TINY, "--generate.max_new_tokens", "12", "--evaluate.judge", str(folder / "judge")]
    flags += [
        "--evaluate.other_writer",
        str(folder / "other.txt"),
        "--evaluate.outside_text",
        str(folder / "other.txt"),
    ]
    command = [
        "fluency",
        "--csv",
        str(sample[0].data.path),
        "--root",
        str(folder / "root"),
        "--out",
        str(folder / "out.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--rows", "defaults", "--", *flags])
    fluency.main()
    first = capsys.readouterr().out
    references, record = (json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines())
    root = ["--paths.root", str(folder / "root"), "--evaluate.samples", "4"]
    expected = evaluate(parse("evaluate", [*flags, *root])[0], sample[1]).result
    for how in (SAMPLED, RAW):
        assert record[how] == expected["judge"]["lists"][how]
    for name in fluency.REFERENCE_LISTS:
        assert references[name] == expected["judge"]["lists"][name]
    assert record["bits_per_byte"] == expected["val"]["bits_per_byte"]
    assert references["outside_ngram"]["bits_per_byte"] == expected["baselines"]["outside_ngram"]
    assert "| defaults (`train`) | tweets only |" in first and "not trained on tweets" in first

    shutil.rmtree(folder / "root")
    shutil.rmtree(folder / "judge")
    fluency.main()
    assert capsys.readouterr().out == first, "what is in the file is not made again"
