"""evaluation/verdict.py: the sentences follow the figures."""

import copy
import math
from typing import Any

import pytest

from evaluation.verdict import make_verdict, percent

GOOD: dict[str, Any] = {
    "model": {"kind": "checkpoint", "name": "best"},
    "val": {"tweets": 450, "nats_per_token": 5.5},
    "against_ngram": {"order": 3, "ours": 1.9, "theirs": 2.0, "difference": -0.1, "low": -0.13, "high": -0.07},
    "against": None,
    "judge": None,
    "sampling": {"samples": 1000},
    "stopping": {"stop_rate": 0.99, "mean_length": 13.0, "real_mean_length": 12.5, "length_ks": 0.05, "empty": 0.0},
    "memorisation": {
        "exact_copies": 0.01,
        "real_exact_copies": 0.0,
        "real_repeats": 0.126,
        "ngram8_in_train": 0.01,
        "real_ngram8_in_train": 0.01,
        "ngram8_excess": {"difference": 0.0, "low": -0.01, "high": 0.01},
        "train_nats_per_token": 5.2,
        "val_nats_per_token": 5.5,
        "gap": {"difference": 0.3, "low": 0.2, "high": 0.4},
    },
    "diversity": {"unique": 1.0, "distinct2": 0.8, "real_distinct2": 0.82, "classifier_auc": 0.55},
}
GOOD_SAYS = [
    "It beats the 3-gram model: 1.900 against 2.000 bits per byte, 0.100 less (95% interval 0.070 to 0.130).",
    "It is hardly over-fitted",
    "It knows where to stop: 99.0%",
    "It does not copy more than people do",
    "1.0% of its tweets are training tweets word for word, short ones included; of the real ones 13% repeated",
    "hardly separates them from real ones",
]


def said(changes: dict[str, Any]) -> str:
    """The verdict on the good model with some figures changed: {"memorisation.gap": ...}."""
    result = copy.deepcopy(GOOD)
    for key, value in changes.items():
        section, name = key.split(".")
        result[section] = result[section] or {}
        result[section][name] = value
    return "\n".join(make_verdict(result))


def test_a_good_model_is_praised_and_nothing_is_suspected() -> None:
    text = said({})
    assert all(words in text for words in GOOD_SAYS)
    assert "leak" not in text and "only" not in text


NO_GAP = {"difference": 0.0, "low": -0.1, "high": 0.1}
WORSE = {"order": 3, "ours": 2.2, "theirs": 2.0, "difference": 0.2, "low": 0.1, "high": 0.3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"against_ngram.difference": 0.2, "against_ngram.low": 0.1, "against_ngram.high": 0.3}, "It does not beat"),
        ({"against_ngram.low": 0.0, "against_ngram.high": 0.0}, "It predicts exactly as well as the 3-gram model"),
        ({"against_ngram.low": -0.2, "against_ngram.high": 0.1}, "It is not clearly different from the 3-gram model"),
        ({"memorisation.real_exact_copies": 0.02}, "A leak is suspected: 2.0% of the validation tweets are training"),
        ({"memorisation.real_ngram8_in_train": 0.3}, "A leak is suspected"),
        ({"memorisation.gap": NO_GAP}, "A leak is suspected: validation tweets cost this model no more"),
        ({"memorisation.train_nats_per_token": 0.07}, "It is clearly over-fitted: training tweets cost it 0.07"),
        ({"memorisation.train_nats_per_token": 4.2}, "It is somewhat over-fitted"),
        ({"memorisation.ngram8_excess": {"difference": 0.2, "low": 0.1, "high": 0.3}}, "It copies more than people do"),
        ({"stopping.stop_rate": 0.0}, "It never ends a tweet"),
        ({"stopping.stop_rate": 0.2}, "It rarely ends a tweet: only 20%"),
        ({"stopping.stop_rate": 0.8}, "It mostly knows where to stop: 80%"),
        ({"stopping.empty": 0.3}, "30% of the samples are empty"),
        ({"diversity.classifier_auc": 0.95}, "easily separates them"),
        ({"val.tweets": 40}, "only 40 validation tweets"),
        ({"model.kind": "hugging_face"}, "It is unknown what it was trained on"),
    ],
)
def test_each_figure_changes_its_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in said(changes)
    assert words not in said({})


def test_no_gap_is_no_leak_while_nothing_is_learnt() -> None:
    text = said({"memorisation.gap": NO_GAP, **{f"against_ngram.{key}": value for key, value in WORSE.items()}})
    assert "leak" not in text
    assert "It is not over-fitted" in text


def test_no_gap_of_a_foreign_model_is_no_leak() -> None:
    assert "leak" not in said({"memorisation.gap": NO_GAP, "model.kind": "hugging_face"})


def test_repeats_that_nobody_counted_are_not_mentioned() -> None:
    assert "short ones included." in said({"memorisation.real_repeats": math.nan})


def test_no_samples_and_too_few_for_a_classifier() -> None:
    assert "stop" not in said({"sampling.samples": 0})
    assert "classifier" not in said({"diversity.classifier_auc": math.nan})


def test_a_second_model_is_compared() -> None:
    other = {f"against.{key}": value for key, value in {**WORSE, "model": "gpt2"}.items()}
    assert "It does not beat gpt2: 2.200 against 2.000" in said(other)


def judged(gap: tuple[float, float, float], voice: float | None) -> dict[str, Any]:
    """The part `judge` of a result with this fluency gap and voice."""
    line = {
        "fluency_gap": dict(zip(("difference", "low", "high"), gap, strict=True)),
        "voice": voice and {"value": voice, "low": voice - 0.1, "high": voice + 0.1},
        "reverse_ngram": {"bits_per_byte": 2.4},
    }
    return {"name": "smollm2", "lists": {"sampled": line, "training": {"reverse_ngram": {"bits_per_byte": 2.0}}}}


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ((0.9, 0.8, 1.0), "At temperature 1 its text is less fluent than real tweets: +0.900"),
        ((-0.9, -1.0, -0.8), "is easier to predict than real tweets"),
        ((0.0, -0.1, 0.1), "is as fluent as real tweets"),
    ],
)
def test_the_judges_figures_are_put_in_words(gap: tuple[float, float, float], words: str) -> None:
    text = "\n".join(make_verdict({**copy.deepcopy(GOOD), "judge": judged(gap, 0.7)}))
    assert words in text and "Its voice is 0.70 (95% interval 0.60 to 0.80)" in text
    assert "A 3-gram fitted to its tweets has 2.400 bits per byte on validation tweets; one fitted to as many" in text
    assert "voice" not in "\n".join(make_verdict({**copy.deepcopy(GOOD), "judge": judged(gap, None)}))


def test_percent_keeps_a_digit_where_it_matters() -> None:
    assert [percent(share) for share in (0.0, 0.004, 0.25, 0.995, 1.0)] == ["0%", "0.4%", "25%", "99.5%", "100%"]
    assert percent(math.nan) == "-"
