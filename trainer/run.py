"""`python main.py run`: from the raw tweets to a trained model, samples and a plot, in one go."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from config.schema import Config
from generate.generate import Sample, generate, load_copy_check, show
from model.checkpoint import load_bundle
from model.device import choose_device
from trainer.train import State, train
from utils import plot_loss
from utils.files import atomic_write
from utils.preprocess import Tweet, preprocess
from utils.run_log import read_log


def run(config: Config, arguments: Namespace) -> None:
    """Preprocess, train, write samples and the plot, and say in plain words how it went."""
    corpus = preprocess(config)
    state = train(config, corpus)
    plot_loss.run(config, arguments)
    samples = write_samples(config, ["", *openings(corpus.train, 4)], each=4)
    print("\n".join(show(sample) for sample in samples[::2]))
    print("\n" + summary(config, state))


def openings(tweets: Sequence[Tweet], count: int) -> list[str]:
    """The commonest first two words of the tweets: prompts that suit whoever wrote them."""
    starts = Counter(" ".join(tweet.text.split()[:2]) for tweet in tweets if len(tweet.text.split()) > 3)
    return [text for text, _ in starts.most_common(count)]


def write_samples(config: Config, prompts: Sequence[str], *, each: int) -> list[Sample]:
    """Write `each` samples of every prompt to results/samples.txt with the settings they were drawn with."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    settings = replace(config.generate, num_samples=each)
    samples = generate(bundle, prompts, settings, load_copy_check(config.paths, bundle.tokenizer))
    lines = ["Settings: " + ", ".join(f"{key} {value}" for key, value in asdict(settings).items())]
    for sample in samples:
        lines += ["", f"Prompt: {sample.prompt!r}", show(sample)]
    path = config.paths.results / "samples.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    return samples


def summary(config: Config, state: State) -> str:
    """How the training went, in plain words."""
    epochs = [record for record in read_log(config.paths.metrics) if "train/loss" in record]
    best = next(record for record in epochs if record["epoch"] == state.best_epoch)
    after = max((record["val/loss"] for record in epochs[state.best_epoch :]), default=best["val/loss"])
    why = (
        f"it stopped because {config.train.patience} epochs brought no better validation loss"
        if state.stopped_early
        else "it ran to the last epoch"
    )
    lines = [
        f"Trained {state.epoch} epochs in {state.seconds:.0f} s; {why}.",
        f"The kept model is that of epoch {state.best_epoch}: {best['val/bits_per_byte']:.3f} bits per byte on "
        f"tweets it never saw (nats per token: validation {best['val/loss']:.3f}, training {best['train/loss']:.3f}).",
    ]
    if after > best["val/loss"] * 1.01:
        lines.append(
            "After that it over-fitted: validation got worse while training went on; those weights were not kept."
        )
    else:
        lines.append("Validation did not get worse while it trained: no sign of over-fitting.")
    lines.append(f"Next: python main.py generate --paths.root {config.paths.root}")
    return "\n".join(lines)
