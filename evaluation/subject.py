"""The models that `evaluate` can judge: a checkpoint of ours, or a model of Hugging Face."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from config.schema import GenerateConfig, PathsConfig, UserError
from evaluation.huggingface import HuggingFace
from generate.copies import CopyCheck
from generate.generate import generate
from model.folder import INFO_FILE, load_model
from model.language_model import LanguageModel
from model.tracks import origin
from trainer.batches import TweetDataset
from trainer.score import Scores, score
from utils.preprocess import Corpus, Tweet


class Subject(Protocol):
    """A model to evaluate: a checkpoint of ours, or a model of Hugging Face.

    Attributes:
        kind: "checkpoint" or "hugging_face".
        notes: what the reader of the figures should know.
        split_hash: of the split that it was trained on; None if unknown.
        track: which texts and models it owes something to; see model/tracks.py.
        outside_models: names of models that it started from, or that taught it.
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
    def track(self) -> str: ...
    @property
    def outside_models(self) -> Sequence[str]: ...
    @property
    def parameters(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    def score(self, tweets: Sequence[Tweet]) -> tuple[Scores, float]: ...
    def write(self, number: int, settings: GenerateConfig, *, raw: bool) -> list[tuple[str, bool]]: ...


class Checkpoint:
    """A checkpoint of ours, or a teacher that `distill` fine-tuned.

    Args:
        copies: finds copies of training tweets, which people are not shown if there is another text.

    Raises:
        UserError: see `model.folder.load_model`.
    """

    kind = "checkpoint"

    def __init__(self, path: Path, device: torch.device, copies: CopyCheck | None = None) -> None:
        self.name, self.copies = str(path), copies
        self.bundle = load_model(path, device)
        self.split_hash: str | None = self.bundle.info.get("split_hash")
        self.notes = [] if self.split_hash else ["the checkpoint does not say which split it was trained on"]
        self.parameters = self.bundle.model.num_parameters()
        self.vocab_size = self.bundle.vocabulary.vocab_size
        self.track, self.outside_models = origin(self.bundle)

    def score(self, tweets: Sequence[Tweet]) -> tuple[Scores, float]:
        """The scores of these tweets, and the mean probability of the end mark where tweets go on."""
        bundle = self.bundle
        dataset = TweetDataset.encode(tweets, bundle.tokenizer, bundle.vocabulary, bundle.model.config.block_size)
        return score(bundle.model, dataset), end_elsewhere(bundle.model, dataset)

    def write(self, number: int, settings: GenerateConfig, *, raw: bool) -> list[tuple[str, bool]]:
        """`number` tweets without a prompt: their texts, and whether each ended by itself.

        With `raw` as the model writes them, else as people see them: the best of `generate.best_of`.
        """
        copies = None if raw else self.copies
        samples = generate(self.bundle, [""], replace(settings, num_samples=number), copies, raw=raw)
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


def open_subject(
    name: str | None, paths: PathsConfig, device: torch.device, *, copies: CopyCheck | None = None
) -> Subject:
    """The model of this name: a file is a checkpoint of ours, a folder or any other name is a model of Hugging Face.

    Raises:
        UserError: there is no such model.
    """
    path = Path(name) if name else paths.best_model
    if (path / INFO_FILE).is_file():
        return Checkpoint(path, device, copies)
    named_as_file = path.suffix in (".pth", ".pt") or path.is_absolute() or str(name).startswith(".")
    if name is None or path.is_file() or (named_as_file and not path.is_dir()):
        return Checkpoint(path, device, copies)
    return HuggingFace(name, device)


def check_split(subject: Subject, corpus: Corpus, paths: PathsConfig) -> None:
    """Raise UserError if the model was trained on another split: it may have seen these validation tweets."""
    here, there = corpus.info["split"]["hash"], subject.split_hash
    if there is not None and there != here:
        raise UserError(
            f"{subject.name} was trained on another split ({there}) than {paths.processed_json} holds ({here}), so it "
            "may have seen these validation tweets: preprocess with the settings it was trained with, or train again"
        )
