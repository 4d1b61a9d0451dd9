"""`python main.py evaluate`: how good is a model? On tweets it never saw, beside baselines and beside real tweets."""

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
from evaluation import metrics as measures
from evaluation.baselines import measure_baselines
from evaluation.huggingface import HuggingFace
from evaluation.metrics import Floats, Written
from evaluation.report import show, write_report
from evaluation.verdict import verdict
from generate.copies import CopyCheck
from generate.generate import generate
from model.checkpoint import load_bundle
from model.device import choose_device
from model.language_model import LanguageModel
from model.tokenizer import Tokenizer, load_tokenizer
from trainer.batches import TweetDataset
from trainer.job import say
from trainer.score import Scores, score
from utils.files import atomic_write
from utils.preprocess import Corpus, Tweet, load_processed

TRAIN_TWEETS = 450  # training tweets scored to see the gap; as many as the usual validation set
TRAIN_BYTES = 12_000_000  # characters that n-grams are counted in and copies are looked for in: 1 GB of memory
VAL_BYTES = 1_000_000  # characters of validation text that are scored
NOTES = {
    "train": "the baselines counted, and copies were looked for in, only {:,} of {:,} training texts, evenly spread: "
    "with all of them the baselines would be better",
    "val": "scored on {:,} of {:,} validation texts, evenly spread",
}


class Subject(Protocol):
    """What is judged: a checkpoint of ours, or a model of Hugging Face."""

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
        """What each tweet costs, and the mean probability of the end mark where tweets go on."""
        bundle, device = self.bundle, self.bundle.model.wte.weight.device
        rows = TweetDataset.encode(tweets, bundle.tokenizer, bundle.vocabulary, bundle.model.config.block_size)
        return score(bundle.model, rows, device), end_elsewhere(bundle.model, rows, device)

    def write(self, number: int, settings: GenerateConfig) -> list[tuple[str, bool]]:
        """`number` tweets from nothing: their texts, and whether each ended by itself."""
        samples = generate(self.bundle, [""], replace(settings, num_samples=number))
        return [(sample.text, sample.finish_reason == "stop") for sample in samples]


@torch.no_grad()
def end_elsewhere(model: LanguageModel, dataset: TweetDataset, device: torch.device) -> float:
    """Mean probability of the end mark at all places where a tweet goes on."""
    end, total, places = dataset.vocabulary.end, 0.0, 0
    for examples in dataset.in_order(64):
        batch = dataset.batch(examples).to(device)
        inside = batch.targets != end
        logits = model.head(batch.real(model.trunk(batch.ids))[inside])
        total += float(logits.float().softmax(-1)[:, end].sum())
        places += int(inside.sum())
    return total / places if places else math.nan


def open_subject(name: str | None, paths: PathsConfig, device: torch.device) -> Subject:
    """The model to judge: a file is a checkpoint of ours, a folder or any other name is one of Hugging Face."""
    path = Path(name) if name else paths.best_model
    named_as_file = path.suffix in (".pth", ".pt") or path.is_absolute() or str(name).startswith(".")
    if name is None or path.is_file() or (named_as_file and not path.is_dir()):
        return Checkpoint(path, device)
    return HuggingFace(name, device)


def check_split(subject: Subject, corpus: Corpus, paths: PathsConfig) -> None:
    """Refuse a model that was trained on another split: today's validation tweets may have taught it."""
    here, there = corpus.info["split"]["hash"], subject.split_hash
    if there is not None and there != here:
        raise UserError(
            f"{subject.name} was trained on another split ({there}) than {paths.processed_json} holds ({here}), so it "
            "may have seen these validation tweets: preprocess with the settings it was trained with, or train again"
        )


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: the figures, and what the report shows beside them."""

    result: dict[str, Any]
    samples: list[Written]
    real: list[Written]
    copies: CopyCheck
    tokenizer: Tokenizer


def evaluate(config: Config, corpus: Corpus) -> Evaluation:
    """Judge the model that `config.evaluate` names on the validation tweets.

    Raises:
        UserError: there is no such model, it belongs to another split, or there is only one validation tweet.
    """
    if len(corpus.val) < 2:
        raise UserError(
            f"the validation set holds {len(corpus.val)} tweet(s), which tells nothing: raise data.val_fraction "
            "and preprocess again"
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
        "memorisation": known_by_heart(subject, corpus, scores),
        "sampling": {**asdict(config.generate), "samples": config.evaluate.samples},
    }
    started_samples = time.perf_counter()
    samples = write_samples(subject, config, tokenizer)
    result["seconds"] = {"scoring": scored - started, "samples": time.perf_counter() - started_samples}
    real = measures.as_written([t.text for t in corpus.val], [t.finished for t in corpus.val], tokenizer)
    train_ids = tokenizer.encode_batch([tweet.text for tweet in corpus.train])
    copies = CopyCheck([tweet.text for tweet in corpus.train], train_ids)
    result["stopping"] = measures.stopping(samples, real)
    result["memorisation"] |= measures.copying(samples, real, copies)
    result["memorisation"]["train_ngram8_in_train"] = measures.repeats_itself(train_ids, copies.span)
    result["memorisation"]["real_repeats"] = repeats(corpus)
    result["diversity"] = measures.diversity(samples, real)
    result["notes"] = [*notes, *subject.notes]
    result["verdict"] = verdict(result)
    return Evaluation(result, samples, real, copies, tokenizer)


def bounded(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """The corpus, or evenly spread texts of it where all would fill the memory; and what is to be said of that."""
    parts: dict[str, Any] = {}
    notes = []
    for side, most in (("train", TRAIN_BYTES), ("val", VAL_BYTES)):
        tweets = getattr(corpus, side)
        size = sum(len(tweet.text) for tweet in tweets)
        if size > most:
            number = max(2, len(tweets) * most // size)
            parts[side] = measures.spread(tweets, number)
            notes.append(NOTES[side].format(number, len(tweets)))
    return replace(corpus, **parts), notes


def write_samples(subject: Subject, config: Config, tokenizer: Tokenizer) -> list[Written]:
    """`evaluate.samples` tweets from nothing, drawn as the section `generate` says."""
    if config.evaluate.samples == 0:
        return []
    say(f"Writing {config.evaluate.samples:,} tweets")
    written = subject.write(config.evaluate.samples, config.generate)
    return measures.as_written([text for text, _ in written], [ended for _, ended in written], tokenizer)


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
        "interval": measures.interval(measures.resampled_ratios(nats / math.log(2), num_bytes, seed=0)),
        "perplexity": math.exp(min(scores.nats_per_token, 700.0)),
        "eos_nats": float(ends.mean()),
        "end_probability": float((-ends).exp().mean()),
        "end_probability_elsewhere": elsewhere,
    }


def compare(scores: Scores, other_nats: Floats) -> dict[str, Any]:
    """Bits per byte of both on the same tweets, and their paired difference."""
    num_bytes = as_floats(scores.num_bytes)
    theirs = float(other_nats.sum() / math.log(2) / num_bytes.sum())
    paired = measures.paired_difference(as_floats(scores.nats), other_nats, num_bytes)
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


def known_by_heart(subject: Subject, corpus: Corpus, scores: Scores) -> dict[str, Any]:
    """Loss on training tweets beside the loss on validation tweets; both without dropout."""
    tweets = measures.spread(corpus.train, min(len(corpus.train), max(TRAIN_TWEETS, len(corpus.val))))
    known, _ = subject.score(tweets)
    (val, val_tokens), (train, train_tokens) = (
        (as_floats(side.nats), as_floats(side.tokens)) for side in (scores, known)
    )
    return {
        "train_tweets": len(tweets),
        "train_nats_per_token": known.nats_per_token,
        "val_nats_per_token": scores.nats_per_token,
        "gap": measures.difference_of_means(val, train, weights=(val_tokens, train_tokens)),
        "membership_auc": measures.auc(val / val_tokens, train / train_tokens),
    }


def repeats(corpus: Corpus) -> float:
    """Share of the cleaned tweets that said what an earlier one had said, before preprocessing dropped them.

    The human floor of exact copies: validation tweets can't be training tweets, because duplicates are gone by then.
    """
    line = next((line for line in corpus.info.get("rules", ()) if line["rule"] == "duplicates"), None)
    if line is None or not (together := line["dropped"] + line["kept"]):
        return math.nan
    return float(line["dropped"] / together)


def as_floats(values: torch.Tensor) -> Floats:
    """A numpy array of doubles."""
    return values.double().cpu().numpy()


def plain(value: Any) -> Any:
    """The same for JSON, which knows neither nan nor infinity: they become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(config: Config, found: Evaluation) -> None:
    """Write results/evaluation.json and results/report.html."""
    folder = config.paths.results
    with atomic_write(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(plain(found.result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
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
        print(json.dumps(plain(found.result), ensure_ascii=False, allow_nan=False))
    else:
        show(found.result)


if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
