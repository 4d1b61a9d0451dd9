"""evaluation/evaluate.py: figures against direct computation; leaks and models that never end are seen."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config.cli import parse, run_command
from config.schema import Config, UserError
from evaluation import evaluate as module
from evaluation.evaluate import Evaluation, evaluate, for_json
from evaluation.subject import Checkpoint
from evaluation.tables import print_result
from generate.copies import CopyCheck
from generate.generate import generate
from model.checkpoint import Bundle, load_bundle, model_content, save_checkpoint
from model.tokenizer import END
from tests.tiny_peer import make_peer
from trainer.train import train
from utils.preprocess import Corpus, Tweet, load_processed

CPU = torch.device("cpu")
KEYS = {
    "val": {"tweets", "tokens", "bytes", "nats_per_token", "bits_per_byte", "perplexity", "eos_nats"},
    "stopping": {"stop_rate", "mean_length", "real_mean_length", "length_ks"},
    "memorisation": {"exact_copies", "ngram8_in_train", "real_ngram8_in_train", "longest_copy_mean"},
    "baselines": {"unigram", "bigram", "ngram", "xz", "bzip2"},
    "model": {"parameters", "vocab_size"},
    "split": {"train", "val", "hash"},
}


def flags(config: Config, *more: str) -> list[str]:
    """The command line that finds the run of `config`."""
    return ["--paths.root", config.paths.root, "--machine.device", "cpu", *more]


@pytest.fixture(scope="module")
def judged(trained: tuple[Config, Bundle]) -> Evaluation:
    """The tiny trained model, judged with few samples."""
    config = parse("evaluate", flags(trained[0], "--evaluate.samples", "30"))[0]
    return evaluate(config, load_processed(config.paths))


def test_what_people_see_takes_as_many_texts_again(trained: tuple[Config, Bundle], judged: Evaluation) -> None:
    """30 texts as they come, and 8 tweets, each the best of 4: those that `generate` shows."""
    assert len(judged.samples) == 30 and len(judged.shown) == judged.result["shown"]["samples"] == 8
    config, bundle = trained
    copies = CopyCheck([tweet.text for tweet in load_processed(config.paths).train])
    settings = replace(parse("generate", flags(config))[0].generate, num_samples=8)
    expected = [sample.text for sample in generate(bundle, [""], settings, copies)]
    assert [tweet.text for tweet in judged.shown] == expected


def test_json_has_every_key_of_the_design(trained: tuple[Config, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("evaluate", [*flags(trained[0], "--evaluate.samples", "12"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for section, keys in KEYS.items():
        assert keys <= set(found[section]), section
        assert all(found[section][key] is not None for key in keys), section
    assert found["split"]["val"] == found["val"]["tweets"]
    assert found["val"]["perplexity"] == pytest.approx(math.exp(found["val"]["nats_per_token"]))
    results = trained[0].paths.results
    assert json.loads((results / "evaluation.json").read_text(encoding="utf-8")) == found


def test_the_page_stands_alone(trained: tuple[Config, Bundle], judged: Evaluation, tmp_path: Path) -> None:
    paths = replace(trained[0].paths, root=str(tmp_path))
    module.write_results(replace(trained[0], paths=paths), judged)
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=(?!['\"]#)|url\((?!#)|@import|<script|{{|{%", page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "width=device-width" in page
    wanted = ("How good is your model?", "Does it stop?", "Does it copy?", "<svg", "<ol>")
    assert [words for words in wanted if words not in page] == []


def test_tables_on_standard_output(
    trained: tuple[Config, Bundle], judged: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(judged.result)
    text = capsys.readouterr().out
    assert f"{judged.result['val']['bits_per_byte']:.3f}" in text
    for name in ("bits per byte", "unigram", "bzip2", "ends by itself", "difference of the length distributions"):
        assert name in text


def test_a_checkpoint_scores_as_computed_directly(trained: tuple[Config, Bundle]) -> None:
    config, bundle = trained
    tweets = [Tweet("Biscuit barks at the 🚀 zyzzyva.", True), Tweet("This was cut in the mid", False)]
    scores, elsewhere = Checkpoint(config.paths.best_model, CPU).score(tweets)
    total, inside = 0.0, []
    for tweet in tweets:
        ids = [END, *bundle.tokenizer.encode(tweet.text), *([END] if tweet.finished else [])]
        with torch.no_grad():
            logits = bundle.model(bundle.vocabulary.from_gpt2(ids[:-1])[None])[0]
        log_probs = bundle.vocabulary.log_probs(logits)  # over all of GPT-2's tokens
        assert float(log_probs.exp().sum(-1).sub(1).abs().max()) < 1e-4
        total -= sum(float(log_probs[place, target]) for place, target in enumerate(ids[1:]))
        inside += log_probs[: len(ids) - 1 - tweet.finished, END].exp().tolist()
    assert scores.bits_per_byte == pytest.approx(
        total / math.log(2) / sum(len(tweet.text.encode()) + 1 for tweet in tweets), rel=1e-5
    )
    assert elsewhere == pytest.approx(np.mean(inside), rel=1e-4)


def test_a_model_against_itself_and_against_another(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    make_peer(tmp_path, n_positions=128)
    best = str(trained[0].paths.best_model)
    corpus = load_processed(trained[0].paths)
    corpus = replace(corpus, train=corpus.train[:60], val=corpus.val[:30])
    few = flags(trained[0], "--evaluate.samples", "2", "--generate.max_new_tokens", "4", "--evaluate.against", best)
    own = evaluate(parse("evaluate", few)[0], corpus).result
    assert [own["against"][key] for key in ("difference", "low", "high")] == [0, 0, 0]
    result = evaluate(parse("evaluate", [*few, "--evaluate.model", str(tmp_path)])[0], corpus).result
    assert result["model"]["kind"] == "hugging_face"
    assert result["against"]["theirs"] == pytest.approx(own["val"]["bits_per_byte"])
    assert 0 < result["against"]["low"] < result["against"]["difference"] < result["against"]["high"]
    assert any("training data are unknown" in note for note in result["notes"])
    assert f"It does not beat {best}" in "\n".join(result["verdict"])


def test_a_model_that_never_ends_is_seen(trained: tuple[Config, Bundle], judged: Evaluation, tmp_path: Path) -> None:
    config, bundle = trained
    endless = load_bundle(config.paths.best_model, CPU)
    assert endless.model.head_bias is not None
    endless.model.head_bias.data[endless.vocabulary.end] = -1e4
    path = tmp_path / "endless.pth"
    save_checkpoint(path, model_content(endless.model, endless.vocabulary, endless.config, bundle.info))
    settings = parse("evaluate", flags(config, "--evaluate.samples", "20", "--evaluate.model", str(path)))[0]
    result = evaluate(settings, load_processed(config.paths)).result
    assert result["stopping"]["stop_rate"] == 0 < judged.result["stopping"]["stop_rate"]
    assert result["stopping"]["length_ks"] > 0.9
    assert result["val"]["end_probability"] < 1e-6 < judged.result["val"]["end_probability"]
    assert result["val"]["eos_nats"] > 100
    assert "It never ends a tweet" in "\n".join(result["verdict"])


def test_no_samples_leave_nulls(trained: tuple[Config, Bundle]) -> None:
    config = parse("evaluate", flags(trained[0], "--evaluate.samples", "0"))[0]
    result = for_json(evaluate(config, load_processed(config.paths)).result)
    assert result["stopping"]["stop_rate"] is None and result["stopping"]["real_mean_length"] > 0
    assert result["memorisation"]["ngram8_in_train"] is None
    json.dumps(result, allow_nan=False)


WORDS = [
    "rocket",
    "van",
    "dog",
    "engine",
    "battery",
    "comet",
    "sleeps",
    "hums",
    "waits",
    "glows",
    "under",
    "over",
    "red",
    "blue",
    "seven",
    "nine",
    "rain",
    "dawn",
]


def nonsense(number: int, *, seed: int) -> list[Tweet]:
    """Tweets of words drawn by chance: who knows one of them has seen it."""
    random = np.random.default_rng(seed)
    return [Tweet(" ".join(random.choice(WORDS, 9)) + ".", True) for _ in range(number)]


def learnt(settings: Callable[..., Config], root: Path, corpus: Corpus) -> Config:
    """Train long enough to know the training tweets by heart."""
    recipe = ("--model.n_embd", "48", "--model.dropout", "0", "--train.epochs", "60", "--train.ngram_weight", "0")
    config = settings("--paths.root", str(root), *recipe, "--train.patience", "100", "--evaluate.samples", "20")
    train(config, corpus)
    return config


def test_a_planted_leak_is_seen(settings: Callable[..., Config], tmp_path: Path) -> None:
    known, unseen = nonsense(90, seed=0), nonsense(30, seed=1)
    info: dict[str, Any] = {"split": {"train": 90, "val": 30, "hash": "0123456789abcdef"}}
    info["rules"] = [{"rule": "tidy", "dropped": 7, "kept": 200}, {"rule": "duplicates", "dropped": 80, "kept": 120}]
    clean, leaked = Corpus(known, unseen, info), Corpus([*known, *unseen], unseen, info)
    honest = learnt(settings, tmp_path / "honest", clean)
    cheat = learnt(settings, tmp_path / "cheat", leaked)

    before = evaluate(honest, clean).result
    assert before["memorisation"]["real_exact_copies"] == before["memorisation"]["real_ngram8_in_train"] == 0
    assert before["memorisation"]["real_repeats"] == 80 / 200
    assert before["memorisation"]["gap"]["low"] > 0
    assert "leak" not in "\n".join(before["verdict"])

    seen = evaluate(cheat, leaked).result  # validation tweets stand among the training tweets
    assert seen["memorisation"]["real_exact_copies"] == seen["memorisation"]["real_ngram8_in_train"] == 1
    assert seen["memorisation"]["gap"]["difference"] < before["memorisation"]["gap"]["difference"] / 4
    assert "A leak is suspected: 100% of the validation tweets are training tweets" in seen["verdict"][0]

    hidden = evaluate(cheat, clean).result  # the files look clean, but the model has seen them
    assert hidden["memorisation"]["real_exact_copies"] == 0
    assert "A leak is suspected: validation tweets cost this model no more" in hidden["verdict"][0]


def test_much_text_is_judged_by_a_part_and_that_is_told(
    trained: tuple[Config, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = trained
    corpus = load_processed(config.paths)
    assert module.bounded(corpus) == (corpus, [])
    monkeypatch.setattr(module, "MAX_CHARACTERS", {"train": 20_000, "val": 3_000})
    part, notes = module.bounded(corpus)
    for some, every, most in ((part.train, corpus.train, 20_000), (part.val, corpus.val, 3_000)):
        assert 0.8 * most < sum(len(tweet.text) for tweet in some) < 1.2 * most
        assert set(some) <= set(every) and some[0] == every[0]
    result = evaluate(replace(config, evaluate=replace(config.evaluate, samples=0)), corpus).result
    assert result["val"]["tweets"] == len(part.val) and result["notes"][:2] == notes
    assert f"only {len(part.train):,} of {len(corpus.train):,} training texts" in notes[0]


def test_another_split_is_refused(trained: tuple[Config, Bundle]) -> None:
    corpus = load_processed(trained[0].paths)
    other = replace(corpus, info={**corpus.info, "split": {**corpus.info["split"], "hash": "f" * 16}})
    config = parse("evaluate", flags(trained[0]))[0]
    with pytest.raises(UserError, match=r"another split .* may have seen these validation tweets"):
        evaluate(config, other)


def test_one_validation_tweet_is_refused(trained: tuple[Config, Bundle]) -> None:
    corpus = load_processed(trained[0].paths)
    with pytest.raises(UserError, match=r"validation set holds 1 tweet.*data\.val_fraction"):
        evaluate(parse("evaluate", flags(trained[0]))[0], replace(corpus, val=corpus.val[:1]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.pth", "no checkpoint at"),
        ("/nowhere/at/all", "no checkpoint at /nowhere/at/all"),
        ("{root}/data/processed.txt", "not a checkpoint"),
        ("{root}/data", "no config.json"),
    ],
)
def test_models_that_are_none_get_one_line(
    trained: tuple[Config, Bundle], capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    model = name.format(root=trained[0].paths.root)
    assert run_command("evaluate", [*flags(trained[0]), "--evaluate.model", model]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_without_tweets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("evaluate", ["--paths.root", str(tmp_path)]) == 1
    assert "python main.py preprocess" in capsys.readouterr().err


def test_json_has_no_nan() -> None:
    assert for_json({"a": [math.nan, 1.0], "b": {"c": math.inf, "d": "x"}}) == {
        "a": [None, 1.0],
        "b": {"c": None, "d": "x"},
    }
