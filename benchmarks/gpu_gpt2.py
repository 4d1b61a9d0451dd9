"""Part of benchmarks/gpu.py: a training step at GPT-2's 124 M shape, 12 texts of 1,024 tokens, bfloat16, no dropout.

Ours (the Trainer as it is, with GPT-2's own recipe) and nanoGPT, compiled and not; then, in one plain loop, our model
with the head and its loss fused (trainer/fused_loss.py) and as linear + cross_entropy; then the head alone, also with
its rows filled up to a multiple of 64, as nanoGPT has them. The texts are random words, each as long as the context.

Each side is alone in the GPU's memory; after a warm-up come 5 turns, each timed between two moments at which the GPU
has done all that was asked of it; the median counts. Operations are those of benchmarks/train_speed.py, the limit is
found by benchmarks/limits.py just before.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import rivals, train_speed
from benchmarks.big_text import vocabulary
from benchmarks.generate_speed import shape_of
from benchmarks.gpu_commands import limits_of
from benchmarks.gpu_shared import megabytes, record, run_part, skip
from benchmarks.gpu_speed import COMPILE, alone, attempt, peak, speeds
from benchmarks.timing import clock, spread
from benchmarks.train_speed import Side, flops_per_token
from config.schema import Config
from model.device import compile_blocks
from model.transformer import GPT
from trainer.optim import Optimizer, make_optimizer
from utils.preprocess import Corpus, Tweet

# GPT-2's recipe, for a model with GPT-2's parameters and no others.
AS_GPT2 = "--model.vocabulary full --model.output_bias false --model.dropout 0 --train.output_dropout 0"
AS_GPT2 += " --train.subword_features false --train.calibrate false --train.unk_replacement 0 --train.ngram_weight 0"
ROWS, PADDED = 50_257, 50_304  # GPT-2's tokens, and so many up to a multiple of 64
TIMES_NANOGPT, SHARE_OF_LIMIT = 1.3, 0.45  # what is hoped for


@dataclass(frozen=True)
class Size:
    """How big a measurement is: GPT-2's, or tiny."""

    shape: str
    block: int
    batch: int
    texts: int
    seconds: float


GPT2, TINY = Size("12x768", 1024, 12, 3168, 0.6), Size("1x16", 16, 2, 24, 0.05)


def long_texts(size: Size) -> Corpus:
    """Texts of random words, each just as long as the context: no padding, and every batch of one shape."""
    words, generator = vocabulary(), torch.Generator().manual_seed(0)  # each is one token, with a space before it
    chance = 1.0 / (torch.arange(len(words)) + 3.0)
    drawn = torch.multinomial(chance, size.texts * (size.block - 2), replacement=True, generator=generator)
    tweets = [Tweet(" ".join(["The", *(words[i] for i in row)]), True) for row in drawn.view(size.texts, -1).tolist()]
    return Corpus(tweets, tweets[: size.batch], {"split": {"hash": "random words"}})


class Gpt2:
    """Measures one side after another, records each, and remembers tokens a second by name."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.device = torch.device(options.device)
        self.size = TINY if options.tiny else GPT2
        self.limits = limits_of(self.device, tiny=options.tiny)
        self.corpus = long_texts(self.size)
        self.found: dict[str, float] = {}
        self.shares: dict[str, float] = {}
        limit = self.limits.get("bf16", self.limits["fp32"])
        record("gpt2: the limit in bfloat16", f"{limit / 1e3:,.0f} TFLOP/s", limits=self.limits)

    def config(self, *flags: str) -> Config:
        """The settings of a side."""
        given = ["--model.block_size", str(self.size.block), "--train.batch_size", str(self.size.batch)]
        given += AS_GPT2.split()
        return train_speed.settings(
            Path("-"), self.folder, shape=self.size.shape, device=self.device, flags=[*given, *flags]
        )

    def measure(self, name: str, make: Callable[[], Side], batch: int = 0) -> None:
        """Make a side, time it, record it."""
        what = f"gpt2: {name}"
        alone(self.device)
        attempt(what, lambda: self.time(what, name, make(), batch or self.size.batch))

    def time(self, what: str, name: str, side: Side, batch: int) -> None:
        """Time a side and record it."""
        found = speeds(side, seconds=self.size.seconds)
        layers, width = shape_of(self.size.shape)
        flops = flops_per_token(n_layer=layers, n_embd=width, rows=side.rows, reach=side.reach)
        limit = self.limits.get("bf16", self.limits["fp32"])
        middle = statistics.median(found)
        self.found[name], self.shares[name] = middle, middle * flops / 1e9 / limit
        step = [1e3 * batch * side.reach / value for value in found]
        record(
            what,
            f"{spread(step, ',.1f')} ms a step, {middle:,.0f} tokens/s, {megabytes(peak(self.device))}, "
            f"{100 * self.shares[name]:.0f} % of the limit",
            tokens_per_second=found,
            step_ms=step,
            peak_bytes=peak(self.device),
            rows=side.rows,
            mfu=self.shares[name],
        )

    def run(self) -> None:
        """All sides, the most wanted first."""
        compiled, checkout = not self.options.tiny, self.options.nanogpt
        if not compiled:
            skip("gpt2: compiled sides", "compiling takes longer than a tiny run may")
        trainer = partial(train_speed.ours, corpus=self.corpus)
        if compiled:
            self.measure("ours, compiled", lambda: trainer(self.config(*COMPILE)))
        if checkout is None:
            skip("gpt2: nanoGPT", "no checkout given (--nanogpt PATH)")
        elif compiled:
            self.measure("nanoGPT, compiled", lambda: self.nanogpt(checkout, compiled=True))
        self.verdicts()
        self.measure("ours", lambda: trainer(self.config()))
        if checkout is not None:
            self.measure("nanoGPT", lambda: self.nanogpt(checkout, compiled=False))
        for with_compiler in (True, False) if compiled else (False,):
            for head in ("fused", "plain"):
                what = f"our model in a plain loop, {head} head" + (", compiled" if with_compiler else "")
                self.measure(what, partial(self.loop, head, compiled=with_compiler))
        alone(self.device)
        attempt("head alone", self.heads)
        if compiled:
            larger = 4 * self.size.batch
            what = f"ours, compiled, {larger} texts at once"
            self.measure(what, lambda: trainer(self.config(*COMPILE, "--train.batch_size", str(larger))), larger)

    def verdicts(self) -> None:
        """The two targets."""
        ours, theirs = (self.found.get(name) for name in ("ours, compiled", "nanoGPT, compiled"))
        if ours and theirs:
            ratio = ours / theirs
            told = f"{ratio:.2f} times as fast"
            record("gpt2: ours beside nanoGPT, both compiled", told, target="1.3", met=ratio >= TIMES_NANOGPT)
        if share := self.shares.get("ours, compiled"):
            record("gpt2: ours, of the limit", f"{share:.1%}", target="45%", met=share >= SHARE_OF_LIMIT)

    def batches(self, rows: int) -> list[Tensor]:
        """Random ids on the device, (B, T + 1) each; the loops below take turns with them."""
        torch.manual_seed(0)
        shape = (self.size.batch, self.size.block + 1)
        return [torch.randint(rows, shape, device=self.device) for _ in range(4)]

    def nanogpt(self, checkout: Path, *, compiled: bool) -> Side:
        """nanoGPT's model in the inner loop of its train.py."""
        layers, width = shape_of(self.size.shape)
        sizes = {"n_layer": layers, "n_head": max(4, width // 64), "n_embd": width, "block_size": self.size.block}
        model = rivals.nanogpt(checkout, **sizes, dropout=0.0).to(self.device).train()
        optimizer = model.configure_optimizers(1e-1, 6e-4, (0.9, 0.95), self.device.type)
        forward: Any = torch.compile(model) if compiled else model

        def loss_of(ids: Tensor) -> Tensor:
            found: Tensor = forward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())[1]
            return found

        return self.side(model, optimizer, loss_of, rivals.NANOGPT_ROWS)

    def loop(self, head: str, *, compiled: bool) -> Side:
        """Our model in the same loop, its head's loss as `head` says."""
        config = self.config()
        loss, rows = HEADS[head]
        model = GPT(config.model, rows).to(self.device).train()
        optimizer = make_optimizer(model, config.train)
        if compiled:
            compile_blocks(model)
            loss = loss if loss is fused_head else torch.compile(loss, dynamic=False)

        def loss_of(ids: Tensor) -> Tensor:
            hidden, weight = hidden_and_weight(model, ids[:, :-1].contiguous())
            return loss(hidden.flatten(0, 1), weight, ids[:, 1:].flatten())

        return self.side(model, optimizer, loss_of, rows)

    def side(self, model: nn.Module, optimizer: Optimizer, loss_of: Callable[[Tensor], Tensor], rows: int) -> Side:
        """The inner loop: loss in bfloat16, gradient, clipping, AdamW."""
        torch.set_float32_matmul_precision("high")  # as nanoGPT's train.py and our Trainer do
        device, parameters = self.device, list(model.parameters())

        def steps() -> Iterator[int]:
            for ids in cycle(self.batches(rows)):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = loss_of(ids)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield ids.shape[0] * (ids.shape[1] - 1)

        return Side(train_speed.timed(steps(), device), rows, self.size.block, "bf16")

    def heads(self) -> None:
        """The head and its loss alone, forward and backward: milliseconds and memory."""
        width = shape_of(self.size.shape)[1]
        tokens = self.size.batch * self.size.block
        for name, (loss, rows) in HEADS.items():
            for compiled in (False,) if self.options.tiny or loss is fused_head else (False, True):
                what = f"head alone, {name}" + (", compiled" if compiled else "")
                alone(self.device)
                work = partial(
                    self.head_alone, what, torch.compile(loss, dynamic=False) if compiled else loss, tokens, width, rows
                )
                attempt(what, work)

    def head_alone(self, what: str, loss: Callable[..., Tensor], tokens: int, width: int, rows: int) -> None:
        """Time one head."""
        torch.manual_seed(0)
        hidden = torch.randn(tokens, width, device=self.device, requires_grad=True)
        weight = torch.randn(rows, width, device=self.device).mul_(0.02).requires_grad_()
        targets, before = torch.randint(rows, (tokens,), device=self.device), peak(self.device)

        def once() -> None:
            hidden.grad = weight.grad = None
            with torch.autocast(self.device.type, torch.bfloat16):
                value = loss(hidden, weight, targets)
            value.backward()

        for _ in range(3):
            once()
        times = []
        for _ in range(3 if self.options.tiny else 20):
            started = clock(self.device)
            once()
            times.append(1e3 * (clock(self.device) - started))
        more = peak(self.device) - before
        record(what, f"{spread(times, ',.2f')} ms, {megabytes(more)} more", ms=times, bytes=more, tokens=tokens)


# ---- the model's insides: all that these measurements know of them ---------------------------------------------------


def hidden_and_weight(model: GPT, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The stream after the last layer, (B, T, C), and the head's weight, (V, C)."""
    return model.trunk(ids), model.wte.weight


def fused_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of hidden (N, C), weight (V, C) and targets (N,), by trainer/fused_loss.py."""
    from trainer.fused_loss import FusedLoss
    from trainer.losses import cross_entropy

    with torch.autocast(hidden.device.type, enabled=False):
        none = torch.zeros_like(targets)
        loss: Tensor = FusedLoss.apply(hidden, weight, None, cross_entropy, targets, none, torch.bfloat16)[0]
    return loss


def plain_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same as torch does it."""
    return F.cross_entropy(F.linear(hidden, weight), targets)


HEADS = {  # loss and rows
    "fused": (fused_head, ROWS),
    "plain": (plain_head, ROWS),
    f"fused, {PADDED:,} rows": (fused_head, PADDED),
    f"plain, {PADDED:,} rows": (plain_head, PADDED),
}


def gpt2(options: argparse.Namespace, folder: Path) -> None:
    """Measure all sides."""
    Gpt2(options, folder).run()


if __name__ == "__main__":
    sys.exit(run_part(__doc__ or "", {"gpt2": gpt2}))
