"""The tweets that a pretrained teacher wrote, in files: each is written once, and a run that was killed goes on."""

import itertools
import json
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.schema import UserError
from distillation.recorded import Recorded
from distillation.runs import INTERRUPTED, DistillContext
from distillation.writing import Draft, never_first, respelt, write_drafts
from generate.copies import CopyCheck
from model.causal_lm import CausalLM
from model.tokenizer import Tokenizer
from trainer.job import say
from trainer.train import Interrupted
from utils.files import atomic_write
from utils.signals import StopSignal

SHARD = 2048  # tweets that are written, and kept in a file, together
MOST_USELESS = 0.5  # share of unusable tweets above which a teacher is refused
SEED = 2000  # of the first shard; each has its own


@dataclass(frozen=True)
class WrittenTweets:
    """See above.

    Attributes:
        source: the teacher's name, for messages.
        teacher: its folder; the files are beside it.
        fingerprint: of its training.
    """

    context: DistillContext
    source: str
    teacher: Path
    fingerprint: str

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.teacher.with_suffix(".written")

    def first(self, count: int, model: Callable[[], CausalLM]) -> list[Draft]:
        """The first `count` usable tweets; writes those that are missing.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived; the files that are there stay.
            UserError: the teacher hardly ever ends a tweet, or hardly ever writes a new one.
        """
        self.begin()
        usable, found, tried = Usable(self.context), list[Draft](), 0
        with StopSignal() as signals:
            for number in itertools.count():
                if len(found) >= count:
                    break
                path = self.path(number)
                shard = read_shard(path) if path.is_file() else self.write(number, model(), len(found), signals)
                found += [respelt(draft, self.context.tokenizer) for draft in shard if usable(draft)]
                tried += len(shard)
                if len(found) < (1.0 - MOST_USELESS) * tried:
                    raise UserError(
                        f"distill.teacher {self.source}: of {tried:,} tweets that it wrote only {len(found):,} ended "
                        "and were new: give another one, or train it longer (--distill.finetune_epochs)"
                    )
                print(f"\r{self.source} wrote {min(len(found), count):,} of {count:,} tweets", file=sys.stderr)
        if tried:
            say(f"Of {tried:,} tweets that {self.source} wrote, {len(found):,} ended and were new")
        return found[:count]

    def all_of_first_file(self) -> list[Draft]:
        """All tweets of the first file, usable or not; none if there is no file."""
        return read_shard(self.path(0)) if self.path(0).is_file() else []

    def begin(self) -> None:
        """Make the folder. Files of another teacher, or of other settings, are removed."""
        mark, now = self.folder / "fingerprint.json", json.dumps([self.fingerprint, self.longest])
        if not (mark.is_file() and mark.read_text(encoding="utf-8") == now):
            shutil.rmtree(self.folder, ignore_errors=True)
            with atomic_write(mark) as temporary:
                temporary.write_text(now, encoding="utf-8")

    @property
    def longest(self) -> int:
        """The most tokens of a tweet, with its end mark."""
        return self.context.config.model.block_size - 1

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:04d}.npz"

    def write(self, number: int, model: CausalLM, so_far: int, signals: StopSignal) -> list[Draft]:
        """Write a shard, and keep it in its file.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived; this shard is lost.
        """

        def step(done: int) -> None:
            if sys.stderr.isatty():
                print(f"\r{self.source} writes tweets: {so_far + done:,}", end="", file=sys.stderr)
            if signals.arrived:
                raise Interrupted(INTERRUPTED)

        started = time.perf_counter()
        drafts = write_drafts(
            model,
            SHARD,
            max_new_tokens=self.longest,
            seed=SEED + number,
            forbidden=never_first(self.context.tokenizer),
            step=step,
        )
        seconds = time.perf_counter() - started
        expected = Recorded.join([part for draft in drafts for part in draft.expected])
        with atomic_write(self.path(number)) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                lengths=np.array([len(draft.ids) for draft in drafts]),
                drawn=np.array([index for draft in drafts for index in draft.ids], np.uint16),
                ids=expected.ids,
                probs=expected.probs,
                rest=expected.rest,
                seconds=np.array(seconds),
            )
        return drafts


def speed_of(path: Path) -> tuple[int, float]:
    """The tokens in a file, and the seconds that it took to write them."""
    with np.load(path) as file:
        return int(file["lengths"].sum()), float(file["seconds"])


def read_shard(path: Path) -> list[Draft]:
    """The tweets in a file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            lengths, drawn = file["lengths"], file["drawn"]
            expected = Recorded(file["ids"], file["probs"], file["rest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and run `main.py distill` again") from None
    ends = lengths.cumsum()
    return [
        Draft(drawn[start:end].tolist(), [expected.part(slice(start, end))])
        for start, end in zip(ends - lengths, ends, strict=True)
    ]


class Usable:
    """Whether a student should read a tweet that a teacher wrote.

    It should have ended, with a letter or another sign in it, and be no copy of a real tweet.
    """

    def __init__(self, context: DistillContext) -> None:
        self.tokenizer: Tokenizer = context.tokenizer
        self.train = CopyCheck([tweet.text for tweet in context.corpus.train])
        self.val = CopyCheck([tweet.text for tweet in context.corpus.val])

    def __call__(self, draft: Draft) -> bool:
        text = draft.text(self.tokenizer)
        if not draft.ended or not text or text != text.strip() or "\ufffd" in text:
            return False
        return not (self.train.is_copy(text) or self.val.exact(text))
