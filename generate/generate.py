"""From a prompt to new tweets: many side by side, with a key-value cache, until each ends by itself."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from config.cli import run_command
from config.schema import Config, GenerateConfig, PathsConfig, UserError
from generate.best_of import Sample, best_first, finish, fit, next_candidates
from generate.copies import CopyCheck
from generate.drafts import start, write
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.language_model import LanguageModel
from model.tokenizer import END
from utils.preprocess import load_processed

MAX_COPY_CHECK_BYTES = 20_000_000  # of training text: more would take longer to read than the texts to write


def generate(
    bundle: Bundle[LanguageModel],
    prompts: Sequence[str],
    settings: GenerateConfig,
    copies: CopyCheck | None = None,
    *,
    raw: bool = False,
) -> list[Sample]:
    """`num_samples` texts for each prompt, prompt by prompt; the empty prompt is a tweet from nothing.

    Each is the best of `best_of` candidates, and fit to show (generate/best_of.py); only one without a letter may be
    left, where the model writes nothing else. The n-th text of a prompt depends on the prompt and on seed + n, not on
    the texts beside it.

    Args:
        copies: finds copies of training tweets; None: nothing is known of them.
        raw: take the first candidate as the model writes it, as if `best_of` were 1: for measuring.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    settings = replace(settings, best_of=1) if raw else settings
    wanted = [(prompt, settings.seed + number) for prompt in prompts for number in range(settings.num_samples)]
    candidates: list[list[Sample]] = [[] for _ in wanted]
    left = list(range(len(wanted)))
    while left:
        drafts = [
            (place, start(bundle, prompt, settings, seed, candidate=number))
            for place, (prompt, seed) in ((place, wanted[place]) for place in left)
            for number in next_candidates(settings, candidates[place])
        ]
        for _ in write(bundle, [draft for _, draft in drafts]):
            pass
        for place, draft in drafts:
            candidates[place].append(finish(draft, bundle.tokenizer, copies))
        left = [] if raw else [place for place in left if next_candidates(settings, candidates[place])]
    return [samples[0] if raw else fit(best_first(samples)[0]) for samples in candidates]


def stream(bundle: Bundle, prompt: str, settings: GenerateConfig, *, seed: int) -> Iterator[str]:
    """Pieces of one continuation as it is written: of `generate(..., raw=True)`; never half a character."""
    decoder = bundle.tokenizer.stream()
    for written in write(bundle, [start(bundle, prompt, settings, seed)]):
        if written[0][1] != END and (piece := decoder.push(written[0][1]).replace("\ufffd", "")):
            yield piece


def load_copy_check(paths: PathsConfig) -> CopyCheck | None:
    """A CopyCheck of the training tweets of this root; None if they are not there, or too many to compare with."""
    try:
        tweets = load_processed(paths).train
    except UserError:
        return None
    if paths.processed_txt.stat().st_size > MAX_COPY_CHECK_BYTES:
        print(f"{paths.processed_txt} is too large to look for copies in", file=sys.stderr)
        return None
    return CopyCheck([tweet.text for tweet in tweets])


def format_sample(sample: Sample) -> str:
    """A sample to print: the text, and notes on it in brackets."""
    notes = ["ended by itself" if sample.finish_reason == "stop" else "cut at the length limit"]
    if sample.novel is False:
        notes.append("copied from training")
    return f"{sample.text}\n    [{', '.join(notes)}; seed {sample.seed}]"


def prompt_loop(bundle: Bundle, settings: GenerateConfig, copies: CopyCheck | None) -> None:
    """Read prompts from the terminal until it ends; an empty one writes a tweet from nothing."""
    print("An empty prompt writes a tweet from nothing; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("Enter a prompt: ")
        except EOFError:
            print()
            return
        try:
            samples = generate(bundle, [prompt], settings, copies)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        print("Generated text:")
        print("\n".join(format_sample(sample) for sample in samples))


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py generate`."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    copies = load_copy_check(config.paths)
    if arguments.prompt is None and sys.stdin.isatty() and not arguments.json:
        prompt_loop(bundle, config.generate, copies)
        return
    started = time.perf_counter()
    samples = generate(bundle, [arguments.prompt or ""], config.generate, copies)
    seconds = time.perf_counter() - started
    if arguments.json:
        speed = sum(sample.tokens for sample in samples) / seconds
        answer = {"samples": [asdict(s) for s in samples], "seconds": seconds, "tokens_per_second": speed}
        print(json.dumps(answer, ensure_ascii=False))
    else:
        print("\n".join(format_sample(sample) for sample in samples))


if __name__ == "__main__":
    sys.exit(run_command("generate", sys.argv[1:]))
