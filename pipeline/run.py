"""`python main.py run`: from the raw tweets to a trained and judged model, samples and a plot, in one go."""

import shlex
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from config.schema import Config
from evaluation.evaluate import evaluate, write_results
from generate.best_of import Sample
from generate.generate import format_sample, generate, load_copy_check, show
from model.checkpoint import load_bundle
from model.device import choose_device
from trainer.progress import busy
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
    """Preprocess, train, plot, show tweets, evaluate, and say in plain words how it went and what to do next."""
    print("Reading and cleaning the tweets", file=sys.stderr, flush=True)
    corpus = preprocess(config)
    state = train(config, corpus)
    plot_loss.run(config, arguments)
    prompts = openings(corpus.train, 4)
    with busy("Writing tweets"):
        samples = write_samples(config, ["", *prompts], each=4)
    print("\nTweets by your model:\n")
    show(samples[::SHOWN_EVERY])
    print(f"\n{how_it_ended(config, state)}\n", flush=True)
    found = evaluate(config, corpus)
    write_results(config, found)
    print("\nHow good is your model?\n" + "\n".join(f"- {line}" for line in found.result["summary"]))
    print("\n" + "\n".join(next_steps(config, prompts[0] if prompts else "The")))


def next_steps(config: Config, prompt: str) -> list[str]:
    """What to do with the model now: commands that work from here."""
    root = "" if config.paths.root == "." else f" --paths.root {shlex.quote(config.paths.root)}"
    steps = {
        f"serve{root}": "play with it in the browser",
        f"attention {shlex.quote(prompt)}{root}": "look inside while it reads a text",
        f"distill{root}": "make it better: it learns from several others (takes some ten times as long)",
    }
    width = max(map(len, steps))
    return [
        "What next?",
        *(f"  python main.py {command:<{width}}   {what}" for command, what in steps.items()),
        f"All details: {config.paths.results / 'report.html'}",
    ]


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
    """How long it was trained, and which epoch was kept."""
    kept = "The last one" if state.best_epoch == state.epoch else f"Epoch {state.best_epoch}"
    why = f", which did not get better for {config.train.patience} epochs" if state.stopped_early else ""
    return f"Trained {state.epoch} epochs in {state.seconds:.0f} s{why}. {kept} was best on unseen tweets and is kept."
