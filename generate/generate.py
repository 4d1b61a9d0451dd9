"""From a prompt to new tweets: many at once, with a key-value cache, until each ends by itself."""

import json
import sys
import time
import zlib
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from config.cli import run_command
from config.schema import Config, GenerateConfig, PathsConfig, UserError
from generate.copies import CopyCheck
from generate.sampling import draw, filtered
from model.cache import Cache
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.language_model import LanguageModel
from model.linear import lay_out_for_writing
from model.tokenizer import END, Tokenizer
from utils.preprocess import load_processed

MOST_BYTES = 20_000_000  # of training text to look for copies in: beyond, reading it takes longer than writing
WIDTH = 64  # texts written side by side: enough to fill the cores, small enough for any laptop
DRAWN_AT_ONCE = 8  # rows of logits: 64 together take twice the time of 8 times 8


@dataclass(frozen=True)
class Sample:
    """One written text.

    Attributes:
        prompt: what was given.
        text: prompt and continuation.
        ids: GPT-2 token ids of the text, without end marks.
        finish_reason: "stop" if it ended by itself or at a stop string, "length" if it was cut.
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
    """A text being written.

    Attributes:
        prompt: what was given; `ids` are its tokens.
        new: tokens written so far, the end mark counted.
        sampling: how its tokens are drawn; the same object for drafts that are drawn together.
        uniform: its own random numbers, one for each token it may get.
        done: why it ended: "stop", "length", or as whoever ended it says; "" while it is being written.
        cut: characters of the continuation to keep, where somebody cuts it short.
    """

    prompt: str
    ids: list[int]
    new: list[int]
    seed: int
    sampling: GenerateConfig
    uniform: list[float]
    done: str = ""
    cut: int | None = None


def start(bundle: Bundle[LanguageModel], prompt: str | Sequence[int], settings: GenerateConfig, seed: int) -> Draft:
    """A Draft of this prompt, given as text or as GPT-2 token ids.

    Raises:
        UserError: the prompt leaves no room in the context.
    """
    if isinstance(prompt, str):
        ids = bundle.tokenizer.encode(prompt.rstrip())  # GPT-2's words begin with their space, so a last one misleads
    else:
        ids, prompt = list(prompt), bundle.tokenizer.decode(prompt)
    context = bundle.model.config.block_size
    if len(ids) + 1 >= context:
        raise UserError(f"the prompt has {len(ids)} tokens, the context only {context}: shorten it to {context - 2}")
    room = min(settings.max_new_tokens, context - len(ids))
    own = zlib.crc32(f"{seed} {prompt}".encode())  # of the prompt too, else all prompts would go on alike
    uniform = torch.rand(room, generator=torch.Generator().manual_seed(own)).tolist()
    return Draft(prompt=prompt, ids=ids, new=[], seed=seed, sampling=sampling_of(settings), uniform=uniform)


@lru_cache
def sampling_of(settings: GenerateConfig) -> GenerateConfig:
    """What of these settings says how a token is drawn; the same object for equal ones."""
    return replace(settings, num_samples=1, max_new_tokens=1, seed=0)


class Batch:
    """Texts written side by side: they may join at any step, and leave when they are done.

    A round is `join` (where there are new ones), `draw`, `advance`.
    """

    def __init__(self, bundle: Bundle[LanguageModel]) -> None:
        self.bundle = bundle
        self.drafts: list[Draft] = []  # each has its row of the cache and of the logits
        self.cache = bundle.model.new_cache(0)
        self.logits = bundle.model.wte.weight.new_zeros(0, bundle.vocabulary.vocab_size)

    @torch.inference_mode()
    def join(self, drafts: list[Draft]) -> None:
        """Read the prompts of these drafts and write them with the others from now on."""
        logits, cache = read_prompts(self.bundle, drafts)
        if self.drafts:
            self.cache.join(cache)
            logits = torch.cat([self.logits, logits])
        else:
            self.cache = cache
        self.logits = logits
        self.drafts += drafts

    @torch.inference_mode()
    def draw(self) -> list[tuple[Draft, int]]:
        """Write one token of each text; (draft, GPT-2 id) pairs, the end mark included, in the order of `drafts`."""
        order, chosen = [], []
        for places in self.alike():
            drafts = [self.drafts[place] for place in places]
            sampling, seen = drafts[0].sampling, None
            if sampling.repetition_penalty != 1.0:
                seen = seen_rows(self.bundle, drafts)
            together = places[-1] - places[0] + 1 == len(places)  # a slice is not copied
            logits = self.logits[places[0] : places[-1] + 1] if together else self.logits[places]
            allowed = self.bundle.vocabulary.forbid_shared(logits.float())
            uniform = torch.tensor([draft.uniform[len(draft.new)] for draft in drafts], device=allowed.device)
            chosen.append(draw(filtered(allowed, sampling, seen), uniform, temperature=sampling.temperature))
            order += places
        ids = self.bundle.vocabulary.to_gpt2(torch.cat(chosen).tolist()) if chosen else []
        for place, index in zip(order, ids, strict=True):
            draft = self.drafts[place]
            draft.new.append(index)
            if index == END:
                draft.done = "stop"
            elif len(draft.new) == len(draft.uniform):
                draft.done = "length"
        return [(draft, draft.new[-1]) for draft in self.drafts]

    def alike(self) -> Iterator[list[int]]:
        """Places whose tokens are drawn in the same way; on a CPU few at once, because its cache holds no more."""
        at_once = DRAWN_AT_ONCE if self.logits.device.type == "cpu" else max(1, len(self.drafts))
        groups: dict[int, list[int]] = {}
        for place, draft in enumerate(self.drafts):
            groups.setdefault(id(draft.sampling), []).append(place)
        for places in groups.values():
            yield from (places[first : first + at_once] for first in range(0, len(places), at_once))

    @torch.inference_mode()
    def advance(self) -> None:
        """Let go of the texts that are done, and read the last token of the others."""
        for place in reversed(range(len(self.drafts))):
            if self.drafts[place].done:
                self.cache.drop(place)
                self.drafts[place] = self.drafts[-1]
                self.drafts.pop()
        if self.drafts:
            rows = self.bundle.vocabulary.from_gpt2(draft.new[-1] for draft in self.drafts)
            self.logits = self.bundle.model(rows[:, None].to(self.logits.device), self.cache)[:, -1]
        else:
            self.logits = self.logits[:0]


def write(bundle: Bundle[LanguageModel], drafts: Sequence[Draft]) -> Iterator[list[tuple[Draft, int]]]:
    """Write these texts, WIDTH at most side by side; yields each step's (draft, GPT-2 id) pairs, the end mark included.

    Texts end one by one; when half of the places are empty, the next ones join.
    """
    batch, waiting = Batch(bundle), deque(drafts)
    while waiting or batch.drafts:
        if waiting and len(batch.drafts) <= WIDTH // 2:
            batch.join([waiting.popleft() for _ in range(min(len(waiting), WIDTH - len(batch.drafts)))])
        yield batch.draw()
        batch.advance()


def read_prompts(bundle: Bundle[LanguageModel], drafts: list[Draft]) -> tuple[Tensor, Cache]:
    """Logits (B, V) after each prompt, and the cache that holds them; each different prompt is read once."""
    prompts = sorted({tuple(draft.ids) for draft in drafts})
    device = bundle.model.wte.weight.device
    longest = 1 + max(map(len, prompts))
    framed = [[END, *prompt] + [END] * (longest - 1 - len(prompt)) for prompt in prompts]
    cache = bundle.model.new_cache(len(prompts))
    stream = bundle.model.trunk(bundle.vocabulary.id_of[torch.tensor(framed)].to(device), cache)
    cache.lengths = [1 + len(prompt) for prompt in prompts]  # forget the padding
    place = [prompts.index(tuple(draft.ids)) for draft in drafts]
    last = torch.tensor([len(prompt) for prompt in prompts], device=device)
    logits = bundle.model.head(stream[torch.arange(len(prompts), device=device), last])
    cache.keep(place)
    return logits[place], cache


def seen_rows(bundle: Bundle[LanguageModel], drafts: list[Draft]) -> Tensor:
    """Which rows of the vocabulary each draft already holds, (B, V)."""
    seen = torch.zeros(len(drafts), bundle.vocabulary.vocab_size, dtype=torch.bool)
    for number, draft in enumerate(drafts):
        seen[number, bundle.vocabulary.from_gpt2(draft.ids + draft.new)] = True
    return seen.to(bundle.model.wte.weight.device)


def finish(draft: Draft, tokenizer: Tokenizer, copies: CopyCheck | None) -> Sample:
    """The Sample of a Draft that is done."""
    ids = draft.ids + [index for index in draft.new if index != END]
    tail = tokenizer.decode(ids[len(draft.ids) :]).replace("\ufffd", "")  # half a character is no text
    text = tokenizer.decode(draft.ids) + tail[: draft.cut]
    return Sample(
        prompt=draft.prompt,
        text=text,
        ids=ids,
        finish_reason=draft.done,
        tokens=len(draft.new),
        novel=None if copies is None else not copies.is_copy(text),
        seed=draft.seed,
    )


def generate(
    bundle: Bundle[LanguageModel], prompts: Sequence[str], settings: GenerateConfig, copies: CopyCheck | None = None
) -> list[Sample]:
    """`num_samples` texts for each prompt, prompt by prompt; the empty prompt is a tweet from nothing.

    The n-th text of a prompt depends on the prompt and on seed + n, and on nothing that is written beside it.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    numbers = range(settings.num_samples)
    drafts = [start(bundle, prompt, settings, settings.seed + number) for prompt in prompts for number in numbers]
    for _ in write(bundle, drafts):
        pass
    return [finish(draft, bundle.tokenizer, copies) for draft in drafts]


def stream(bundle: Bundle, prompt: str, settings: GenerateConfig, *, seed: int) -> Iterator[str]:
    """Pieces of one continuation as they are written; never half a character."""
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
    if paths.processed_txt.stat().st_size > MOST_BYTES:
        print(f"{paths.processed_txt} is too large to look for copies in", file=sys.stderr)
        return None
    return CopyCheck([tweet.text for tweet in tweets])


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
    lay_out_for_writing(bundle.model)
    copies = load_copy_check(config.paths)
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
