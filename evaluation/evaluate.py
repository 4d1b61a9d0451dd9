"""`python main.py evaluate`: judges a model on unseen tweets, beside baselines and beside real tweets."""

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from config.cli import run_command
from config.schema import Config, UserError
from evaluation import metrics
from evaluation.baselines import measure_baselines
from evaluation.huggingface import HuggingFace
from evaluation.judge import open_judge
from evaluation.metrics import Written
from evaluation.other_texts import read_tweets
from evaluation.outside_ngram import OutsideNGram, measure_outside_ngram
from evaluation.report import write_report
from evaluation.sound import NGRAM_TWEETS, RAW, SAMPLED, SHIPPED, measure_sound
from evaluation.subject import Subject, check_split, open_subject
from evaluation.tables import print_result
from evaluation.verdict import make_summary, make_verdict
from generate.copies import CopyCheck
from model.device import choose_device
from model.ngram import Floats
from model.tokenizer import Tokenizer, load_tokenizer
from trainer.progress import Stages
from trainer.score import Scores
from utils.files import atomic_write
from utils.preprocess import Corpus, load_processed
from utils.run_log import read_log

Say = Callable[[str], None]
TRAIN_TWEETS = 450  # training tweets scored to see the gap; as many as the usual validation set
MAX_CHARACTERS = {
    "train": 12_000_000,  # in which n-grams are counted and copies are looked for: 1 GB of memory
    "val": 1_000_000,  # that are scored
}
NO_JUDGE = (
    "no judge, so it is not measured whether the samples sound like the person: --evaluate.judge smollm2, for example"
)
NOTES = {
    "train": "only {:,} of {:,} training texts, evenly spread, were used for the baselines and to look for copies: "
    "with all of them the baselines would be better",
    "val": "scored on {:,} of {:,} validation texts, evenly spread",
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        result: the figures, as `--json` prints them.
        shown: tweets of the model as people see them (`generate.best_of`).
        samples: tweets as the model writes them, which the figures are of.
        real: validation tweets.
        copies: for the report, which marks copied spans.
    """

    result: dict[str, Any]
    shown: list[Written]
    samples: list[Written]
    real: list[Written]
    copies: CopyCheck


def evaluate(config: Config, corpus: Corpus) -> Evaluation:
    """Evaluate the model that `config.evaluate` names on the validation tweets; shows how far it is.

    Raises:
        UserError: see `measure`.
    """
    chosen = config.evaluate
    stages = Stages(5 + (chosen.outside_text is not None) + (chosen.against is not None) + 2 * bool(chosen.judge))
    try:
        return measure(config, corpus, stages)
    finally:
        stages.close()


def measure(config: Config, corpus: Corpus, say: Say) -> Evaluation:
    """Evaluate the model that `config.evaluate` names on the validation tweets; `say` is told what is done next.

    Raises:
        UserError: there is no such model, it belongs to another split, there is only one validation tweet, or another
            model or file that `config.evaluate` names can't be used.
    """
    if len(corpus.val) < 2:
        raise UserError(
            f"the validation set holds {len(corpus.val)} tweet(s), too few to measure anything: raise "
            "data.val_fraction and preprocess again"
        )
    device = choose_device(config.machine)
    corpus, notes = bounded(corpus)
    copies = CopyCheck([tweet.text for tweet in corpus.train])
    subject = open_subject(config.evaluate.model, config.paths, device, copies=copies)
    check_split(subject, corpus, config.paths)
    judge = None
    if name := config.evaluate.judge:
        judge = open_judge(name, device, subject=subject.name, outside_models=subject.outside_models)
    tokenizer = load_tokenizer(config.model.tokenizer)
    result, scores = measure_prediction(config, corpus, subject, tokenizer, device, say)
    started = time.perf_counter()
    samples = write_samples(subject, config, tokenizer, say, raw=True)
    result["seconds"]["samples"] = time.perf_counter() - started
    best_of = config.generate.best_of if subject.kind == "checkpoint" else 1
    shown = write_samples(subject, config, tokenizer, say, raw=False) if subject.kind == "checkpoint" else samples
    say("Comparing them with real tweets, and looking for copies")
    real = metrics.as_written([t.text for t in corpus.val], [t.finished for t in corpus.val], tokenizer)
    result |= figures_of(samples, real, copies)
    result["memorisation"] |= memorisation(subject, corpus, scores)
    result["shown"] = {"best_of": best_of, "samples": len(shown), **figures_of(shown, real, copies)}
    written = {RAW: samples, SHIPPED: shown}
    result["judge"] = judge and sound_of(judge, subject, config, corpus, say, samples=written, tokenizer=tokenizer)
    result["notes"] = [*notes, *subject.notes, *([] if judge else [NO_JUDGE])]
    result["summary"] = make_summary(result)
    result["verdict"] = make_verdict(result)
    return Evaluation(result, shown, samples, real, copies)


def figures_of(samples: list[Written], real: list[Written], copies: CopyCheck) -> dict[str, Any]:
    """How samples end, copy and vary, beside real tweets."""
    return {
        "stopping": metrics.stopping(samples, real),
        "memorisation": metrics.copying(samples, real, copies),
        "diversity": metrics.diversity(samples, real),
    }


def measure_prediction(
    config: Config, corpus: Corpus, subject: Subject, tokenizer: Tokenizer, device: torch.device, say: Say
) -> tuple[dict[str, Any], Scores]:
    """How well validation tweets are predicted, beside the baselines; and the scores of these tweets."""
    say(f"Fitting the baselines to {len(corpus.train):,} training tweets")
    baselines = measure_baselines(corpus.train, corpus.val, tokenizer)
    outside = outside_baseline(config, corpus, tokenizer, say, order=baselines.order)
    say(f"Scoring {len(corpus.val):,} validation tweets with {subject.name}")
    started = time.perf_counter()
    scores, elsewhere = subject.score(corpus.val)
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "model": {key: getattr(subject, key) for key in ("name", "kind", "track", "parameters", "vocab_size")},
        "split": {key: corpus.info["split"][key] for key in ("train", "val", "hash")},
        "val": prediction(scores, elsewhere),
        "baselines": baselines.bits_per_byte | ({"outside_ngram": outside.bits_per_byte} if outside else {}),
        "outside_ngram": asdict(outside) if outside else None,
        "against_ngram": {"order": baselines.order, **compare(scores, baselines.nats)},
        "against": against(config, corpus, scores, device, say),
        "sampling": {**asdict(replace(config.generate, best_of=1)), "samples": config.evaluate.samples},
        "seconds": {"scoring": seconds},
    }
    return result, scores


def outside_baseline(
    config: Config, corpus: Corpus, tokenizer: Tokenizer, say: Say, *, order: int
) -> OutsideNGram | None:
    """The n-gram of the track `+ outside text`, if `evaluate.outside_text` names a text."""
    if (name := config.evaluate.outside_text) is None:
        return None
    outside = read_tweets(name, config.data, key="evaluate.outside_text")
    say(f"Fitting an n-gram to {len(outside):,} texts of {name}")
    return measure_outside_ngram(corpus.train, corpus.val, outside, tokenizer, order=order)


def sound_of(
    judge: HuggingFace,
    subject: Subject,
    config: Config,
    corpus: Corpus,
    say: Say,
    *,
    samples: dict[str, list[Written]],
    tokenizer: Tokenizer,
) -> dict[str, Any] | None:
    """What the judge finds of the model's tweets; None if `evaluate.samples` is 0.

    Args:
        samples: drawn with the settings of `generate`, by RAW and SHIPPED. Of RAW more are written, until there are as
            many as training tweets, for the reverse n-gram.
    """
    if not samples[RAW]:
        return None
    number = max(len(samples[RAW]), min(len(corpus.train), NGRAM_TWEETS))
    say(f"Writing {number:,} tweets at temperature 1, and as many with the settings of `generate`")
    written = {
        SAMPLED: as_samples(subject.write(number, config.generate.unshaped(), raw=True), tokenizer),
        **samples,
    }
    if number > len(samples[RAW]):  # the first of them are written again: that is a small part
        written[RAW] = as_samples(subject.write(number, config.generate, raw=True), tokenizer)
    say(f"Judging {sum(map(len, written.values())):,} tweets with {judge.name}")
    return measure_sound(judge, config, corpus, samples=written, tokenizer=tokenizer)


def bounded(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """The corpus, or an evenly spread part of it if all would take too much memory; and notes on what was left out."""
    parts: dict[str, Any] = {}
    notes = []
    for side, most in MAX_CHARACTERS.items():
        tweets = getattr(corpus, side)
        size = sum(len(tweet.text) for tweet in tweets)
        if size > most:
            number = max(2, len(tweets) * most // size)
            parts[side] = metrics.spread(tweets, number)
            notes.append(NOTES[side].format(number, len(tweets)))
    return replace(corpus, **parts), notes


def write_samples(subject: Subject, config: Config, tokenizer: Tokenizer, say: Say, *, raw: bool) -> list[Written]:
    """`evaluate.samples` texts without a prompt, with the decoding settings of the section `generate`.

    With `raw` each is a tweet; else each tweet is the best of `generate.best_of` of them, as people see it.
    """
    best_of = 1 if raw else config.generate.best_of
    number = -(-config.evaluate.samples // best_of)
    if number == 0:
        return []
    say(f"Writing {number:,} tweets" + ("" if raw else f", as people see them: each the best of {best_of}"))
    return as_samples(subject.write(number, config.generate, raw=raw), tokenizer)


def as_samples(written: Sequence[tuple[str, bool]], tokenizer: Tokenizer) -> list[Written]:
    """What `Subject.write` gave, with GPT-2's tokens."""
    return metrics.as_written([text for text, _ in written], [ended for _, ended in written], tokenizer)


def prediction(scores: Scores, elsewhere: float) -> dict[str, Any]:
    """The figures of `val`."""
    nats, num_bytes = as_floats(scores.nats), as_floats(scores.num_bytes)
    ends = scores.end_nats[~scores.end_nats.isnan()]
    return {
        "tweets": len(nats),
        "tokens": int(scores.tokens.sum()),
        "bytes": int(scores.num_bytes.sum()),
        "nats_per_token": scores.nats_per_token,
        "bits_per_byte": scores.bits_per_byte,
        "interval": metrics.interval(metrics.resampled_ratios(nats / math.log(2), num_bytes, seed=0)),
        "perplexity": math.exp(min(scores.nats_per_token, 700.0)),
        "eos_nats": float(ends.mean()),
        "end_probability": float((-ends).exp().mean()),
        "end_probability_elsewhere": elsewhere,
    }


def compare(scores: Scores, other_nats: Floats) -> dict[str, Any]:
    """Bits per byte of both on the same tweets, and their paired difference."""
    num_bytes = as_floats(scores.num_bytes)
    theirs = float(other_nats.sum() / math.log(2) / num_bytes.sum())
    paired = metrics.paired_difference(as_floats(scores.nats), other_nats, num_bytes)
    return {"ours": scores.bits_per_byte, "theirs": theirs, **paired}


def against(config: Config, corpus: Corpus, scores: Scores, device: torch.device, say: Say) -> dict[str, Any] | None:
    """The comparison with `evaluate.against`, if there is one."""
    if config.evaluate.against is None:
        return None
    other = open_subject(config.evaluate.against, config.paths, device)
    check_split(other, corpus, config.paths)
    say(f"Scoring them with {other.name}")
    theirs, _ = other.score(corpus.val)
    return {
        "model": other.name,
        "track": other.track,
        **compare(scores, as_floats(theirs.nats)),
        "notes": other.notes,
    }


def memorisation(subject: Subject, corpus: Corpus, scores: Scores) -> dict[str, Any]:
    """Loss on training tweets beside the loss on validation tweets, both without dropout; repeats among the tweets."""
    tweets = metrics.spread(corpus.train, min(len(corpus.train), max(TRAIN_TWEETS, len(corpus.val))))
    known, _ = subject.score(tweets)
    (val, val_tokens), (train, train_tokens) = (
        (as_floats(side.nats), as_floats(side.tokens)) for side in (scores, known)
    )
    return {
        "train_tweets": len(tweets),
        "train_nats_per_token": known.nats_per_token,
        "val_nats_per_token": scores.nats_per_token,
        "gap": metrics.difference_of_means(val, train, weights=(val_tokens, train_tokens)),
        "membership_auc": metrics.auc(val / val_tokens, train / train_tokens),
        "train_ngram8_in_train": metrics.repeats_itself([tweet.text for tweet in corpus.train]),
        "real_repeats": repeats(corpus),
    }


def repeats(corpus: Corpus) -> float:
    """Share of the cleaned tweets that repeated an earlier one; preprocessing dropped them. Nan if it is unknown.

    It is the figure of people to compare exact copies with: among the validation tweets there are none any more.
    """
    line = next((line for line in corpus.info.get("rules", ()) if line["rule"] == "duplicates"), None)
    if line is None or not (together := line["dropped"] + line["kept"]):
        return math.nan
    return float(line["dropped"] / together)


def as_floats(values: torch.Tensor) -> Floats:
    """A numpy array of doubles."""
    return values.double().cpu().numpy()


def for_json(value: Any) -> Any:
    """The same value for JSON, which has neither nan nor infinity: they become null."""
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write figures to a JSON file that people can read."""
    with atomic_write(path) as temporary:
        text = json.dumps(for_json(result), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_results(config: Config, found: Evaluation) -> None:
    """Write results/evaluation.json and results/report.html."""
    folder = config.paths.results
    write_json(folder / "evaluation.json", found.result)
    write_report(
        folder / "report.html",
        found.result,
        shown=found.shown,
        samples=found.samples,
        real=found.real,
        copies=found.copies,
        curves=read_log(config.paths.metrics)
        if config.evaluate.model is None and config.paths.metrics.is_file()
        else [],
    )
    print(f"Wrote {folder / 'report.html'}", file=sys.stderr)


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py evaluate`."""
    found = evaluate(config, load_processed(config.paths))
    write_results(config, found)
    if arguments.json:
        print(json.dumps(for_json(found.result), ensure_ascii=False, allow_nan=False))
    else:
        print_result(found.result)


if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
