"""What the tab Training shows of a judge's figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from config.cli import parse
from config.schema import Config
from evaluation.evaluate import evaluate, write_json
from model.checkpoint import Bundle
from tests.tiny_peer import make_peer
from utils.preprocess import load_processed
from web.tab_training import evaluation_view


@pytest.mark.slow
def test_what_the_judge_found_stands_beside_the_evaluation(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    make_peer(tmp_path / "judge", n_positions=128)
    texts = [f"The {a} and the {b} waited." for a in "abcdef" for b in "ghijk"]
    (tmp_path / "other.txt").write_text("\n".join(texts), encoding="utf-8")
    paths = trained[0].paths
    flags = ["--paths.root", paths.root, "--machine.device", "cpu", "--generate.max_new_tokens", "12"]
    flags += ["--evaluate.samples", "40", "--evaluate.judge", str(tmp_path / "judge")]
    flags += ["--evaluate.other_writer", str(tmp_path / "other.txt")]
    result = evaluate(parse("evaluate", flags)[0], load_processed(paths)).result

    shown = replace(paths, root=str(tmp_path))
    shown.results.mkdir()
    write_json(shown.results / "evaluation.json", result | {"judge": None})
    assert "Fluency gap" not in evaluation_view(shown)

    empty = dict.fromkeys(("fluency_gap", "voice", "reverse_ngram", "exact_copies")) | {"ngram8_in_train": 0.0}
    result["judge"] |= {"name": "a <b>judge", "lists": result["judge"]["lists"] | {"shuffled": empty}}
    write_json(shown.results / "evaluation.json", result)
    page = evaluation_view(shown)
    training = result["judge"]["lists"]["training"]
    assert f">{training['fluency_gap']['difference']:+.2f} (" in page
    assert f">{training['reverse_ngram']['bits_per_byte']:.3f}<" in page
    assert ">100%<" in page, "training tweets are copies"
    for words in (">tweets only<", "Fluency gap: bits", "Voice: bits", "Reverse 3-gram: bits", "a &lt;b&gt;judge"):
        assert words in page, words
    assert "is not what this version writes" not in page
