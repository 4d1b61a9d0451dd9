"""Who may teach: models of our own, GPT-2s fine-tuned on the tweets, a Kneser-Ney n-gram; alone or mixed.

On a real training tweet a teacher who has read it teaches little: he expects it nearly to the letter. So there only
those speak who have not: the n-gram, which leaves the tweet's counts out, and of a cross-fitted ensemble the one member
that did not see it. Where there is nobody like that, all do. Tweets that the teachers wrote nobody has seen: all speak.
"""

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from config.schema import TEACHERS as KINDS
from config.schema import UserError
from distillation.runs import DistillContext, TrainingRun, train_once
from distillation.teacher_cache import CachedStates, TeacherCache, cache_hidden_states
from distillation.workers import train_all
from export.pretrained import load_pretrained
from generate.copies import CopyCheck
from generate.generate import generate
from model.checkpoint import Bundle, load_bundle
from model.device import precision
from model.ensemble import Ensemble, Member
from model.ngram import NGram, leave_one_out
from trainer.batches import TweetDataset
from trainer.job import NGRAM_ORDER, NGRAM_TOP_K, framed_ids
from utils.preprocess import Tweet

TEACHER_SEED = 1000  # of the first member; not the student's, so that students with other seeds share the teachers
WRITTEN_AT_ONCE = 1024  # tweets asked of the teachers together
NGRAM_SHARE = 0.1  # of the mixture, if nothing else is said; 0.2 is as good a teacher, but harder to imitate
PATIENCE = 4  # times as many tweets are tried as are wanted, before it is found that the teachers never end one


@dataclass(frozen=True)
class Group:
    """One of distill.teacher: models that speak with one weight.

    Attributes:
        folds: (tweets,) the one member that has not seen each training tweet; None: all members have seen all.
    """

    name: str
    members: Sequence[Bundle]
    weight: float
    folds: Tensor | None = None

    def members_for(self, fold: int | None) -> list[Member]:
        """Who speaks on the training tweets of a fold; None: on what nobody has seen, or everybody."""
        members = list(self.members)
        if fold is not None:
            members = [] if self.folds is None else [self.members[fold]]
        return [Member(member.model, member.vocabulary, self.weight / len(members)) for member in members]


@dataclass(frozen=True)
class Teachers:
    """All of distill.teacher; `chain` is the checkpoint of the generation before."""

    context: DistillContext
    chain: Path
    groups: Sequence[Group]
    ngram: NGram | None
    ngram_weight: float

    @property
    def name(self) -> str:
        """What the table calls them."""
        names = [group.name for group in self.groups]
        return " + ".join([*names, f"{NGRAM_ORDER}-gram"] if self.ngram else names)

    def ensemble(self, fold: int | None = None, *, ngram: bool = True) -> Ensemble:
        """Those who speak on a fold (None: on what nobody has seen, or everybody), as one."""
        context, members = self.context, [member for group in self.groups for member in group.members_for(fold)]
        same = [
            replace(member, vocabulary=context.vocabulary)
            if torch.equal(member.vocabulary.id_of, context.vocabulary.id_of)
            else member
            for member in members
        ]
        return Ensemble(
            same,
            context.vocabulary,
            config=context.config.model,
            ngram=self.ngram if ngram else None,
            ngram_share=self.ngram_weight,
        ).eval()

    def memory(self, rows: TweetDataset) -> TeacherCache:
        """What they expect at every place of `rows`: the training tweets, and then those they wrote."""
        corpus = self.context.corpus
        real = rows.tweet < len(corpus.train)
        parts: list[CachedStates] = []
        crossed = next((group.folds for group in self.groups if group.folds is not None), None)
        if crossed is None and not self.ngram:
            parts.append(cache_hidden_states(self.ensemble(ngram=False), rows, real.nonzero()[:, 0]))
        elif crossed is not None:
            fold_of_row = torch.where(real, crossed[rows.tweet.clamp(max=len(corpus.train) - 1)], -1)
            for fold in range(int(crossed.max()) + 1):
                chosen = (fold_of_row == fold).nonzero()[:, 0]
                parts.append(cache_hidden_states(self.ensemble(fold, ngram=False), rows, chosen))
        if not bool(real.all()):
            parts.append(cache_hidden_states(self.ensemble(), rows, (~real).nonzero()[:, 0]))
        dtype = precision(self.context.config.machine, self.context.device)
        if not self.ngram:
            return TeacherCache(parts, places=rows.num_predictions, dtype=dtype)
        framed = framed_ids(corpus.train, self.context.tokenizer)
        left_out = leave_one_out(self.ngram, framed, self.context.vocabulary, NGRAM_TOP_K)
        others = sum(group.weight for group in self.groups if group.folds is not None)
        share = self.ngram_weight / (self.ngram_weight + others)
        return TeacherCache(parts, places=rows.num_predictions, ngram=left_out, ngram_share=share, dtype=dtype)


def check_teachers(context: DistillContext) -> None:
    """Refuse a teacher that can't teach, before anything is trained.

    Raises:
        UserError: a checkpoint or a GPT-2 of `distill.teacher` is not there or does not fit.
    """
    for name in context.config.distill.teachers:
        if name.endswith((".pth", ".pt")):
            checkpoint(context, Path(name))
        elif name not in KINDS:
            check_pretrained(context, name)


def make_teachers(context: DistillContext, chain: Path) -> Teachers:
    """The teachers that `distill.teacher` names, trained or found.

    Args:
        chain: the checkpoint of the generation before, for `chain`.
    """
    names = context.config.distill.teachers
    others = max(1, len(names) - ("ngram" in names))
    usual = [NGRAM_SHARE if name == "ngram" else (1.0 - NGRAM_SHARE) / others for name in names]
    weights = dict(zip(names, context.config.distill.weights or usual, strict=True))
    groups = []
    for name in names:
        if name == "chain":
            groups.append(Group(chain.stem, [load_bundle(chain, context.device)], weights[name]))
        elif name == "ensemble":
            groups.append(ensemble_group(context, weights[name]))
        elif name.endswith((".pth", ".pt")):
            groups.append(Group(Path(name).stem, [checkpoint(context, Path(name))], weights[name]))
        elif name not in KINDS:
            groups.append(Group(Path(name).name, [fine_tuned(context, name)], weights[name]))
    ngram = None
    if "ngram" in names:
        ngram = NGram.fit(framed_ids(context.corpus.train, context.tokenizer), NGRAM_ORDER)
    return Teachers(context, chain, groups, ngram, weights.get("ngram", 0.0))


def folds_of(context: DistillContext) -> Tensor | None:
    """The one member that does not see each training tweet, (tweets,); None: all members see all."""
    settings = context.config.distill
    return fold_of(len(context.corpus.train), settings.members, seed=TEACHER_SEED) if settings.cross_fit else None


def member_stages(context: DistillContext) -> list[TrainingRun]:
    """The members of the ensemble; cross-fitted (distill.cross_fit), member k does not see fold k."""
    config, corpus, settings = context.config, context.corpus, context.config.distill
    folds, runs = folds_of(context), []
    for number in range(settings.members):
        recipe = replace(config.train, seed=TEACHER_SEED + number, epochs=settings.member_epochs)
        own, seen = replace(config, train=recipe), corpus
        if folds is not None:
            tweets = [tweet for tweet, fold in zip(corpus.train, folds.tolist(), strict=True) if fold != number]
            seen = replace(corpus, train=tweets)
        left_out = [number, settings.members] if folds is not None else None
        path = config.paths.checkpoints / "teachers" / f"member_{number + 1}.pth"
        log = config.paths.results / "teachers" / f"member_{number + 1}.jsonl"
        runs.append(TrainingRun(own, seen, path, log, context.fingerprint(own, left_out=left_out)))
    return runs


def ensemble_group(context: DistillContext, weight: float) -> Group:
    """The members, trained or found."""
    runs = member_stages(context)
    train_all(context, runs)
    members = [load_bundle(run.path, context.device) for run in runs]
    return Group(f"ensemble of {len(members)}", members, weight, folds_of(context))


def fold_of(tweets: int, folds: int, *, seed: int) -> Tensor:
    """Which of `folds` parts of equal size each tweet belongs to, (tweets,)."""
    shuffled = torch.randperm(tweets, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(tweets, dtype=torch.long)
    fold[shuffled] = torch.arange(tweets) % folds
    return fold


def checkpoint(context: DistillContext, path: Path) -> Bundle:
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
    length, needed = bundle.model.config.block_size, context.config.model.block_size
    if length < needed:
        raise UserError(f"distill.teacher {path} reads {length} tokens, the student {needed}: lower model.block_size")
    return bundle


def check_pretrained(context: DistillContext, name: str) -> None:
    """Refuse a Hugging Face folder or name that can't be fine-tuned, before anything is trained."""
    try:
        found = load_pretrained(replace(context.config.model, init_from=name), context.tokenizer)
    except UserError as error:
        hint = "; where there is no network, give a folder" if "nor to be had" in str(error) else ""
        raise UserError(str(error).replace("model.init_from", "distill.teacher", 1) + hint) from None
    length, needed = found.config.block_size, context.config.model.block_size
    if length < needed:
        raise UserError(f"distill.teacher {name} reads {length} tokens, the student {needed}: lower model.block_size")


def fine_tuned(context: DistillContext, name: str) -> Bundle:
    """A GPT-2 of Hugging Face with all its 50,257 tokens, fine-tuned on the training tweets; its best epoch is kept."""
    config, settings = context.config, context.config.distill
    recipe = replace(
        config.train,
        epochs=settings.finetune_epochs,
        learning_rate=settings.finetune_learning_rate,
        output_dropout=0.0,
        unk_replacement=0.0,
        ngram_weight=0.0,
    )
    model = replace(config.model, init_from=name, vocabulary="full", dropout=0.1, output_bias=False)
    own = replace(config, train=recipe, model=model)
    slug = "".join(letter if letter.isalnum() else "_" for letter in name) + f"_{zlib.crc32(name.encode()):08x}"
    path = config.paths.checkpoints / "teachers" / f"{slug}.pth"
    log = config.paths.results / "teachers" / f"{slug}.jsonl"
    train_once(context, TrainingRun(own, context.corpus, path, log, context.fingerprint(own)))
    return load_bundle(path, context.device)


def write_tweets(teachers: Teachers, count: int) -> list[Tweet]:
    """`count` new tweets by the teachers at temperature 1: ended by themselves, and no copies of real ones."""
    context = teachers.context
    config, tokenizer = context.config, context.tokenizer
    author = Bundle(teachers.ensemble(), tokenizer, context.vocabulary, config, {})  # type: ignore[arg-type]
    together = min(WRITTEN_AT_ONCE, count)
    as_is = replace(config.generate.unshaped(), num_samples=together, max_new_tokens=config.model.block_size)
    real = [tweet.text for tweet in (*context.corpus.train, *context.corpus.val)]
    copies = CopyCheck(real, [])
    written: list[Tweet] = []
    for tried in range(0, PATIENCE * count, together):
        seed = TEACHER_SEED * 1_000_003 + tried
        for sample in generate(author, [""], replace(as_is, seed=seed)):
            text = sample.text.strip()
            if sample.finish_reason == "stop" and text and not copies.exact(text):
                written.append(Tweet(text, True))
        print(f"\rThe {teachers.name} wrote {min(len(written), count):,} of {count:,} tweets", end="", file=sys.stderr)
        if len(written) >= count:
            break
    print(file=sys.stderr)
    if len(written) < count:
        print(f"The teachers end so few tweets that only {len(written):,} could be used", file=sys.stderr)
    return written[:count]
