"""All that a training run needs, made from the settings and the tweets."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.schema import Config
from export.pretrained import carry_over, load_pretrained
from model.checkpoint import load_checkpoint
from model.device import choose_device, precision
from model.ngram import NGram, leave_one_out
from model.tokenizer import Tokenizer, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset, framed
from trainer.calibrate import Calibration, make_calibration
from trainer.fused_loss import BLOCK, pays
from trainer.losses import Loss, cross_entropy, soft_cross_entropy
from trainer.parallel import SINGLE_PROCESS, NoLog, Ranks
from trainer.subword_embedding import SubwordGroups, merged_state_dict, subword_groups_of
from trainer.tokens import Tokens
from utils.preprocess import Corpus, Tweet
from utils.run_log import RunLog, write_facts

NGRAM_ORDER = 3  # what held-out tweets choose at this size of corpus; longer contexts hardly ever recur
NGRAM_TOP_K = 256  # likeliest rows kept of what the n-gram expects: 0.02 nats are lost to the tail, with 32 it is 0.2
TEACHER_TOKENS = 250_000  # training tokens an n-gram may teach: 8 bytes a likely row, 0.5 GB, twice that in the making
BASELINE_TOKENS = 3_000_000  # training tokens an n-gram may count: fitting takes about 300 bytes for each, 1 GB
VAL_TOKENS = 50_000  # validation tokens scored after an epoch: 10 times what the usual 450 tweets have


@dataclass(frozen=True)
class Lesson:
    """What a model learns: the dataset it reads, and the loss that it is given there."""

    dataset: TweetDataset
    loss: Loss


@dataclass(frozen=True)
class Job:
    """All that a training run needs; `prepare` makes it.

    Attributes:
        train, val: the encoded tweets.
        ranks: the processes that train together; see trainer/parallel.py.
        subword_groups: which ids share parts of their embedding while training; see trainer/subword_embedding.py.
        calibration: makes the model that is kept expect rare tokens as often as they occur; see trainer/calibrate.py.
        loss: what is minimised; see trainer/losses.py.
        folder: where best_model.pth and last_model.pth go.
        log: receives the measurements.
        split_hash: tells which tweets were validation, so that no model is evaluated on what it was trained on.
    """

    config: Config
    model: GPT
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    train: TweetDataset
    val: TweetDataset
    folder: Path
    log: RunLog
    split_hash: str
    device: torch.device
    ranks: Ranks = SINGLE_PROCESS
    subword_groups: SubwordGroups | None = None
    calibration: Calibration | None = None
    loss: Loss = cross_entropy


def prepare(
    config: Config,
    corpus: Corpus,
    *,
    vocabulary: Vocabulary | None = None,
    folder: Path | None = None,
    log: RunLog | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    lesson: Callable[[TweetDataset], Lesson] | None = None,
) -> Job:
    """A Job: tokenizer, vocabulary, a fresh model, and the n-gram to beat and to learn from.

    What is fitted is fitted to the training tweets alone.

    Args:
        vocabulary: one to share with other models; None: that of these training tweets.
        folder, log: where checkpoints and measurements go; None: where the settings say, with a run.json.
        ranks: the processes that train together; the first one alone writes.
        lesson: makes of the training tweets what the model learns; None: these tweets, with the loss of the settings.
    """
    # long: it names each part of a Job once, in the order in which they depend on one another
    device, tokenizer = choose_device(config.machine), load_tokenizer(config.model.tokenizer)
    start = load_pretrained(config.model, tokenizer) if config.model.init_from else None
    if start:
        config = replace(config, model=start.config)
    train_tokens, val_tokens = encode_corpus(config, corpus, tokenizer)
    if vocabulary is None:
        vocabulary = Vocabulary.from_counts(config.model, tokenizer, torch.from_numpy(train_tokens.counts()))
    train, val = (
        TweetDataset.of(tokens, tokenizer, vocabulary, config.model.block_size) for tokens in (train_tokens, val_tokens)
    )
    model = fresh_model(config, train)
    if start:
        carry_over(start, model, vocabulary)
    ngram = count_ngram(train_tokens)
    calibration = calibration_of(config, train_tokens, ngram, vocabulary, tokenizer)
    default = Lesson(train, ngram_loss(config, train_tokens, ngram, vocabulary, device))
    taught = lesson(train) if lesson else default
    job = Job(
        config=config,
        model=model,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        train=taught.dataset,
        val=val_sample(val, tokenizer),
        folder=folder or config.paths.checkpoints,
        log=log or (open_log(config) if ranks.first else NoLog()),
        split_hash=corpus.info["split"]["hash"],
        device=device,
        ranks=ranks,
        subword_groups=None if start else subword_groups(config, train, tokenizer, taught=lesson is not None),
        calibration=calibration,
        loss=taught.loss,
    )
    if ngram and not config.train.resume:
        log_baseline(job, ngram, val_tokens)
    if log is None and ranks.first:
        write_facts(config.paths.results / "run.json", run_facts(job, corpus))
    return job


def encode_corpus(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """The training and the validation tweets as tokens, in files that are gone with the process."""
    config.paths.data.mkdir(parents=True, exist_ok=True)
    train, val = (Tokens.encode(side, tokenizer, folder=config.paths.data) for side in (corpus.train, corpus.val))
    return train, val


def subword_groups(config: Config, train: TweetDataset, tokenizer: Tokenizer, *, taught: bool) -> SubwordGroups | None:
    """The groups of train.subword_features. With a teacher each id has its own vector too."""
    if not config.train.subword_features:
        return None
    groups = subword_groups_of(train.vocabulary, tokenizer, train.id_counts)
    return replace(groups, single=torch.ones_like(groups.single)) if taught else groups


def log_baseline(job: Job, ngram: NGram, val: Tokens) -> None:
    """Write what the validation tweets cost the n-gram, which is to be beaten, into the log."""
    nats = -sum(float(ngram.log_probs(ids).sum()) for ids in val.texts())
    job.log.write(step=0, **{"baseline/ngram": nats / math.log(2) / int(val.num_bytes.sum())})


def fresh_model(config: Config, train: TweetDataset) -> GPT:
    """A model as `train.seed` makes it, which knows nothing but how frequent each id is."""
    torch.manual_seed(config.train.seed)
    model = GPT(config.model, train.vocabulary.vocab_size)
    if model.head_bias is not None:
        model.head_bias.data = log_frequency(train)
    return model


def framed_ids(tweets: Sequence[Tweet], tokenizer: Tokenizer) -> list[list[int]]:
    """GPT-2 ids of every tweet with its end marks."""
    bodies = tokenizer.encode_batch([tweet.text for tweet in tweets])
    return [framed(ids, finished=tweet.finished) for ids, tweet in zip(bodies, tweets, strict=True)]


def say(text: str) -> None:
    """Tell what is being done, on standard error."""
    print(text, file=sys.stderr)


def count_ngram(train: Tokens) -> NGram | None:
    """The n-gram to beat and to learn from, or None where there is more text than it can count."""
    if train.num_predictions > BASELINE_TOKENS:
        say(
            f"No n-gram baseline: its counts of {train.num_predictions:,} tokens would take "
            f"{train.num_predictions * 300 / 1e9:.0f} GB of memory (it is left out above {BASELINE_TOKENS:,} tokens)"
        )
        return None
    return NGram.fit(train.texts(), NGRAM_ORDER)


def ngram_loss(
    config: Config, train: Tokens, ngram: NGram | None, vocabulary: Vocabulary, device: torch.device
) -> Loss:
    """Cross-entropy, maybe mixed (train.ngram_weight) with what an n-gram expects that has not seen the tweet."""
    if config.train.ngram_weight == 0:
        return cross_entropy
    if ngram is None or train.num_predictions > TEACHER_TOKENS:
        say(
            f"No n-gram teacher, so train.ngram_weight has no effect: what it expects at {train.num_predictions:,} "
            f"tokens would take {train.num_predictions * NGRAM_TOP_K * 8 / 1e9:.0f} GB of memory (it is left out above "
            f"{TEACHER_TOKENS:,} tokens, and with so much text there is less to learn from it)"
        )
        return cross_entropy
    teacher = leave_one_out(ngram, train.texts(), vocabulary, NGRAM_TOP_K)
    return soft_cross_entropy(teacher.to(device), weight=config.train.ngram_weight)


def calibration_of(
    config: Config, train: Tokens, ngram: NGram | None, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> Calibration | None:
    """The calibration of train.calibrate, where there is an n-gram and little enough text to count again."""
    if not config.train.calibrate or ngram is None or train.num_predictions > TEACHER_TOKENS:
        return None
    return make_calibration(config, train.texts(), ngram, vocabulary, tokenizer)


def val_sample(val: TweetDataset, tokenizer: Tokenizer) -> TweetDataset:
    """The validation tweets, or evenly spread ones where scoring them all would take long."""
    sample = val.sample(VAL_TOKENS, tokenizer)
    if sample is not val:
        say(
            f"Validation uses {sample.num_predictions:,} of {val.num_predictions:,} tokens, evenly spread, to take "
            "bounded time"
        )
    return sample


def open_log(config: Config) -> RunLog:
    """metrics.jsonl: a new one, or the old one up to the step that the run goes on from."""
    if not config.train.resume:
        return RunLog(config.paths.metrics)
    state = load_checkpoint(config.paths.last_model).get("state", {"step": 0, "epoch": 0})
    return RunLog(config.paths.metrics, keep=so_far(state))


def so_far(state: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Which records a run keeps that goes on from `state`: not those of an epoch whose end it will see again."""
    return lambda record: record["step"] <= state["step"] and record.get("epoch", 0) <= state["epoch"]


def log_frequency(train: TweetDataset) -> Tensor:
    """Log share of each id among the training tokens, (V,): a good place for the output bias to start.

    A shared id counts as often as there are tokens of its shape seen once (Good 1953: so many unseen are to come).
    """
    counts = train.id_counts.float()
    counts[train.vocabulary.end] -= len(train.num_bytes)  # the end mark before a tweet is given, not predicted
    once = train.unk_ids[(counts == 1) & (train.unk_ids >= 0)]
    counts += torch.bincount(once, minlength=train.vocabulary.vocab_size)
    return (counts.clamp(min=0.5) / counts.sum()).log()


def run_facts(job: Job, corpus: Corpus) -> dict[str, object]:
    """What run.json tells of this run."""
    return {
        "settings": job.config.to_dict(),
        "split": corpus.info["split"],
        "parameters": job.model.num_parameters(),
        "vocab_size": job.vocabulary.vocab_size,
        "device": str(job.device),
        "precision": str(precision(job.config.machine, job.device)).removeprefix("torch."),
        "processes": job.ranks.size,
        "threads": torch.get_num_threads(),
    }


def describe(job: Job) -> str:
    """One line on what is about to be trained."""
    model, processes = job.config.model, f"{job.ranks.size} processes, each on " if job.ranks.size > 1 else ""
    parameters = sum(part.numel() for part in merged_state_dict(job.model).values())
    return (
        f"Training {model.n_layer} layers x {model.n_embd} wide, {model.n_head} heads, "
        f"vocabulary {job.vocabulary.vocab_size:,}: "
        f"{parameters:,} parameters on {job.train.num_predictions:,} tokens of "
        f"{len(job.train.num_bytes):,} tweets ({processes}{job.device}, {torch.get_num_threads()} threads, "
        f"about {step_bytes(job) / 1e6:,.0f} MB of memory for a step)"
    )


def examples_at_once(config: Config, processes: int = 1) -> int:
    """Examples that go through the model together: a batch is shared by the processes and cut into parts."""
    return math.ceil(config.train.batch_size / (processes * config.train.accumulate))


def step_bytes(job: Job) -> int:
    """About the most memory that training takes in a process beside the program and the tweets, bytes."""
    parameters = job.model.num_parameters()
    return bytes_of_step(
        job.config, parameters, job.vocabulary.vocab_size, job.train.lengths, job.device, job.ranks.size
    )


def largest_batch(config: Config, lengths: Tensor, processes: int = 1) -> tuple[int, int]:
    """The most predictions, and the most places with padding, that go through the model at once."""
    longest = lengths.topk(min(examples_at_once(config, processes), len(lengths))).values
    return int(longest.sum()), longest.numel() * int(longest[0])


def bytes_of_step(
    config: Config, parameters: int, vocab_size: int, lengths: Tensor, device: torch.device, processes: int = 1
) -> int:
    """`step_bytes` of a model with so many parameters and ids, on examples of these lengths (n,).

    Weights, gradients, AdamW's two moments and the model that is kept, 4 bytes each, and with several processes their
    message; of the largest batch the logits, their gradient and what a loss keeps, or fused (trainer/fused_loss.py) the
    logits and those of a block; and in every layer about 32 vectors a place (measured) that the gradient needs.
    """
    tokens, places = largest_batch(config, lengths, processes)
    logits = 4 * tokens * vocab_size
    if pays(precision(config.machine, device), device, tokens * vocab_size):
        logits = (tokens + 3 * min(tokens, BLOCK)) * vocab_size
    copies = 5 if processes == 1 else 6
    return 4 * (copies * parameters + logits + 32 * places * config.model.n_embd * config.model.n_layer)
