"""`python main.py run`: from the raw tweets to a trained and judged model, samples and a plot, in one go."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from config.schema import Config
from evaluation.evaluate import evaluate, write_results
from generate.best_of import Sample
from generate.generate import format_sample, generate, load_copy_check
from model.checkpoint import load_bundle
from model.device import choose_device
from trainer.saving import State
from trainer.train import train
from utils import plot_loss
from utils.files import atomic_write
from utils.lock import only_run
from utils.preprocess import Tweet, preprocess

SHOWN_EVERY = 2  # every second sample is printed; samples.txt has them all


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py run`."""
    with only_run(config.paths.checkpoints):
        whole_job(config, arguments)


def whole_job(config: Config, arguments: Namespace) -> None:
    """Preprocess, train, plot, write samples, evaluate, and say in plain words how it went."""
    corpus = preprocess(config)
    state = train(config, corpus)
    plot_loss.run(config, arguments)
    samples = write_samples(config, ["", *openings(corpus.train, 4)], each=4)
    found = evaluate(config, corpus)
    write_results(config, found)
    print("\n".join(format_sample(sample) for sample in samples[::SHOWN_EVERY]))
    print("\n" + "\n".join([how_it_ended(config, state), *found.result["verdict"]]))
    print(
        "More like these: python main.py generate"
        + ("" if config.paths.root == "." else f" --paths.root {config.paths.root}")
    )


def openings(tweets: Sequence[Tweet], count: int) -> list[str]:
    """The commonest first two words of the tweets: prompts that suit whoever wrote them."""
    starts = Counter(" ".join(tweet.text.split()[:2]) for tweet in tweets if len(tweet.text.split()) > 3)
    return [text for text, _ in starts.most_common(count)]


def write_samples(config: Config, prompts: Sequence[str], *, each: int) -> list[Sample]:
    """Write `each` samples of every prompt to results/samples.txt with the settings they were drawn with."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    settings = replace(config.generate, num_samples=each)
    samples = generate(bundle, prompts, settings, load_copy_check(config.paths))
    lines = ["Settings: " + ", ".join(f"{key} {value}" for key, value in asdict(settings).items())]
    for sample in samples:
        lines += ["", f"Prompt: {sample.prompt!r}", format_sample(sample)]
    path = config.paths.results / "samples.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    return samples


def how_it_ended(config: Config, state: State) -> str:
    """When training stopped, why, and which epoch was kept."""
    why = "all epochs were done"
    if state.stopped_early:
        why = f"{config.train.patience} epochs brought no better validation loss, so it was over-fitting"
    kept = "the last one" if state.best_epoch == state.epoch else f"epoch {state.best_epoch}, the best"
    return f"Trained {state.epoch} epochs in {state.seconds:.0f} s, until {why}; kept is {kept} on unseen tweets."
