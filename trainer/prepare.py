"""All that a training run needs, made from the settings and the tweets."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from config.schema import Config
from model.checkpoint import Bundle, load_checkpoint
from model.device import choose_device
from model.ngram import NGram, leave_one_out
from model.pretrained import carry_over, load_pretrained
from model.tokenizer import Tokenizer, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import Rows, framed
from trainer.losses import Loss, cross_entropy, distillation
from utils.preprocess import Corpus, Tweet
from utils.run_log import RunLog, write_facts

NGRAM_ORDER = 3  # what held-out tweets choose at this size of corpus; longer contexts hardly ever recur
NGRAM_TOP_K = 256  # likeliest rows kept of what the n-gram expects: 0.02 nats are lost to the tail, with 32 it is 0.2


@dataclass
class Job:
    """All that a training run needs; `prepare` makes the usual one.

    Attributes:
        train, val: the encoded tweets.
        unseen_rows: which shared row a token seen once may play, by its own row.
        loss: what is minimised; see trainer/losses.py.
        folder: where best_model.pth and last_model.pth go.
        log: receives the measurements.
        split_hash: tells which tweets were validation, so that nobody evaluates on what was trained on.
        on_epoch: called after an epoch with the averaged model, the epoch's number and a way to say something.
    """

    config: Config
    model: GPT
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    unseen_rows: Tensor
    train: Rows
    val: Rows
    folder: Path
    log: RunLog
    split_hash: str
    device: torch.device
    loss: Loss = cross_entropy
    on_epoch: Callable[[Bundle, int, Callable[[str], None]], None] | None = None


def prepare(
    config: Config,
    corpus: Corpus,
    *,
    vocabulary: Vocabulary | None = None,
    folder: Path | None = None,
    log: RunLog | None = None,
) -> Job:
    """The usual Job: tokenizer, vocabulary, a fresh model, and the n-gram to beat and to learn from.

    Args:
        config, corpus: the settings and the tweets; whatever is fitted is fitted to these training tweets alone.
        vocabulary: one to share with other models; None: that of these training tweets.
        folder: where checkpoints go; None: that of the settings.
        log: where measurements go; None: metrics.jsonl of the settings, with a run.json beside it.
    """
    device = choose_device(config.machine)
    tokenizer = load_tokenizer(config.model.tokenizer)
    start = load_pretrained(config.model, tokenizer) if config.model.init_from else None
    if start:
        config = replace(config, model=start.config)
    if vocabulary is None:
        texts = [tweet.text for tweet in corpus.train]
        vocabulary = Vocabulary.build(config.model, tokenizer, tokenizer.encode_batch(texts))
    train, val = (
        Rows.encode(tweets, tokenizer, vocabulary, config.model.block_size) for tweets in (corpus.train, corpus.val)
    )
    unseen_rows = vocabulary.unseen_rows(tokenizer)
    torch.manual_seed(config.train.seed)
    model = GPT(config.model, vocabulary.num_rows)
    if start:
        carry_over(start, model, vocabulary)
    elif model.head_bias is not None:
        model.head_bias.data = log_frequency(train, vocabulary, unseen_rows)
    ngram = NGram.fit(framed_ids(corpus.train, tokenizer), NGRAM_ORDER)
    job = Job(
        config=config,
        model=model,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        unseen_rows=unseen_rows,
        train=train,
        val=val,
        folder=folder or config.paths.checkpoints,
        log=log or open_log(config),
        split_hash=corpus.info["split"]["hash"],
        device=device,
        loss=ngram_loss(config, corpus, ngram, tokenizer, vocabulary),
    )
    if not config.train.resume:
        nats = -sum(float(ngram.log_probs(ids).sum()) for ids in framed_ids(corpus.val, tokenizer))
        job.log.write(step=0, **{"baseline/ngram": nats / math.log(2) / int(val.num_bytes.sum())})
    if log is None:
        write_facts(config.paths.results / "run.json", facts(job, corpus))
    return job


def framed_ids(tweets: list[Tweet], tokenizer: Tokenizer) -> list[list[int]]:
    """GPT-2 ids of every tweet with its end marks."""
    bodies = tokenizer.encode_batch([tweet.text for tweet in tweets])
    return [framed(ids, finished=tweet.finished) for ids, tweet in zip(bodies, tweets, strict=True)]


def ngram_loss(config: Config, corpus: Corpus, ngram: NGram, tokenizer: Tokenizer, vocabulary: Vocabulary) -> Loss:
    """Cross-entropy, maybe mixed (train.ngram_weight) with what an n-gram expects that has not seen the tweet."""
    if config.train.ngram_weight == 0:
        return cross_entropy
    teacher = leave_one_out(ngram, framed_ids(corpus.train, tokenizer), vocabulary, NGRAM_TOP_K)
    return distillation(teacher, weight=config.train.ngram_weight, temperature=1.0)


def open_log(config: Config) -> RunLog:
    """metrics.jsonl: a new one, or the old one up to the step that the run goes on from."""
    if not config.train.resume:
        return RunLog(config.paths.metrics)
    done = load_checkpoint(config.paths.last_model).get("state", {}).get("step", 0)
    return RunLog(config.paths.metrics, keep=lambda record: record["step"] <= done)


def log_frequency(rows: Rows, vocabulary: Vocabulary, unseen_rows: Tensor) -> Tensor:
    """Log share of each vocabulary row among the training tokens, (V,): a good place for the output bias to start.

    A shared row counts as often as there are tokens of its shape seen once (Good 1953: so many unseen are to come).
    """
    targets = torch.ones(len(rows.tokens), dtype=torch.bool)
    targets[rows.starts] = False  # the end mark before a tweet is given, not predicted
    counts = torch.bincount(rows.tokens[targets], minlength=vocabulary.num_rows).float()
    once = unseen_rows[(counts == 1) & (unseen_rows >= 0)]
    counts += torch.bincount(once, minlength=vocabulary.num_rows)
    return (counts.clamp(min=0.5) / counts.sum()).log()


def facts(job: Job, corpus: Corpus) -> dict[str, object]:
    """What run.json tells of this run."""
    return {
        "settings": job.config.to_dict(),
        "split": corpus.info["split"],
        "parameters": job.model.num_parameters(),
        "vocab_size": job.vocabulary.num_rows,
        "device": str(job.device),
        "threads": torch.get_num_threads(),
    }


def describe(job: Job) -> str:
    """One line on what is about to be trained."""
    model = job.config.model
    return (
        f"Training {model.n_layer} layers x {model.n_embd} wide, {model.n_head} heads, "
        f"{job.vocabulary.num_rows:,} rows: "
        f"{job.model.num_parameters():,} parameters on {job.train.num_predictions:,} tokens of "
        f"{len(job.train.num_bytes):,} tweets ({job.device}, {torch.get_num_threads()} threads)"
    )
