"""`python main.py evaluate`: judges a model on unseen tweets, beside baselines and beside real tweets."""

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from config.cli import run_command
from config.schema import Config, GenerateConfig, PathsConfig, UserError
from evaluation import metrics
from evaluation.baselines import measure_baselines
from evaluation.huggingface import HuggingFace
from evaluation.metrics import Written
from evaluation.report import write_report
from evaluation.tables import print_result
from evaluation.verdict import make_verdict
from generate.copies import CopyCheck
from generate.generate import generate
from model.checkpoint import load_bundle
from model.device import choose_device
from model.language_model import LanguageModel
from model.ngram import Floats
from model.tokenizer import Tokenizer, load_tokenizer
from trainer.batches import TweetDataset
from trainer.job import say
from trainer.score import Scores, score
from utils.files import atomic_write
from utils.preprocess import Corpus, Tweet, load_processed

TRAIN_TWEETS = 450  # training tweets scored to see the gap; as many as the usual validation set
MAX_CHARACTERS = {
    "train": 12_000_000,  # in which n-grams are counted and copies are looked for: 1 GB of memory
    "val": 1_000_000,  # that are scored
}
NOTES = {
    "train": "only {:,} of {:,} training texts, evenly spread, were used for the baselines and to look for copies: "
    "with all of them the baselines would be better",
    "val": "scored on {:,} of {:,} validation texts, evenly spread",
}


class Subject(Protocol):
    """A model to evaluate: a checkpoint of ours, or a model of Hugging Face.

    Attributes:
        kind: "checkpoint" or "hugging_face".
        notes: what the reader of the figures should know.
        split_hash: of the split that it was trained on; None if unknown.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def split_hash(self) -> str | None: ...
    @property
    def parameters(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    def score(self, tweets: Sequence[Tweet]) -> tuple[Scores, float]: ...
    def write(self, number: int, settings: GenerateConfig) -> list[tuple[str, bool]]: ...


class Checkpoint:
    """A checkpoint of ours.

    Raises:
        UserError: see `model.checkpoint.load_bundle`.
    """

    kind = "checkpoint"

    def __init__(self, path: Path, device: torch.device) -> None:
        self.name = str(path)
        self.bundle = load_bundle(path, device)
        self.split_hash: str | None = self.bundle.info.get("split_hash")
        self.notes = [] if self.split_hash else ["the checkpoint does not say which split it was trained on"]
        self.parameters = self.bundle.model.num_parameters()
        self.vocab_size = self.bundle.vocabulary.vocab_size

    def score(self, tweets: Sequence[Tweet]) -> tuple[Scores, float]:
        """The scores of these tweets, and the mean probability of the end mark where tweets go on."""
        bundle = self.bundle
        dataset = TweetDataset.encode(tweets, bundle.tokenizer, bundle.vocabulary, bundle.model.config.block_size)
        return score(bundle.model, dataset), end_elsewhere(bundle.model, dataset)

    def write(self, number: int, settings: GenerateConfig) -> list[tuple[str, bool]]:
        """`number` tweets without a prompt: their texts, and whether each ended by itself."""
        samples = generate(self.bundle, [""], replace(settings, num_samples=number))
        return [(sample.text, sample.finish_reason == "stop") for sample in samples]


@torch.no_grad()
def end_elsewhere(model: LanguageModel, dataset: TweetDataset) -> float:
    """Mean probability of the end mark at all positions where a tweet goes on; nan if there are none."""
    end, total, positions = dataset.vocabulary.end, 0.0, 0
    for examples in dataset.in_order(64):
        batch = dataset.batch(examples, model.wte.weight.device)
        inside = batch.targets != end
        logits = model.head(batch.real(model.trunk(batch.ids))[inside])
        total += float(logits.float().softmax(-1)[:, end].sum())
        positions += int(inside.sum())
    return total / positions if positions else math.nan


def open_subject(name: str | None, paths: PathsConfig, device: torch.device) -> Subject:
    """The model of this name: a file is a checkpoint of ours, a folder or any other name is a model of Hugging Face.

    Raises:
        UserError: there is no such model.
    """
    path = Path(name) if name else paths.best_model
    named_as_file = path.suffix in (".pth", ".pt") or path.is_absolute() or str(name).startswith(".")
    if name is None or path.is_file() or (named_as_file and not path.is_dir()):
        return Checkpoint(path, device)
    return HuggingFace(name, device)


def check_split(subject: Subject, corpus: Corpus, paths: PathsConfig) -> None:
    """Raise UserError if the model was trained on another split: it may have seen these validation tweets."""
    here, there = corpus.info["split"]["hash"], subject.split_hash
    if there is not None and there != here:
        raise UserError(
            f"{subject.name} was trained on another split ({there}) than {paths.processed_json} holds ({here}), so it "
            "may have seen these validation tweets: preprocess with the settings it was trained with, or train again"
        )


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        result: the figures, as `--json` prints them.
        samples, real: the tweets that the model wrote, and validation tweets.
        copies, tokenizer: for the report, which marks copied spans.
    """

    result: dict[str, Any]
    samples: list[Written]
    real: list[Written]
    copies: CopyCheck
    tokenizer: Tokenizer


def evaluate(config: Config, corpus: Corpus) -> Evaluation:
    """Evaluate the model that `config.evaluate` names on the validation tweets.

    Raises:
        UserError: there is no such model, it belongs to another split, or there is only one validation tweet.
    """
    if len(corpus.val) < 2:
        raise UserError(
            f"the validation set holds {len(corpus.val)} tweet(s), too few to measure anything: raise "
            "data.val_fraction and preprocess again"
        )
    device = choose_device(config.machine)
    subject = open_subject(config.evaluate.model, config.paths, device)
    check_split(subject, corpus, config.paths)
    tokenizer = load_tokenizer(config.model.tokenizer)
    corpus, notes = bounded(corpus)
    say(f"Fitting the baselines to {len(corpus.train):,} training tweets")
    baselines = measure_baselines(corpus.train, corpus.val, tokenizer)
    say(f"Scoring {len(corpus.val):,} validation tweets with {subject.name}")
    started = time.perf_counter()
    scores, elsewhere = subject.score(corpus.val)
    scored = time.perf_counter()
    result: dict[str, Any] = {
        "model": {key: getattr(subject, key) for key in ("name", "kind", "parameters", "vocab_size")},
        "split": {key: corpus.info["split"][key] for key in ("train", "val", "hash")},
        "val": prediction(scores, elsewhere),
        "baselines": baselines.bits_per_byte,
        "against_ngram": {"order": baselines.order, **compare(scores, baselines.nats)},
        "against": against(config, corpus, scores, device),
        "memorisation": memorisation(subject, corpus, scores),
        "sampling": {**asdict(config.generate), "samples": config.evaluate.samples},
    }
    return judge_samples(config, corpus, subject, tokenizer, result, [*notes, *subject.notes], scored - started)


def judge_samples(
    config: Config,
    corpus: Corpus,
    subject: Subject,
    tokenizer: Tokenizer,
    result: dict[str, Any],
    notes: list[str],
    scoring_seconds: float,
) -> Evaluation:
    """Add to `result` what the model's tweets are like, and the verdict on all of it."""
    started = time.perf_counter()
    samples = write_samples(subject, config, tokenizer)
    result["seconds"] = {"scoring": scoring_seconds, "samples": time.perf_counter() - started}
    real = metrics.as_written([t.text for t in corpus.val], [t.finished for t in corpus.val], tokenizer)
    train_ids = tokenizer.encode_batch([tweet.text for tweet in corpus.train])
    copies = CopyCheck([tweet.text for tweet in corpus.train], train_ids)
    result["stopping"] = metrics.stopping(samples, real)
    result["memorisation"] |= metrics.copying(samples, real, copies)
    result["memorisation"]["train_ngram8_in_train"] = metrics.repeats_itself(train_ids, copies.span)
    result["memorisation"]["real_repeats"] = repeats(corpus)
    result["diversity"] = metrics.diversity(samples, real)
    result["notes"] = notes
    result["verdict"] = make_verdict(result)
    return Evaluation(result, samples, real, copies, tokenizer)


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


def write_samples(subject: Subject, config: Config, tokenizer: Tokenizer) -> list[Written]:
    """`evaluate.samples` tweets without a prompt, with the decoding settings of the section `generate`."""
    if config.evaluate.samples == 0:
        return []
    say(f"Writing {config.evaluate.samples:,} tweets")
    written = subject.write(config.evaluate.samples, config.generate)
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


def against(config: Config, corpus: Corpus, scores: Scores, device: torch.device) -> dict[str, Any] | None:
    """The comparison with `evaluate.against`, if there is one."""
    if config.evaluate.against is None:
        return None
    other = open_subject(config.evaluate.against, config.paths, device)
    check_split(other, corpus, config.paths)
    say(f"Scoring them with {other.name}")
    theirs, _ = other.score(corpus.val)
    return {"model": other.name, **compare(scores, as_floats(theirs.nats)), "notes": other.notes}


def memorisation(subject: Subject, corpus: Corpus, scores: Scores) -> dict[str, Any]:
    """Loss on training tweets beside the loss on validation tweets; both without dropout."""
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
        samples=found.samples,
        real=found.real,
        copies=found.copies,
        tokenizer=found.tokenizer,
        plot=folder / "loss_plot.png" if config.evaluate.model is None else None,
    )
    say(f"Wrote {folder / 'report.html'}")


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
