"""Teachers that know the tweets alone: models of our own and a Kneser-Ney n-gram, alone or mixed.

A pretrained model teaches alone (distillation/pretrained.py).

On a real training tweet a teacher that was trained on it is a poor teacher: it predicts the tweet almost word for word.
So there the n-gram teaches alone, with the tweet's own counts left out; without an n-gram, all teach. The tweets that
the teachers wrote were in no training set: there all teach.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from config.schema import UserError
from distillation.runs import DistillContext, TrainingRun
from distillation.teacher_cache import TeacherCache, cache_hidden_states
from distillation.workers import train_all
from generate.copies import CopyCheck
from generate.generate import generate
from model.checkpoint import Bundle, load_bundle
from model.device import precision
from model.ensemble import Ensemble, Member
from model.ngram import NGram, leave_one_out
from model.tracks import highest, origin
from trainer.batches import TweetDataset
from trainer.job import NGRAM_ORDER, NGRAM_TOP_K, framed_ids
from utils.preprocess import Tweet

TEACHER_SEED = 1000  # of the first member; not the student's, so that students with other seeds share the teachers
WRITE_BATCH = 1024  # tweets that the teachers write at once
NGRAM_SHARE = 0.1  # the n-gram's default weight; 0.2 is as good a teacher, but harder to imitate
MAX_TRIES = 4  # tweets written for each one wanted, before we conclude that the teachers rarely end a tweet


@dataclass(frozen=True)
class Group:
    """One entry of distill.teacher: one model, or the members of the ensemble, which share its weight equally."""

    name: str
    bundles: Sequence[Bundle]
    weight: float

    def members(self) -> list[Member]:
        """The models as members of one ensemble of all teachers."""
        share = self.weight / len(self.bundles)
        return [Member(bundle.model, bundle.vocabulary, share) for bundle in self.bundles]


@dataclass(frozen=True)
class Teachers:
    """All entries of distill.teacher.

    Attributes:
        chain: the checkpoint of the previous generation.
        groups: all teachers but the n-gram.
        ngram, ngram_weight: the n-gram, and its weight beside those of `groups`; None: there is none.
    """

    context: DistillContext
    chain: Path
    groups: Sequence[Group]
    ngram: NGram | None
    ngram_weight: float

    @property
    def name(self) -> str:
        """Their name in the table."""
        names = [group.name for group in self.groups]
        return " + ".join([*names, f"{NGRAM_ORDER}-gram"] if self.ngram else names)

    def origin(self) -> tuple[str, list[str]]:
        """The track of all of them together, and the outside models among them; see model/tracks.py."""
        found = [origin(bundle) for group in self.groups for bundle in group.bundles]
        return highest(track for track, _ in found), sorted({model for _, models in found for model in models})

    def ensemble(self) -> Ensemble:
        """All teachers as one model."""
        context, members = self.context, [member for group in self.groups for member in group.members()]
        members = [  # an equal vocabulary is replaced by the same object, which needs no translation
            replace(member, vocabulary=context.vocabulary)
            if torch.equal(member.vocabulary.id_of, context.vocabulary.id_of)
            else member
            for member in members
        ]
        return Ensemble(
            members,
            context.vocabulary,
            config=context.config.model,
            ngram=self.ngram,
            ngram_share=self.ngram_weight,
        ).eval()

    def cache(self, dataset: TweetDataset) -> TeacherCache:
        """What they predict at every position of `dataset`: the training tweets, then the tweets they wrote."""
        context, size = self.context, dataset.num_predictions
        dtype = precision(context.config.machine, context.device)
        if not self.ngram:
            return TeacherCache(cache_hidden_states(self.ensemble(), dataset), size=size, dtype=dtype)
        framed = framed_ids(context.corpus.train, context.tokenizer)
        left_out = leave_one_out(self.ngram, framed, context.vocabulary, NGRAM_TOP_K)
        written = (dataset.tweet >= len(context.corpus.train)).nonzero()[:, 0]
        states = cache_hidden_states(self.ensemble(), dataset, written) if len(written) else None
        return TeacherCache(states, size=size, left_out=left_out, dtype=dtype)


def check_teachers(context: DistillContext) -> None:
    """Refuse a teacher that does not fit, before anything is trained.

    Raises:
        UserError: a checkpoint of `distill.teacher` is missing or does not fit.
    """
    for name in context.config.distill.teachers:
        if name.endswith((".pth", ".pt")):
            load_teacher(context, Path(name))


def make_teachers(context: DistillContext, chain: Path) -> Teachers:
    """The teachers that `distill.teacher` names, trained or loaded.

    Args:
        chain: the checkpoint of the previous generation, for the teacher `chain`.
    """
    names = context.config.distill.teachers
    others = max(1, len(names) - ("ngram" in names))
    defaults = [NGRAM_SHARE if name == "ngram" else (1.0 - NGRAM_SHARE) / others for name in names]
    weights = dict(zip(names, context.config.distill.weights or defaults, strict=True))
    groups = []
    for name in names:
        if name == "chain":
            groups.append(Group(chain.stem, [load_bundle(chain, context.device)], weights[name]))
        elif name == "ensemble":
            groups.append(ensemble_group(context, weights[name]))
        elif name.endswith((".pth", ".pt")):
            groups.append(Group(Path(name).stem, [load_teacher(context, Path(name))], weights[name]))
    ngram = None
    if "ngram" in names:
        ngram = NGram.fit(framed_ids(context.corpus.train, context.tokenizer), NGRAM_ORDER)
    return Teachers(context, chain, groups, ngram, weights.get("ngram", 0.0))


def member_runs(context: DistillContext) -> list[TrainingRun]:
    """The training runs of the ensemble's members. They differ in their seeds."""
    config, settings = context.config, context.config.distill
    runs = []
    for number in range(settings.members):
        recipe = replace(config.train, seed=TEACHER_SEED + number, epochs=settings.member_epochs)
        own = replace(config, train=recipe)
        path = config.paths.checkpoints / "teachers" / f"member_{number + 1}.pth"
        log = config.paths.results / "teachers" / f"member_{number + 1}.jsonl"
        runs.append(TrainingRun(own, context.corpus, path, log, context.fingerprint(own)))
    return runs


def ensemble_group(context: DistillContext, weight: float) -> Group:
    """The ensemble's members, trained or loaded."""
    runs = member_runs(context)
    train_all(context, runs)
    bundles = [load_bundle(planned.path, context.device) for planned in runs]
    return Group(f"ensemble of {len(bundles)}", bundles, weight)


def load_teacher(context: DistillContext, path: Path) -> Bundle:
    """A checkpoint of ours as a teacher.

    Raises:
        UserError: there is none, or it was trained on another split or with a shorter context.
    """
    bundle, hash_here = load_bundle(path, context.device), context.corpus.info["split"]["hash"]
    found = bundle.info.get("split_hash")
    if found != hash_here:
        raise UserError(
            f"distill.teacher {path} was trained on another split ({found}) than this one ({hash_here}), so it may "
            "have seen the validation tweets: train it on this split"
        )
    check_context(context, str(path), bundle.model.config.block_size)
    return bundle


def check_context(context: DistillContext, name: str, length: int) -> None:
    """Refuse a teacher whose context of `length` tokens is shorter than the student's."""
    needed = context.config.model.block_size
    if length < needed:
        raise UserError(f"distill.teacher {name} reads {length} tokens, the student {needed}: lower model.block_size")


def write_tweets(teachers: Teachers, count: int) -> list[Tweet]:
    """`count` new tweets by the teachers at temperature 1, all of them finished and none a copy of a real tweet.

    There are fewer if the teachers end too few of their tweets; a message says so.
    """
    context = teachers.context
    config, tokenizer = context.config, context.tokenizer
    bundle = Bundle(teachers.ensemble(), tokenizer, context.vocabulary, config, {})
    at_once = min(WRITE_BATCH, count)
    settings = replace(config.generate.unshaped(), num_samples=at_once, max_new_tokens=config.model.block_size)
    copies = CopyCheck([tweet.text for tweet in (*context.corpus.train, *context.corpus.val)])
    written: list[Tweet] = []
    for tried in range(0, MAX_TRIES * count, at_once):
        seed = TEACHER_SEED * 1_000_003 + tried
        for sample in generate(bundle, [""], replace(settings, seed=seed), raw=True):
            text = sample.text.strip()
            if sample.finish_reason == "stop" and text and not copies.exact(text):
                written.append(Tweet(text, True))
        print(f"\rThe {teachers.name} wrote {min(len(written), count):,} of {count:,} tweets", end="", file=sys.stderr)
        if len(written) >= count:
            break
    print(file=sys.stderr)
    if len(written) < count:
        print(f"The teachers end so few tweets that only {len(written):,} can be used", file=sys.stderr)
    return written[:count]
