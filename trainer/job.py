"""A training job: everything that a training run needs, made from the settings and the tweets."""

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
from model.causal_lm import CausalLM
from model.checkpoint import load_checkpoint
from model.device import choose_device, precision
from model.ngram import NGram, choose_order, leave_one_out
from model.tokenizer import Tokenizer, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset, framed
from trainer.calibrate import Calibration, make_calibration
from trainer.fused_loss import BLOCK, use_fused_loss
from trainer.losses import Loss, cross_entropy, soft_cross_entropy
from trainer.parallel import SINGLE_PROCESS, NoLog, Ranks
from trainer.subword_embedding import SubwordGroups, find_subword_groups, merged_state_dict
from trainer.tokens import Tokens
from utils.preprocess import Corpus, Tweet
from utils.run_log import RunLog, write_facts

NGRAM_ORDER = 3  # the best order for held-out tweets of a corpus of this size; longer contexts rarely recur
NGRAM_TOP_K = 256  # ids stored of each distribution of the n-gram: the tail costs 0.02 nats; with 32 ids it costs 0.2
TEACHER_TOKENS = 250_000  # most training tokens with an n-gram teacher: it takes 8 bytes for each stored id, 0.5 GB
BASELINE_TOKENS = 3_000_000  # most training tokens to fit an n-gram to: this takes about 300 bytes for each, 1 GB
VAL_TOKENS = 50_000  # validation tokens scored after an epoch: 10 times those of the usual 450 tweets


@dataclass(frozen=True)
class Objective:
    """What training minimises: a loss, and the dataset over which it is taken.

    Attributes:
        teacher_vectors: (V, D) a vector of each id by a teacher; see trainer/teacher_vectors.py.
    """

    dataset: TweetDataset
    loss: Loss
    teacher_vectors: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """Everything that a training run needs; see `prepare`.

    Attributes:
        train, val: the encoded tweets.
        ranks: the processes that train together; see trainer/parallel.py.
        subword_groups: which ids share parts of their embedding during training; see trainer/subword_embedding.py.
        teacher_vectors: (V, D), from which a part of an untrained model's embedding is computed during training.
        calibration: corrects the probabilities of rare tokens in the saved model; see trainer/calibrate.py.
        loss: what is minimised; see trainer/losses.py.
        folder: where best_model.pth and last_model.pth are written.
        log: where the measurements are written.
        split_hash: identifies the validation tweets, so that no model is evaluated on tweets it was trained on.
    """

    config: Config
    model: GPT | CausalLM
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
    teacher_vectors: Tensor | None = None
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
    objective: Callable[[TweetDataset], Objective] | None = None,
    pretrained: CausalLM | None = None,
) -> Job:
    """A Job: tokenizer, vocabulary, an untrained model, and an n-gram model as baseline and teacher.

    Vocabulary, n-gram and calibration are fitted to the training tweets only.

    Args:
        vocabulary: one that is shared with other models; None: that of these training tweets.
        folder, log: where to write checkpoints and measurements; None: as in the settings, and a run.json as well.
        ranks: the processes that train together; only rank 0 writes files.
        objective: makes dataset and loss from the training tweets; None: the tweets, with the loss of the settings.
        pretrained: a model of `transformers` to train, with all of GPT-2's tokens; None: a GPT of the settings.
    """
    # long: it makes each part of a Job once, in the order in which they depend on each other
    device, tokenizer = choose_device(config.machine), load_tokenizer(config.model.tokenizer)
    start = load_pretrained(config.model, tokenizer) if config.model.init_from else None
    if start:
        config = replace(config, model=start.config)
    train_tokens, val_tokens = encode_corpus(config, corpus, tokenizer)
    if vocabulary is None:
        vocabulary = Vocabulary.from_counts(config.model, tokenizer, torch.from_numpy(train_tokens.counts()))
    train, val = (
        TweetDataset.from_tokens(tokens, tokenizer, vocabulary, config.model.block_size)
        for tokens in (train_tokens, val_tokens)
    )
    model = pretrained or fresh_model(config, train)
    if start and isinstance(model, GPT):
        carry_over(start, model, vocabulary)
    ngram = count_ngram(train_tokens)
    calibration = calibration_of(config, train_tokens, ngram, vocabulary, tokenizer)
    default = Objective(train, ngram_loss(config, train_tokens, ngram, vocabulary, device))
    chosen = objective(train) if objective else default
    job = Job(
        config=config,
        model=model,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        train=chosen.dataset,
        val=val_sample(val, tokenizer),
        folder=folder or config.paths.checkpoints,
        log=log or (open_log(config) if ranks.first else NoLog()),
        split_hash=corpus.info["split"]["hash"],
        device=device,
        ranks=ranks,
        subword_groups=None
        if start or pretrained
        else subword_groups_for(config, train, tokenizer, distilled=objective is not None),
        teacher_vectors=None if start else chosen.teacher_vectors,
        calibration=calibration,
        loss=chosen.loss,
    )
    if ngram and not config.train.resume:
        log_baseline(job, best_ngram(train_tokens, ngram), val_tokens)
    if log is None and ranks.first:
        write_facts(config.paths.results / "run.json", run_facts(job, corpus))
    return job


def encode_corpus(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """The training and the validation tweets as tokens, in temporary files."""
    config.paths.data.mkdir(parents=True, exist_ok=True)
    train, val = (Tokens.encode(side, tokenizer, folder=config.paths.data) for side in (corpus.train, corpus.val))
    return train, val


def subword_groups_for(
    config: Config, train: TweetDataset, tokenizer: Tokenizer, *, distilled: bool
) -> SubwordGroups | None:
    """The groups of train.subword_features, or None. In distillation every id has a vector of its own as well."""
    if not config.train.subword_features:
        return None
    groups = find_subword_groups(train.vocabulary, tokenizer, train.id_counts)
    return replace(groups, own_vector=torch.ones_like(groups.own_vector)) if distilled else groups


def best_ngram(train: Tokens, ngram: NGram) -> NGram:
    """The n-gram of the order that predicts held-out training tweets best: the one that `evaluate` compares with.

    With more text than TEACHER_TOKENS, where choosing would take long, the one that is there already.
    """
    if train.num_predictions > TEACHER_TOKENS:
        return ngram
    texts = train.texts()
    order = choose_order(texts)
    return ngram if order == NGRAM_ORDER else NGram.fit(texts, order)


def log_baseline(job: Job, ngram: NGram, val: Tokens) -> None:
    """Write the n-gram's bits per byte on the validation tweets, the baseline, to the log."""
    nats = -sum(float(ngram.log_probs(ids).sum()) for ids in val.texts())
    job.log.write(step=0, **{"baseline/ngram": nats / math.log(2) / int(val.num_bytes.sum())})


def fresh_model(config: Config, train: TweetDataset) -> GPT:
    """An untrained model: random weights from `train.seed`, and an output bias that gives each id its frequency."""
    torch.manual_seed(config.train.seed)
    model = GPT(config.model, train.vocabulary.vocab_size)
    if model.head_bias is not None:
        model.head_bias.data = log_frequency(train)
    return model


def framed_ids(tweets: Sequence[Tweet], tokenizer: Tokenizer) -> list[list[int]]:
    """The GPT-2 ids of each tweet with its end marks."""
    bodies = tokenizer.encode_batch([tweet.text for tweet in tweets])
    return [framed(ids, finished=tweet.finished) for ids, tweet in zip(bodies, tweets, strict=True)]


def say(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr)


def count_ngram(train: Tokens) -> NGram | None:
    """An n-gram model of the training tweets, the baseline and teacher; None if there is too much text to fit it."""
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
    """Cross-entropy, where train.ngram_weight of the target is the probabilities of an n-gram without the tweet."""
    if config.train.ngram_weight == 0:
        return cross_entropy
    if ngram is None or train.num_predictions > TEACHER_TOKENS:
        say(
            f"No n-gram teacher, so train.ngram_weight has no effect: its probabilities at {train.num_predictions:,} "
            f"tokens would take {train.num_predictions * NGRAM_TOP_K * 8 / 1e9:.0f} GB of memory (it is left out above "
            f"{TEACHER_TOKENS:,} tokens, and with so much text there is less to learn from it)"
        )
        return cross_entropy
    teacher = leave_one_out(ngram, train.texts(), vocabulary, NGRAM_TOP_K)
    return soft_cross_entropy(teacher.to(device), weight=config.train.ngram_weight)


def calibration_of(
    config: Config, train: Tokens, ngram: NGram | None, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> Calibration | None:
    """The calibration of train.calibrate; None if it is off, there is no n-gram, or there is too much text."""
    if not config.train.calibrate or ngram is None or train.num_predictions > TEACHER_TOKENS:
        return None
    return make_calibration(config, train.texts(), ngram, vocabulary, tokenizer)


def val_sample(val: TweetDataset, tokenizer: Tokenizer) -> TweetDataset:
    """The validation tweets, or evenly spaced ones if scoring all would take long."""
    sample = val.sample(VAL_TOKENS, tokenizer)
    if sample is not val:
        say(
            f"Validation uses {sample.num_predictions:,} of {val.num_predictions:,} tokens, evenly spaced, to limit "
            "its time"
        )
    return sample


def open_log(config: Config) -> RunLog:
    """metrics.jsonl: a new file, or for a resumed run the old one up to the step it continues from."""
    if not config.train.resume:
        return RunLog(config.paths.metrics)
    state = load_checkpoint(config.paths.last_model).get("state", {"step": 0, "epoch": 0})
    return RunLog(config.paths.metrics, keep=records_until(state))


def records_until(state: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Whether a run that continues from `state` keeps a log record: not if it will write that record again."""
    return lambda record: record["step"] <= state["step"] and record.get("epoch", 0) <= state["epoch"]


def log_frequency(train: TweetDataset) -> Tensor:
    """The log frequency of each id in the training tweets, (V,): the initial output bias.

    The count of a shared id is the number of tokens of its shape that occur once: that many unseen tokens are to be
    expected (Good 1953).
    """
    counts = train.id_counts.float()
    counts[train.vocabulary.end] -= len(train.num_bytes)  # the end mark before a tweet is never predicted
    once = train.unk_ids[(counts == 1) & (train.unk_ids >= 0)]
    counts += torch.bincount(once, minlength=train.vocabulary.vocab_size)
    return (counts.clamp(min=0.5) / counts.sum()).log()


def run_facts(job: Job, corpus: Corpus) -> dict[str, object]:
    """The content of run.json."""
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


def saved_parameters(job: Job) -> int:
    """Number of parameters of the model that will be saved; while it is trained, there are more (subword vectors)."""
    return sum(part.numel() for part in merged_state_dict(job.model).values())


def describe(job: Job) -> str:
    """One line that describes the training to come."""
    model, processes = job.config.model, f"{job.ranks.size} processes, each on " if job.ranks.size > 1 else ""
    return (
        f"Training {model.n_layer} layers x {model.n_embd} wide, {model.n_head} heads, "
        f"vocabulary {job.vocabulary.vocab_size:,}: "
        f"{saved_parameters(job):,} parameters on {job.train.num_predictions:,} tokens of "
        f"{len(job.train.num_bytes):,} tweets ({processes}{job.device}, {torch.get_num_threads()} threads, "
        f"about {step_bytes(job) / 1e6:,.0f} MB of memory for a step)"
    )


def examples_at_once(config: Config, processes: int = 1) -> int:
    """Examples that go through the model at once: a batch is divided among the processes, and then into parts."""
    return math.ceil(config.train.batch_size / (processes * config.train.accumulate))


def step_bytes(job: Job) -> int:
    """An estimate of the most memory, in bytes, that training takes in a process, without program and tweets."""
    parameters = job.model.num_parameters()
    return bytes_of_step(
        job.config, parameters, job.vocabulary.vocab_size, job.train.lengths, job.device, job.ranks.size
    )


def largest_batch(config: Config, lengths: Tensor, processes: int = 1) -> tuple[int, int]:
    """The most predictions, and the most positions with padding, that go through the model at once."""
    longest = lengths.topk(min(examples_at_once(config, processes), len(lengths))).values
    return int(longest.sum()), longest.numel() * int(longest[0])


def bytes_of_step(
    config: Config, parameters: int, vocab_size: int, lengths: Tensor, device: torch.device, processes: int = 1
) -> int:
    """`step_bytes` of a model with this many parameters and ids, on examples of these lengths (n,).

    It is the sum of three parts, with 4 bytes for each number. First the parameters, their gradients, AdamW's two
    moments, the copy for validation and, with several processes, the message that sums the gradients. Then the logits
    of the largest batch, their gradient, and what the loss saves; or with the fused loss (trainer/fused_loss.py) the
    logits and those of one block. Then about 32 vectors (measured) for each position and layer, saved for the gradient.
    """
    tokens, places = largest_batch(config, lengths, processes)
    logits = 4 * tokens * vocab_size
    if use_fused_loss(precision(config.machine, device), device, tokens * vocab_size):
        logits = (tokens + 3 * min(tokens, BLOCK)) * vocab_size
    copies = 5 if processes == 1 else 6
    return 4 * (copies * parameters + logits + 32 * places * config.model.n_embd * config.model.n_layer)
