"""A pretrained teacher: any causal language model of Hugging Face, with GPT-2's tokens, fine-tuned on the tweets.

    load -> transplant (distillation/transplant.py) -> fine-tune -> write tweets (distillation/writing.py)

The fine-tuning goes through the one training loop, over about one pass: after that such a model learns small texts by
heart. At each training tweet it records what it expects before its first step on it, which is what it may teach there.
"""

import shutil
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.cli import parse
from config.schema import UserError
from distillation.recorded import RECORD, Recorded
from distillation.runs import DistillContext, TrainingRun, load_if_fresh, train_once
from distillation.transplant import correspond, token_spellings, transplant
from distillation.writing import Draft
from distillation.written import WrittenTweets
from evaluation.huggingface import HuggingFace
from model.causal_lm import CausalLM, has_gpt2_tokens
from model.folder import load_folder
from model.tokenizer import NUM_TOKENS
from model.tracks import MODEL
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.job import Objective, framed_ids, say
from trainer.losses import Loss, cross_entropy, soft_cross_entropy
from trainer.teacher_vectors import principal_components
from trainer.tokens import Tokens
from utils.memory import memory
from utils.preprocess import Tweet

GOLDEN = (5**0.5 - 1.0) / 2.0  # its multiples are spread evenly between 0 and 1, without the whole part
VECTOR_SIZE = 2  # dimensions of a teacher vector for each of the student's embedding
FEW_TWEETS = 2000  # with fewer training tweets, two passes are better than one
BYTES_A_PARAMETER = 20  # fine-tuning: weights, gradient, two moments, and a copy to validate
BYTES_OF_A_BATCH = 2_800_000_000  # logits and activations of 32 tweets, as measured: 6.7 GB in all for SmolLM2
DISK_BYTES_A_PARAMETER = 20  # the state of the training, the best model so far, and the folder


@dataclass(frozen=True)
class PretrainedTeacher:
    """A model of Hugging Face that teaches alone.

    Attributes:
        source: its name: a folder, a name on the hub, or smollm2.
    """

    context: DistillContext
    source: str

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{Path(self.source).name}, fine-tuned"

    @property
    def path(self) -> Path:
        """The folder it is kept in."""
        slug = "".join(letter if letter.isalnum() else "_" for letter in Path(self.source).name)
        return self.context.config.paths.checkpoints / "teachers" / slug

    @property
    def recorded_file(self) -> Path:
        """What it expected of the training tweets before it was trained on them; another training, another file."""
        return self.path.with_suffix(f".recorded_{zlib.crc32(self.run.fingerprint.encode()):08x}.npy")

    def origin(self) -> tuple[str, list[str]]:
        """Its track, and the outside models it owes something to."""
        return MODEL, [self.source]

    @cached_property
    def run(self) -> TrainingRun:
        """The plan of its fine-tuning, which does not depend on the size of the student.

        It multiplies in float32. Such models give their first token activations a hundred times as large as all others
        (Sun et al. 2024, arXiv 2402.17762); in bfloat16 the layers that make them are not trained well.
        """
        config, settings = self.context.config, self.context.config.distill
        model = parse("train", [])[0].model
        model = replace(model, vocabulary="full", block_size=config.model.block_size, tokenizer=config.model.tokenizer)
        passes = settings.finetune_epochs or (1 if len(self.context.corpus.train) >= FEW_TWEETS else 2)
        recipe = replace(
            config.train,
            epochs=2 * passes,
            batch_size=32,
            learning_rate=settings.finetune_learning_rate,
            weight_decay=0.01,
            output_dropout=0.0,
            unk_replacement=0.0,
            ngram_weight=0.0,
            subword_features=False,
            calibrate=False,
        )
        machine = replace(config.machine, precision="f32") if config.machine.precision == "auto" else config.machine
        own = replace(config, train=recipe, model=model, machine=machine)
        fingerprint = self.context.fingerprint(own, teacher=self.source, record=RECORD.descr)
        log = config.paths.results / "teachers" / f"{self.path.name}.jsonl"
        info = {"track": MODEL, "outside_models": [self.source], "block_size": config.model.block_size}
        return TrainingRun(own, self.context.corpus, self.path, log, fingerprint, info)

    def check(self) -> None:
        """Refuse a teacher that can't be used, before anything is trained.

        Raises:
            UserError: it can't be loaded, its tokens can't be carried over, its context is too short, or memory or disk
                is too small.
        """
        if load_if_fresh(self.path, self.run.fingerprint):
            return
        peer = self.peer
        if not has_gpt2_tokens(peer.tokenizer, self.context.tokenizer):
            token_spellings(peer.tokenizer, f"distill.teacher {self.source}")
        needed = self.context.config.model.block_size
        if peer.context < needed:
            raise UserError(
                f"distill.teacher {self.source} reads {peer.context} tokens, the student {needed}: lower "
                "model.block_size"
            )
        parameters = peer.parameters + 2 * NUM_TOKENS * peer.model.config.get_text_config().hidden_size
        check_room(self.source, parameters, self.context.config.paths.checkpoints)

    @cached_property
    def peer(self) -> HuggingFace:
        """The model as it was pretrained.

        Raises:
            UserError: there is no such model.
        """
        try:
            return HuggingFace(self.source, torch.device("cpu"))
        except UserError as error:
            raise UserError(f"distill.teacher {error}") from None

    def fine_tune(self) -> int:
        """Make its folder unless it is there; returns the steps it was trained."""
        return train_once(self.context, self.run, self.recording, pretrained=self.transplanted)

    def transplanted(self) -> CausalLM:
        """The pretrained model with GPT-2's tokens."""
        peer, tokenizer, corpus = self.peer, self.context.tokenizer, self.context.corpus
        del vars(self)["peer"]  # its model is changed below
        zero_shot = peer.score(corpus.val)[0].bits_per_byte
        say(f"{self.source} has {zero_shot:.3f} bits per byte before it is trained on the tweets")
        if not has_gpt2_tokens(peer.tokenizer, tokenizer):
            found = correspond(peer.tokenizer, peer.end, tokenizer, [tweet.text for tweet in corpus.train])
            transplant(peer.model, found, framed_ids(corpus.train, tokenizer))
        return CausalLM(peer.model, self.source, block_size=self.context.config.model.block_size)

    def recording(self, real: TweetDataset) -> Objective:
        """Cross-entropy, and a record of what the model expects at each place before its first step there."""
        for file in self.path.parent.glob(f"{self.path.name}.recorded_*.npy"):
            if file != self.recorded_file:
                file.unlink()  # of a training with other settings or tweets
        return Objective(replace(real, epochs_per_pass=2), recording_loss(self.recorded_file, real.num_predictions))

    @cached_property
    def model(self) -> CausalLM:
        """The fine-tuned model."""
        return load_folder(self.path, self.context.device).model

    @property
    def written(self) -> WrittenTweets:
        """The files of the tweets that it writes."""
        return WrittenTweets(self.context, self.source, self.path, self.run.fingerprint)

    @cached_property
    def drafts(self) -> list[Draft]:
        """The tweets it wrote for the student, `distill.sampled` for each real one."""
        count = round(self.context.config.distill.sampled * len(self.context.corpus.train))
        return self.written.first(count, lambda: self.model)

    def samples(self, count: int) -> tuple[list[str], list[bool]]:
        """The first tweets that it wrote, `count` at most, good or bad; and whether each ended."""
        drafts = self.written.all_of_first_file()[:count]
        return [draft.text(self.context.tokenizer) for draft in drafts], [draft.ended for draft in drafts]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The student's vocabulary: the tokens of the real tweets, and those the teacher wrote more than once."""
        context = self.context
        real = torch.from_numpy(Tokens.encode(context.corpus.train, context.tokenizer).counts())
        written = torch.zeros_like(real)
        for draft in self.drafts:
            written += torch.bincount(torch.tensor(draft.ids), minlength=NUM_TOKENS)
        counts = real + written * (written > 1)  # a third of the tokens was written once
        return Vocabulary.from_counts(context.config.model, context.tokenizer, counts)

    def objective(self, real: TweetDataset) -> Objective:
        """What the student learns: the real tweets and the written ones, with what the teacher expected of each."""
        context, settings = self.context, self.context.config.distill
        tweets = [*context.corpus.train, *(Tweet(draft.text(context.tokenizer), True) for draft in self.drafts)]
        dataset = TweetDataset.encode(tweets, context.tokenizer, real.vocabulary, context.config.model.block_size)
        before = read_recorded(self.recorded_file, real.num_predictions)
        expected = Recorded.join([before, *(part for draft in self.drafts for part in draft.expected)])
        weight = torch.full((dataset.num_predictions,), 1.0 if settings.sampled_soft else 0.0)
        known = torch.from_numpy(before.probs.astype(np.float32).sum(-1) > 0)
        weight[: len(before)] = settings.weight * known
        targets = expected.targets(real.vocabulary)
        loss = soft_cross_entropy(targets.to(context.device), weight=weight)
        return Objective(dataset, loss, self.vectors_of(real.vocabulary))

    def vectors_of(self, vocabulary: Vocabulary) -> Tensor:
        """What its embedding and its head have for each of a student's ids, (V, K)."""
        ids, model = vocabulary.gpt2_ids, self.model
        own = [weight.detach().cpu()[ids.clamp(min=0)] for weight in (model.wte.weight, model.head_weight)]
        return principal_components(own, ids >= 0, most=VECTOR_SIZE * self.context.config.model.n_embd)


def check_room(name: str, parameters: int, folder: Path) -> None:
    """Refuse to fine-tune so many parameters where memory or disk is too small.

    Raises:
        UserError: it is.
    """
    needed, (total, free) = BYTES_A_PARAMETER * parameters + BYTES_OF_A_BATCH, memory()
    if (there := free or total) and there < needed:
        raise UserError(
            f"distill.teacher {name}: to fine-tune {parameters:,} parameters takes {needed / 1e9:.0f} GB of memory, "
            f"and {there / 1e9:.0f} are free: give a smaller model, or --distill.teacher ensemble"
        )
    folder.mkdir(parents=True, exist_ok=True)
    on_disk, there = DISK_BYTES_A_PARAMETER * parameters, shutil.disk_usage(folder).free
    if there < on_disk:
        raise UserError(
            f"distill.teacher {name}: its training keeps {on_disk / 1e9:.0f} GB in {folder}, and {there / 1e9:.1f} are "
            "free there: give --paths.root on another disk"
        )


def recording_loss(path: Path, size: int) -> Loss:
    """Cross-entropy that also writes to `path` what the model expects at each of `size` places when it is first there.

    The file is written place by place, so a run that is continued goes on with it.
    """
    if not (path.is_file() and len(np.load(path, mmap_mode="r")) == size):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(path, "w+", RECORD, (size,)).flush()
    file = np.load(path, mmap_mode="r+")

    def loss(logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        places = index.cpu().numpy()
        new = np.flatnonzero(file["probs"][places].sum(-1) == 0)
        if len(new):
            rows = logits.detach()[torch.from_numpy(new).to(logits.device)]
            found = Recorded.of(rows, torch.from_numpy(places[new] * GOLDEN % 1.0))  # also in a run that is continued
            for name in ("ids", "probs", "rest"):
                file[name][places[new]] = getattr(found, name)
        return cross_entropy(logits, targets, index)

    return loss


def read_recorded(path: Path, size: int) -> Recorded:
    """What `recording_loss` wrote; nothing at all places if it wrote no such file."""
    return Recorded.from_file(np.load(path)) if path.is_file() else Recorded.nothing(size)
