"""How fast training is, beside peers, on the same tweets: `python -m benchmarks.train_speed --peers nanogpt=PATH`.

Sides of one shape (--shapes, layers x width):

    ours          trainer.train.Trainer's steps unchanged, with the default settings: a vocabulary of the tweets'
                  tokens, batches of 32 tweets, bfloat16 where the device is made for it. Then the same in float32; in
                  float32 without n-gram teacher and subword features (the loss and the embedding that the peers
                  have); and that with all 50,257 tokens, as the peers. With --compile also machine.compile
    nanoGPT       its model.py and the inner loop of its train.py: 12 random windows of 64 tokens from one stream,
                  a vocabulary of 50,304, dropout 0.2; with --compile also compiled
    transformers  its Trainer: GPT2LMHeadModel with 50,257 tokens, 32 tweets padded to the longest, in random order

GPT-2's own shape, on a GPU: --shapes 12x768 --block 1024 --batch 12 --compile, with long texts for --csv (a TXT). The
peers use float32 on a CPU, as their own loops do, and bf16 autocast on a GPU. Each side trains for --seconds at a
time; sides take turns; median of 5. Counted are tokens that are learnt from, not padding. An epoch has the same number
of these for every side, that of the training tweets; its seconds are computed from the tokens a second.

Operations are 6 a token for each parameter in a matrix product (12 n_layer n_embd^2, and n_embd for each id of the
vocabulary), and 12 n_layer n_embd T for attention over the T tokens of an example (nanoGPT: of a window), as in
Chowdhery et al. 2022, appendix B. The n-gram, the optimizer and padding are not counted. The limit is the speed that
benchmarks/limits.py finds for bf16 or fp32, whichever the side uses. Prints a Markdown table and one line of JSON.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import limits
from benchmarks.generate_speed import SAMPLE, shape_of
from benchmarks.rivals import NANOGPT_ROWS, nanogpt, peers_of
from benchmarks.timing import REPEATS, choose, clock, show, spread, table, take_turns, times
from config.cli import parse
from config.schema import Config
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from trainer.job import framed_ids, prepare
from trainer.progress import Progress
from trainer.train import Trainer
from utils.preprocess import Corpus, preprocess
from utils.run_log import RunLog

OURS = "ours"
FLOAT32 = ["--machine.precision", "f32"]
PAD = -100  # a label that does not count
PLAIN = [*FLOAT32, "--train.ngram_weight", "0", "--train.subword_features", "false"]
VARIANTS = {
    OURS: [],
    "ours, float32": FLOAT32,
    "ours, float32, no teacher, no subword features": PLAIN,
    "ours, float32, no teacher, no subword features, all 50,257 tokens": [*PLAIN, "--model.vocabulary", "full"],
}
COMPILED = {"ours, compiled": ["--machine.compile", "true"]}
BLOCK, WINDOWS = 64, 12  # nanoGPT's, unless --block and --batch say otherwise
TWEETS = 32  # in a batch, ours and transformers'


@dataclass(frozen=True)
class Side:
    """One side of the comparison: a way to train.

    Attributes:
        train: trains for about so many seconds; returns tokens learnt from, and the seconds it took.
        rows: the size of its vocabulary.
        reach: T of the formula above: tokens of an example, the mean over tokens.
        numbers: "bf16" or "fp32", in which it multiplies.
    """

    train: Callable[[float], tuple[int, float]]
    rows: int
    reach: float
    numbers: str


def flops_per_token(*, n_layer: int, n_embd: int, rows: int, reach: float) -> float:
    """Operations of a training step for a token; see the top of this file."""
    return 6 * (12 * n_layer * n_embd**2 + n_embd * rows) + 12 * n_layer * n_embd * reach


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 on a GPU; nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def timed(steps: Iterator[int], device: torch.device) -> Callable[[float], tuple[int, float]]:
    """A side that trains step by step; each step yields the number of its tokens."""

    def train(seconds: float) -> tuple[int, float]:
        started, tokens = clock(device), 0
        while time.perf_counter() < started + seconds:
            tokens += next(steps)
        return tokens, clock(device) - started

    return train


# ---- ours ------------------------------------------------------------------------------------------------------------


def settings(csv: Path, root: Path, *, shape: str, device: torch.device, flags: Sequence[str] = ()) -> Config:
    """The default settings except for the shape; endless, so that the learning rate does not change."""
    layers, width = shape_of(shape)
    heads = max(4, width // 64)
    given = ["--paths.root", str(root), "--data.path", str(csv), "--machine.device", device.type]
    given += ["--model.n_layer", str(layers), "--model.n_head", str(heads), "--model.n_embd", str(width)]
    return parse("run", [*given, "--train.epochs", "100000", *flags])[0]


def ours(config: Config, corpus: Corpus) -> Side:
    """Our trainer, without validation and saving, as for the peers."""
    job = prepare(config, corpus, log=RunLog(config.paths.metrics))
    trainer = Trainer(job)
    trainer.progress = Progress(trainer.total_steps, 0)
    trainer.model.train()

    def steps() -> Iterator[int]:
        while True:
            recipe = config.train
            number, rate = trainer.state.epoch, recipe.unk_replacement
            epoch = job.train.epoch(recipe.batch_size, seed=recipe.seed, number=number, unk_rate=rate)
            for examples in epoch.steps:
                before = trainer.state.tokens
                trainer.step(epoch, examples)
                yield trainer.state.tokens - before
            trainer.state.epoch += 1

    numbers = "bf16" if trainer.dtype == torch.bfloat16 else "fp32"
    return Side(timed(steps(), job.device), job.vocabulary.vocab_size, reach(job.train.lengths), numbers)


def theirs(device: torch.device) -> str:
    """Which numbers the peers multiply, "bf16" or "fp32"."""
    return "bf16" if device.type == "cuda" else "fp32"


def reach(lengths: Tensor) -> float:
    """Tokens of an example, the mean over tokens."""
    return float((lengths.double() ** 2).sum() / lengths.sum())


# ---- nanoGPT ---------------------------------------------------------------------------------------------------------


def nanogpt_side(
    checkout: Path, config: Config, tweets: Sequence[Sequence[int]], *, block: int, windows: int, compiled: bool = False
) -> Side:
    """The inner loop of nanoGPT's train.py, line by line, on the tweets joined by end marks."""
    device, shape = torch.device(config.machine.device), config.model
    stream = np.array([index for tweet in tweets for index in [END, *(i for i in tweet if i != END)]], dtype=np.uint16)
    path = config.paths.data / "train.bin"
    stream.tofile(path)
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    plain = nanogpt(checkout, **sizes, block_size=block, dropout=0.2).to(device).train()
    optimizer = plain.configure_optimizers(1e-1, 1e-3, (0.9, 0.99), device.type)
    model: Any = torch.compile(plain) if compiled else plain

    def get_batch() -> tuple[Tensor, Tensor]:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        ix = torch.randint(len(data) - block, (windows,))
        x = torch.stack([torch.from_numpy((data[i : i + block]).astype(np.int64)) for i in ix.tolist()])
        y = torch.stack([torch.from_numpy((data[i + 1 : i + 1 + block]).astype(np.int64)) for i in ix.tolist()])
        if device.type == "cuda":
            x, y = x.pin_memory(), y.pin_memory()
        return x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def steps() -> Iterator[int]:
        x, y = get_batch()
        while True:
            with autocast(device):
                _, loss = model(x, y)
            count = y.numel()
            x, y = get_batch()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield count

    endless = steps()
    if compiled:
        next(endless)  # compiles, so that the minutes this takes are in no turn
    return Side(timed(endless, device), NANOGPT_ROWS, block, theirs(device))


# ---- transformers ----------------------------------------------------------------------------------------------------


def collate(tweets: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """A batch of framed tweets, padded with end marks that are masked and not learnt; the real ones are learnt."""
    longest = max(map(len, tweets))
    padded = [[*tweet, *[END] * (longest - len(tweet))] for tweet in tweets]
    labels = [[*tweet, *[PAD] * (longest - len(tweet))] for tweet in tweets]
    mask = [[1] * len(tweet) + [0] * (longest - len(tweet)) for tweet in tweets]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def transformers_side(config: Config, tweets: Sequence[Sequence[int]]) -> Side:
    """transformers' Trainer; each turn is a call of its `train`, timed from its first step to the end of its last."""
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, TrainerCallback, TrainingArguments

    transformers.utils.logging.set_verbosity_error()
    device, shape, block = torch.device(config.machine.device), config.model, config.model.block_size
    wanted = GPT2Config(
        n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd, n_positions=block, bos_token_id=END
    )

    class Clock(TrainerCallback):
        """Ends the training when its time is up."""

        def __init__(self) -> None:
            self.seconds, self.started, self.passed, self.tokens = 0.0, 0.0, 0.0, 0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started = self.started or clock(device)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.passed = clock(device) - self.started
            control.should_training_stop = self.passed >= self.seconds

    class Counting(transformers.Trainer):
        """Counts the tokens that are learnt from."""

        def training_step(self, model: Any, inputs: Any, *rest: Any, **others: Any) -> Any:
            watch.tokens += int((inputs["labels"][:, 1:] != PAD).sum())
            return super().training_step(model, inputs, *rest, **others)

    watch = Clock()
    arguments = TrainingArguments(
        output_dir=str(config.paths.results / "transformers"),
        per_device_train_batch_size=config.train.batch_size,
        max_steps=1_000_000,
        learning_rate=1e-3,
        bf16=device.type == "cuda",
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
    )
    kept = [tweet[:block] for tweet in tweets]  # hardly any is as long
    trainer = Counting(
        model=GPT2LMHeadModel(wanted), args=arguments, train_dataset=kept, data_collator=collate, callbacks=[watch]
    )
    trainer.remove_callback(PrinterCallback)

    def train(seconds: float) -> tuple[int, float]:
        watch.seconds, watch.started, watch.tokens = seconds, 0.0, 0
        trainer.train()
        return watch.tokens, watch.passed

    lengths = torch.tensor([len(tweet) - 1 for tweet in kept])
    return Side(train, NUM_TOKENS, reach(lengths), theirs(device))


# ---- all of them -----------------------------------------------------------------------------------------------------


def sides_of(
    options: argparse.Namespace, root: Path, *, shape: str, device: torch.device
) -> tuple[dict[str, Side], int]:
    """All sides of a shape, by name, and the tokens of an epoch."""
    sizes = ["--train.batch_size", str(options.batch or TWEETS)]
    sizes += ["--model.block_size", str(options.block)] if options.block else []
    given = partial(settings, options.csv, root, shape=shape, device=device)
    config = given(flags=sizes)
    corpus, peers = preprocess(config), peers_of(options.peers)
    tweets = framed_ids(corpus.train, load_tokenizer())
    variants = VARIANTS | COMPILED if options.compile else VARIANTS
    sides = {name: ours(given(flags=[*sizes, *flags]), corpus) for name, flags in variants.items()}
    if checkout := peers.get("nanogpt"):
        block, windows = options.block or BLOCK, options.batch or WINDOWS
        theirs_too = partial(nanogpt_side, checkout, config, tweets, block=block, windows=windows)
        sides["nanoGPT"] = theirs_too()
        if options.compile:
            sides["nanoGPT, compiled"] = theirs_too(compiled=True)
    if "transformers" in peers:
        sides["transformers"] = transformers_side(config, tweets)
    return sides, sum(len(tweet) - 1 for tweet in tweets)


def measure(
    sides: dict[str, Side],
    *,
    shape: str,
    epoch: int,
    ceilings: dict[str, float],
    seconds: float,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Figures of each side: tokens a second, seconds an epoch, and the share it uses of its limit in `ceilings`."""

    def speed(name: str) -> float:
        tokens, passed = sides[name].train(seconds)
        return tokens / passed

    found = take_turns({name: partial(speed, name) for name in sides}, repeats=repeats)
    layers, width = shape_of(shape)
    figures = {}
    for name, speeds in found.items():
        side = sides[name]
        flops = flops_per_token(n_layer=layers, n_embd=width, rows=side.rows, reach=side.reach)
        figures[name] = {
            "rows": side.rows,
            "mflop_per_token": flops / 1e6,
            "tokens_per_second": speeds,
            "epoch_seconds": [epoch / value for value in speeds],
            "numbers": side.numbers,
            "share": [flops * value / 1e9 / ceilings[side.numbers] for value in speeds],
        }
    return figures


def rows_of(shape: str, figures: dict[str, Any]) -> list[list[str]]:
    """The table's rows: one for each side."""
    rows, own = [], figures[OURS]["tokens_per_second"]
    for name, figure in figures.items():
        speeds = figure["tokens_per_second"]
        shown = [f"{figure['rows']:,}", spread(figure["epoch_seconds"], ",.2f"), spread(speeds)]
        shown += [f"{figure['mflop_per_token']:,.1f}", spread([100 * share for share in figure["share"]]) + " %"]
        rows.append([f"{shape}: {name}", *shown, "" if name == OURS else f"{times(own, speeds):.2f}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=SAMPLE)
    parser.add_argument("--shapes", nargs="*", default=["4x128", "6x384"], help="layers x width")
    parser.add_argument("--peers", nargs="*", default=[], help="transformers (needs accelerate), nanogpt=PATH")
    parser.add_argument("--block", type=int, help="context of all sides, for long texts; default: as above")
    parser.add_argument("--batch", type=int, help="examples in a batch, of all sides; default: as above")
    parser.add_argument("--seconds", type=float, default=3.0, help="of training at a time")
    parser.add_argument("--compile", action="store_true", help="ours and nanoGPT compiled as well")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, peers = choose(options.device), peers_of(options.peers)
    if "transformers" in peers and importlib.util.find_spec("accelerate") is None:
        raise SystemExit("error: --peers transformers: its Trainer needs one package more: pip install accelerate")
    ceilings = limits.measure(device)
    rows, everything = [], {}
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as root:
            sides, epoch = sides_of(options, Path(root), shape=shape, device=device)
            figures = measure(sides, shape=shape, epoch=epoch, ceilings=ceilings, seconds=options.seconds)
        rows += rows_of(shape, figures)
        everything[shape] = {"tokens_of_an_epoch": epoch, "sides": figures}
    header = [
        "side",
        "vocab_size",
        "seconds an epoch",
        "tokens a second",
        "Mflop a token",
        "of the limit",
        "ours is faster",
    ]
    limit = ", ".join(f"{ceilings[name]:,.0f} GFLOP/s in {name}" for name in ("fp32", "bf16") if name in ceilings)
    show(f"{table(header, rows)}\n\nThe limit: {limit}.", {"limit_gflops": ceilings, "shapes": everything}, device)


if __name__ == "__main__":
    main()
