"""Fine-tuning of a Hugging Face model on tweets, all weights, for a short time."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from evaluation.huggingface import HuggingFace
from trainer.batches import of_similar_length
from utils.preprocess import Tweet

POOL = 8  # batches whose tweets are sorted by length together: less padding


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune.

    Attributes:
        epochs: times each tweet is seen. After one or two a pretrained model learns small texts by heart.
        learning_rate: its peak; it falls to 0 as a cosine.
        batch_size: small, so that some 200 tweets make 50 steps: with 8 steps the judge learns no voice.
        dtype: of the matrix products.
    """

    epochs: int = 2
    learning_rate: float = 1.5e-4
    batch_size: int = 8
    warmup: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    seed: int = 0
    dtype: torch.dtype = torch.float32


def fine_tune(pretrained: HuggingFace, tweets: Sequence[Tweet], recipe: FineTuning) -> HuggingFace:
    """A copy of a model, fine-tuned on these tweets; each is read as `HuggingFace` scores it."""
    tuned = copy.copy(pretrained)
    tuned.model = copy.deepcopy(pretrained.model).train()
    framed = [ids[: tuned.context + 1] for ids in tuned.encode(tweets)]
    with torch.random.fork_rng(devices=[tuned.device] if tuned.device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)  # of dropout and the order
        train_loop(tuned, framed, recipe)
    tuned.model.eval()
    return tuned


def train_loop(tuned: HuggingFace, framed: Sequence[list[int]], recipe: FineTuning) -> None:
    """Train the model on framed tweets: cross-entropy, AdamW."""
    steps = recipe.epochs * math.ceil(len(framed) / recipe.batch_size)
    parameters = list(tuned.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, recipe.warmup))
    lengths = torch.tensor([len(ids) for ids in framed])
    for _ in range(recipe.epochs):
        for chosen in of_similar_length(lengths, recipe.batch_size, torch.default_generator, pool=POOL):
            batch = [framed[index] for index in chosen.tolist()]
            with torch.autocast(tuned.device.type, recipe.dtype, enabled=recipe.dtype != torch.float32):
                logits = torch.cat(tuned.logits(batch))
            targets = torch.tensor([index for ids in batch for index in ids[1:]], device=tuned.device)
            F.cross_entropy(logits.float(), targets).backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def rate_at(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step, as a share of its peak: it climbs in the first `warmup` of the steps, then falls."""
    climb = max(1.0, warmup * steps)
    if step < climb:
        return (step + 1) / (climb + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb)))
