"""Who may teach: an ensemble of models of our own and a Kneser-Ney n-gram, alone or mixed.

A teacher answers two questions. What does it expect at each place of the training tweets, having not seen the tweet in
question if it can help it (`targets`)? And how likely does it hold the tokens of the validation tweets (`chances`)?
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.ngram import NGram, into_rows, leave_one_out
from model.soft_targets import SoftTargets, compress, concatenate, dense, mix
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import PAD, Batch, Rows

AT_ONCE = 64  # rows a model reads together
CHUNK = 2048  # places whose full distributions are in memory together


class Teacher(Protocol):
    """See the module's text."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    def targets(self, top_k: int) -> SoftTargets: ...
    def chances(self, val: Rows) -> Tensor: ...


@dataclass(frozen=True)
class Ensemble:
    """Models with one vocabulary; probabilities are averaged, not logits.

    Attributes:
        members: in evaluation mode.
        train: the training tweets, in the order of all of `corpus.train`.
        base: (V,) what the tails of stored distributions look like.
        folds: (tweets,) the one member that has not seen each training tweet; None: all have seen all.
    """

    members: Sequence[GPT]
    vocabulary: Vocabulary
    train: Rows
    base: Tensor
    folds: Tensor | None

    @property
    def name(self) -> str:
        return f"ensemble of {len(self.members)}"

    @property
    def parameters(self) -> int:
        return sum(member.num_parameters() for member in self.members)

    def groups(self) -> Iterator[tuple[Sequence[GPT], Tensor]]:
        """Rows of training tweets, and the members that may speak on them."""
        if self.folds is None:
            yield self.members, torch.arange(len(self.train.starts))
            return
        for fold, member in enumerate(self.members):
            yield [member], (self.folds[self.train.tweet] == fold).nonzero()[:, 0]

    def targets(self, top_k: int) -> SoftTargets:
        """What the members expect at every place of the training tweets, by its number in `Rows`."""
        parts, places = [], []
        for members, rows in self.groups():
            for chosen in by_length(self.train, rows):
                batch = self.train.batch(chosen)
                parts.append(compress(expected(members, batch), self.base, top_k))
                places.append(batch.index[batch.targets != PAD])
        return concatenate(parts).take(torch.cat(places).argsort())

    def chances(self, val: Rows) -> Tensor:
        """Probability (N,) of every token of unseen tweets under the mean of all members, as one of GPT-2's tokens."""
        found = torch.zeros(val.num_predictions, dtype=torch.float64)
        for chosen in val.in_order(AT_ONCE):
            batch = val.batch(chosen)
            real = batch.targets != PAD
            of_rows = expected(self.members, batch).gather(1, batch.targets[real][:, None])[:, 0]
            found[batch.index[real]] = of_rows.double() * val.prior_of(chosen)[real].double().exp()
        return found


@dataclass(frozen=True)
class KneserNey:
    """The n-gram: on a training tweet without that tweet's own counts.

    Attributes:
        ngram: fitted to the training tweets.
        train, val: framed tweets (see `model.ngram`).
    """

    ngram: NGram
    vocabulary: Vocabulary
    train: Sequence[Sequence[int]]
    val: Sequence[Sequence[int]]

    @property
    def name(self) -> str:
        return f"{len(self.ngram.levels)}-gram"

    @property
    def parameters(self) -> int:
        return sum(len(level.counts) for level in self.ngram.levels)  # the grams counted

    def targets(self, top_k: int) -> SoftTargets:
        """What is expected at every place of the training tweets by counts that leave the tweet out."""
        return leave_one_out(self.ngram, self.train, self.vocabulary, top_k)

    def chances(self, val: Rows) -> Tensor:
        """Probability (N,) of every token of the validation tweets, as one of GPT-2's tokens."""
        found = torch.cat([torch.from_numpy(self.ngram.log_probs(tweet)) for tweet in self.val]).exp()
        assert len(found) == val.num_predictions, "these are not the tweets that were framed"
        return found


@dataclass(frozen=True)
class Mixture:
    """Several teachers, each with its share."""

    teachers: Sequence[Teacher]
    weights: Sequence[float]

    @property
    def name(self) -> str:
        return " + ".join(teacher.name for teacher in self.teachers)

    @property
    def parameters(self) -> int:
        return sum(teacher.parameters for teacher in self.teachers)

    def targets(self, top_k: int) -> SoftTargets:
        """The weighted mean of their distributions."""
        parts = [teacher.targets(top_k) for teacher in self.teachers]
        return mix(parts, self.weights, top_k) if len(parts) > 1 else parts[0]

    def chances(self, val: Rows) -> Tensor:
        """The weighted mean of their probabilities, (N,)."""
        total = sum(self.weights)
        shares = [
            teacher.chances(val) * (weight / total) for teacher, weight in zip(self.teachers, self.weights, strict=True)
        ]
        return torch.stack(shares).sum(0)


@torch.no_grad()
def expected(members: Sequence[GPT], batch: Batch) -> Tensor:
    """Mean probabilities (N, V) of the members at the N real places of a batch, row by row; on the CPU."""
    real = batch.targets != PAD
    total = torch.zeros(())
    for member in members:
        device = member.wte.weight.device
        logits = member.head(member.trunk(batch.inputs.to(device))[real.to(device)])
        total = total + logits.float().softmax(-1).cpu()
    return total / len(members)


def by_length(rows: Rows, chosen: Tensor) -> Iterator[Tensor]:
    """Batches of these rows (n,), rows of like length together."""
    yield from chosen[rows.lengths[chosen].argsort(stable=True)].split(AT_ONCE) if len(chosen) else ()


def unigram_rows(ngram: NGram, vocabulary: Vocabulary) -> Tensor:
    """What is expected when nothing is known, (V,): a good shape for tails."""
    return torch.from_numpy(into_rows(ngram.unigram(), vocabulary))


def fold_of(tweets: int, folds: int, *, seed: int) -> Tensor:
    """Which of `folds` parts of equal size each tweet belongs to, (tweets,)."""
    shuffled = torch.randperm(tweets, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(tweets, dtype=torch.long)
    fold[shuffled] = torch.arange(tweets) % folds
    return fold


def soften(targets: SoftTargets, *, temperature: float, top_k: int) -> SoftTargets:
    """The distributions p made into p^(1/T) / sum: flatter, the higher the temperature T (Hinton et al. 2015)."""
    if temperature == 1.0:
        return targets
    base = targets.base.double() ** (1.0 / temperature)
    base /= base.sum()
    parts = []
    for index in torch.arange(len(targets)).split(CHUNK):
        softer = dense(targets, index).clamp(min=0.0) ** (1.0 / temperature)
        parts.append(compress(softer, base, top_k))
    return concatenate(parts)
