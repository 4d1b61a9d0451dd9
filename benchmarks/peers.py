"""The peers: usual recipes for the same tweets, in a few lines. They train on windows of one long text.

`nanogpt`: nanoGPT's recipe at a size for this text (its model is this project's, without the output bias): random
windows of the tweets joined by end marks, all 50,257 tokens, dropout 0.2, weight decay 0.1, learning rate 1e-3 to 1e-4.
`first`: this project's own first attempt: windows of 32 tokens that overlap by all but one stride, 70 passes, almost no
dropout. Its learning rate is constant, so stopping 5 epochs after its best one changes only the time.
Both are scored tweet by tweet, like everything else.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import Config
from model.checkpoint import Bundle
from model.tokenizer import END, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.score import Scores, score
from utils.preprocess import Corpus


@dataclass(frozen=True)
class Peer:
    """A recipe of the usual kind."""

    vocabulary: str
    n_layer: int
    n_embd: int
    block: int
    dropout: float
    learning_rate: float
    final_lr_fraction: float
    weight_decay: float
    batch: int
    epochs: int
    stride: int | None  # between overlapping windows; None: windows at random, as many tokens an epoch as there are
    patience: int | None  # epochs without a better validation loss before it stops; None: never


PEERS = {
    "nanogpt": Peer("full", 4, 128, 64, 0.2, 1e-3, 0.1, 0.1, 12, 15, None, 3),
    "first": Peer("corpus", 4, 128, 32, 0.1, 1e-3, 1.0, 0.01, 64, 70, 16, 5),
}


@dataclass(frozen=True)
class PeerResult:
    """The model of the best epoch, the scores of that epoch and of the last, and (seconds of training, bits per byte)
    after every epoch.
    """

    bundle: Bundle
    best: Scores
    last: Scores
    best_epoch: int
    epochs: int
    parameters: int
    curve: list[tuple[float, float]]


def windows(stream: Tensor, peer: Peer, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches (B, block + 1) of one epoch."""
    last = len(stream) - peer.block - 1
    if peer.stride is None:
        starts = torch.randint(last, (math.ceil(len(stream) / peer.block),), generator=generator)
    else:
        starts = torch.arange(0, last, peer.stride)
        starts = starts[torch.randperm(len(starts), generator=generator)]
    for part in starts.split(peer.batch):
        yield stream[part[:, None] + torch.arange(peer.block + 1)]


def run_peer(name: str, config: Config, corpus: Corpus, *, seed: int) -> PeerResult:
    """Train a peer on the training tweets and score it on the validation tweets after every epoch."""
    peer, tokenizer = PEERS[name], load_tokenizer()
    shape = replace(
        config.model,
        vocabulary=peer.vocabulary,  # type: ignore[arg-type]
        n_layer=peer.n_layer,
        n_embd=peer.n_embd,
        n_head=4,
        dropout=peer.dropout,
        output_bias=False,
        min_count=1,
        block_size=128,
    )
    ids = tokenizer.encode_batch([tweet.text for tweet in corpus.train])
    vocabulary = Vocabulary.build(shape, tokenizer, ids)
    stream = vocabulary.id_of[torch.tensor([index for tweet in ids for index in (END, *tweet)])]
    val = TweetDataset.encode(corpus.val, tokenizer, vocabulary, shape.block_size)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = GPT(shape, vocabulary.vocab_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peer.learning_rate, betas=(0.9, 0.99), weight_decay=peer.weight_decay, fused=True
    )
    per_epoch = sum(1 for _ in windows(stream, peer, generator))
    best, best_epoch, step = score(model.eval(), val), 0, 0
    last, seconds, curve, weights = best, 0.0, [(0.0, best.bits_per_byte)], copy.deepcopy(model.state_dict())
    for epoch in range(1, peer.epochs + 1):
        model.train()
        started = time.perf_counter()
        for batch in windows(stream, peer, generator):
            progress = step / (per_epoch * peer.epochs)
            share = peer.final_lr_fraction + (1 - peer.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in optimizer.param_groups:
                group["lr"] = peer.learning_rate * share * min(1.0, (step + 1) / 100)
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        seconds += time.perf_counter() - started
        last = score(model.eval(), val)
        curve.append((seconds, last.bits_per_byte))
        if last.bits_per_byte < best.bits_per_byte:
            best, best_epoch, weights = copy.copy(last), epoch, copy.deepcopy(model.state_dict())
        if peer.patience is not None and epoch - best_epoch >= peer.patience:
            break
    model.load_state_dict(weights)
    info = {"epoch": best_epoch, "split_hash": corpus.info["split"]["hash"]}
    bundle = Bundle(model.eval(), tokenizer, vocabulary, replace(config, model=shape), info)
    return PeerResult(bundle, best, last, best_epoch, epoch, model.num_parameters(), curve)
