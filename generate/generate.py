"""From a prompt to new tweets: many at once, with a key-value cache, until each ends by itself."""

import json
import sys
import time
import zlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from config.cli import run_command
from config.schema import Config, GenerateConfig, PathsConfig, UserError
from generate.copies import CopyCheck
from generate.sampling import draw, filtered
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.tokenizer import END, Tokenizer
from model.transformer import Cache
from utils.preprocess import load_processed

WIDTH = 64  # texts written side by side: enough to fill the cores, small enough for any laptop


@dataclass(frozen=True)
class Sample:
    """One written text.

    Attributes:
        prompt: what was given.
        text: prompt and continuation.
        ids: GPT-2 token ids of the text, without end marks.
        finish_reason: "stop" if it ended by itself, "length" if it was cut.
        tokens: new tokens, the end mark counted.
        novel: not copied from the training tweets; None if there were none to compare with.
        seed: makes it again, with the same prompt, settings and device.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: str
    tokens: int
    novel: bool | None
    seed: int


@dataclass
class Draft:
    """A text being written."""

    prompt: str
    ids: list[int]
    new: list[int]
    seed: int
    uniform: Tensor  # (max_new_tokens,) its own random numbers
    done: str = ""


def start(bundle: Bundle, prompt: str, settings: GenerateConfig, seed: int) -> Draft:
    """A Draft of this prompt.

    Raises:
        UserError: the prompt leaves no room in the context.
    """
    ids = bundle.tokenizer.encode(prompt.rstrip())  # GPT-2's words begin with their space, so a last one misleads
    context = bundle.model.config.block_size
    if len(ids) + 1 >= context:
        raise UserError(f"the prompt has {len(ids)} tokens, the context only {context}: shorten it to {context - 2}")
    room = min(settings.max_new_tokens, context - len(ids))
    own = zlib.crc32(f"{seed} {prompt}".encode())  # of the prompt too, else all prompts would go on alike
    uniform = torch.rand(room, generator=torch.Generator().manual_seed(own))
    return Draft(prompt=prompt, ids=ids, new=[], seed=seed, uniform=uniform)


@torch.inference_mode()
def write(bundle: Bundle, drafts: list[Draft], settings: GenerateConfig) -> Iterator[list[tuple[Draft, int]]]:
    """Write these texts side by side; yields each step's (draft, GPT-2 id) pairs, the end mark included.

    Texts that have ended leave the cache when half of them have, or when one of them fills it.
    """
    device = bundle.model.wte.weight.device
    logits, cache = read_prompts(bundle, drafts)
    rows = list(range(len(drafts)))  # which drafts the cache's rows belong to
    seen = seen_rows(bundle, drafts) if settings.repetition_penalty != 1.0 else None
    while True:
        steps = [len(drafts[row].new) for row in rows]
        uniform = torch.stack(
            [drafts[r].uniform[min(s, len(drafts[r].uniform) - 1)] for r, s in zip(rows, steps, strict=True)]
        )
        allowed = bundle.vocabulary.forbid_shared(logits.float())
        chosen = draw(filtered(allowed, settings, seen), uniform.to(device), temperature=settings.temperature)
        ids = bundle.vocabulary.ids[chosen.cpu()].tolist()
        written = []
        for row, index in zip(rows, ids, strict=True):
            draft = drafts[row]
            if draft.done:
                continue
            written.append((draft, index))
            draft.new.append(index)
            if index == END:
                draft.done = "stop"
            elif len(draft.new) == len(draft.uniform):
                draft.done = "length"
        yield written
        alive = [place for place, row in enumerate(rows) if not drafts[row].done]
        if not alive:
            return
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        if 2 * len(alive) <= len(rows) or max(cache.lengths) == bundle.model.config.block_size:
            cache.keep(alive)
            rows, chosen = [rows[place] for place in alive], chosen[alive]
            seen = seen[alive] if seen is not None else None
        logits = bundle.model(chosen[:, None], cache)[:, -1]


def read_prompts(bundle: Bundle, drafts: list[Draft]) -> tuple[Tensor, Cache]:
    """Logits (B, V) after each prompt, and the cache that holds them; each different prompt is read once."""
    prompts = sorted({tuple(draft.ids) for draft in drafts})
    device = bundle.model.wte.weight.device
    longest = 1 + max(map(len, prompts))
    framed = [[END, *prompt] + [END] * (longest - 1 - len(prompt)) for prompt in prompts]
    cache = bundle.model.new_cache(len(prompts))
    logits = bundle.model(bundle.vocabulary.row_of[torch.tensor(framed)].to(device), cache)
    cache.lengths = [1 + len(prompt) for prompt in prompts]  # forget the padding
    place = [prompts.index(tuple(draft.ids)) for draft in drafts]
    last = torch.tensor([len(prompt) for prompt in prompts], device=device)
    logits = logits[torch.arange(len(prompts), device=device), last]
    cache.keep(place)
    return logits[place], cache


def seen_rows(bundle: Bundle, drafts: list[Draft]) -> Tensor:
    """Which rows of the vocabulary each draft already holds, (B, V)."""
    seen = torch.zeros(len(drafts), bundle.vocabulary.num_rows, dtype=torch.bool)
    for number, draft in enumerate(drafts):
        seen[number, bundle.vocabulary.to_rows(draft.ids)] = True
    return seen.to(bundle.model.wte.weight.device)


def finish(draft: Draft, tokenizer: Tokenizer, copies: CopyCheck | None) -> Sample:
    """The Sample of a Draft that is done."""
    ids = draft.ids + [index for index in draft.new if index != END]
    tail = tokenizer.decode(ids[len(draft.ids) :]).replace("\ufffd", "")  # half a character is no text
    text = draft.prompt.rstrip() + tail
    return Sample(
        prompt=draft.prompt,
        text=text,
        ids=ids,
        finish_reason=draft.done,
        tokens=len(draft.new),
        novel=None if copies is None else not copies.is_copy(text, ids),
        seed=draft.seed,
    )


def generate(
    bundle: Bundle, prompts: Sequence[str], settings: GenerateConfig, copies: CopyCheck | None = None
) -> list[Sample]:
    """`num_samples` texts for each prompt, prompt by prompt; the empty prompt is a tweet from nothing.

    The n-th text of a prompt depends on the prompt and on seed + n, and on nothing that is written beside it.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    numbers = range(settings.num_samples)
    drafts = [start(bundle, prompt, settings, settings.seed + number) for prompt in prompts for number in numbers]
    for first in range(0, len(drafts), WIDTH):
        for _ in write(bundle, drafts[first : first + WIDTH], settings):
            pass
    return [finish(draft, bundle.tokenizer, copies) for draft in drafts]


def stream(bundle: Bundle, prompt: str, settings: GenerateConfig, *, seed: int) -> Iterator[str]:
    """Pieces of one continuation as they are written; never half a character."""
    decoder = bundle.tokenizer.stream()
    for written in write(bundle, [start(bundle, prompt, settings, seed)], settings):
        if written[0][1] != END and (piece := decoder.push(written[0][1]).replace("\ufffd", "")):
            yield piece


def load_copy_check(paths: PathsConfig, tokenizer: Tokenizer) -> CopyCheck | None:
    """A CopyCheck of the training tweets of this root; None if they are not there."""
    try:
        texts = [tweet.text for tweet in load_processed(paths).train]
    except UserError:
        return None
    return CopyCheck(texts, tokenizer.encode_batch(texts))


def show(sample: Sample) -> str:
    """A sample as people see it: the text, and in brackets what is to be said of it."""
    notes = ["ended by itself" if sample.finish_reason == "stop" else "cut at the length limit"]
    if sample.novel is False:
        notes.append("copied from training")
    return f"{sample.text}\n    [{', '.join(notes)}; seed {sample.seed}]"


def ask(bundle: Bundle, settings: GenerateConfig, copies: CopyCheck | None) -> None:
    """Ask for prompts until there are no more; an empty one writes a tweet from nothing."""
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
        print("\n".join(show(sample) for sample in samples))


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py generate`."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    copies = load_copy_check(config.paths, bundle.tokenizer)
    if arguments.prompt is None and sys.stdin.isatty() and not arguments.json:
        ask(bundle, config.generate, copies)
        return
    started = time.perf_counter()
    samples = generate(bundle, [arguments.prompt or ""], config.generate, copies)
    seconds = time.perf_counter() - started
    if arguments.json:
        speed = sum(sample.tokens for sample in samples) / seconds
        answer = {"samples": [asdict(s) for s in samples], "seconds": seconds, "tokens_per_second": speed}
        print(json.dumps(answer, ensure_ascii=False))
    else:
        print("\n".join(show(sample) for sample in samples))


if __name__ == "__main__":
    sys.exit(run_command("generate", sys.argv[1:]))
