"""Texts side by side, token by token, with a key-value cache: each is a Draft until it ends."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from config.schema import GenerateConfig, UserError
from generate.sampling import draw, filtered
from model.cache import Cache
from model.checkpoint import Bundle
from model.fast import for_writing
from model.language_model import LanguageModel
from model.tokenizer import END

SIDE_BY_SIDE = 64  # texts written side by side: enough to fill the cores, small enough for any laptop
SAMPLED_AT_ONCE = 8  # texts whose tokens are sampled together: 64 at once take twice the time of 8 times 8


class PromptTooLong(UserError):
    """A prompt leaves no room in the context."""


@dataclass
class Draft:
    """A text being written.

    Attributes:
        prompt: the given text; `ids` are its GPT-2 ids.
        new: GPT-2 ids written so far, with the end mark.
        sampling: the sampling settings; the same object for drafts that are sampled together.
        uniform: its own random numbers in [0, 1), one for each token it may get.
        done: why it ended: "stop", "length", or the reason of the caller who ended it; "" while it is being written.
        cut: how many characters of the continuation to keep, if a caller cut it short.
        logprob: sum of the log-probabilities (natural log) of `new`, under the model at temperature 1; counted only if
            `best_of` is above 1.
    """

    prompt: str
    ids: list[int]
    new: list[int]
    seed: int
    sampling: GenerateConfig
    uniform: list[float]
    done: str = ""
    cut: int | None = None
    logprob: float = 0.0


def start(
    bundle: Bundle[LanguageModel],
    prompt: str | Sequence[int],
    settings: GenerateConfig,
    seed: int,
    *,
    candidate: int = 0,
) -> Draft:
    """A Draft of this prompt, given as text or as GPT-2 token ids.

    Args:
        candidate: number of this text among those of the same seed, of which the best is kept (generate/best_of.py).

    Raises:
        PromptTooLong: the prompt leaves no room in the context.
        UserError: the prompt is no valid text.
    """
    if isinstance(prompt, str):
        ids = bundle.tokenizer.encode(
            prompt.rstrip()
        )  # GPT-2's words begin with their space, so one at the end misleads
    else:
        ids, prompt = list(prompt), bundle.tokenizer.decode(prompt)
    context = bundle.model.config.block_size
    if len(ids) + 1 >= context:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens, the context only {context}: shorten it to {context - 2}"
        )
    room = min(settings.max_new_tokens, context - len(ids))
    name = f"{seed}.{candidate}" if candidate else f"{seed}"
    own = zlib.crc32(f"{name} {prompt}".encode())  # with the prompt, so that prompts differ
    uniform = torch.rand(room, generator=torch.Generator().manual_seed(own)).tolist()
    return Draft(prompt=prompt, ids=ids, new=[], seed=seed, sampling=sampling_of(settings), uniform=uniform)


@lru_cache
def sampling_of(settings: GenerateConfig) -> GenerateConfig:
    """The settings that affect the sampling of a token; the same object for equal ones."""
    return replace(settings, num_samples=1, max_new_tokens=1, seed=0)


class DraftBatch:
    """Texts written side by side. They may join at any step, and leave when they are done.

    A step is `join` (if there are new texts), `draw`, `advance`.
    """

    def __init__(self, bundle: Bundle[LanguageModel]) -> None:
        self.bundle, self.model = bundle, for_writing(bundle.model)
        self.drafts: list[Draft] = []  # in the order of the cache and of the logits
        self.cache = self.model.new_cache(0)
        self.logits = bundle.model.wte.weight.new_zeros(0, bundle.vocabulary.vocab_size)

    @torch.inference_mode()
    def join(self, drafts: list[Draft]) -> None:
        """Read the prompts of these drafts and write them with the others from now on."""
        logits, cache = read_prompts(self.model, self.bundle, drafts)
        if self.drafts:
            self.cache.join(cache)
            logits = torch.cat([self.logits, logits])
        else:
            self.cache = cache
        self.logits = logits
        self.drafts += drafts

    @torch.inference_mode()
    def draw(self) -> list[tuple[Draft, int]]:
        """Sample one token of each text; returns (draft, GPT-2 id), the end mark included, in the order of `drafts`."""
        order, chosen = [], []
        for places in self.same_sampling():
            drafts = [self.drafts[place] for place in places]
            sampling, seen = drafts[0].sampling, None
            if sampling.repetition_penalty != 1.0:
                seen = seen_ids(self.bundle, drafts)
            together = places[-1] - places[0] + 1 == len(places)  # a slice is not copied
            logits = self.logits[places[0] : places[-1] + 1] if together else self.logits[places]
            allowed = self.bundle.vocabulary.forbid_shared(logits.float())
            uniform = torch.tensor([draft.uniform[len(draft.new)] for draft in drafts], device=allowed.device)
            chosen.append(draw(filtered(allowed, sampling, seen), uniform, temperature=sampling.temperature))
            if sampling.best_of > 1:
                add_logprobs(drafts, logits, chosen[-1])
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

    def same_sampling(self) -> Iterator[list[int]]:
        """Places of drafts with the same sampling settings; on a CPU only a few, so that they fit its cache."""
        at_once = SAMPLED_AT_ONCE if self.logits.device.type == "cpu" else max(1, len(self.drafts))
        groups: dict[int, list[int]] = {}
        for place, draft in enumerate(self.drafts):
            groups.setdefault(id(draft.sampling), []).append(place)
        for places in groups.values():
            yield from (places[first : first + at_once] for first in range(0, len(places), at_once))

    @torch.inference_mode()
    def advance(self) -> None:
        """Remove the texts that are done, and read the last token of the others."""
        for place in reversed(range(len(self.drafts))):
            if self.drafts[place].done:
                self.cache.drop(place)
                self.drafts[place] = self.drafts[-1]
                self.drafts.pop()
        if self.drafts:
            ids = self.bundle.vocabulary.from_gpt2(draft.new[-1] for draft in self.drafts)
            hidden = self.model.trunk(ids[:, None].to(self.logits.device), self.cache)
            self.logits = self.model.head(hidden[:, -1])
        else:
            self.logits = self.logits[:0]


def add_logprobs(drafts: Sequence[Draft], logits: Tensor, chosen: Tensor) -> None:
    """Add to each draft the log-probability of its chosen id (B,), under logits (B, V) as the model gave them.

    It is that of the GPT-2 token too: an id that several tokens share is never chosen.
    """
    logits = logits.float()
    logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
    for draft, logprob in zip(drafts, logprobs.tolist(), strict=True):
        draft.logprob += logprob


def write(bundle: Bundle[LanguageModel], drafts: Sequence[Draft]) -> Iterator[list[tuple[Draft, int]]]:
    """Write these texts, SIDE_BY_SIDE at once; yields (draft, GPT-2 id) pairs of each step, the end mark included.

    When half of the places are empty, the next texts join.
    """
    batch, waiting = DraftBatch(bundle), deque(drafts)
    while waiting or batch.drafts:
        if waiting and len(batch.drafts) <= SIDE_BY_SIDE // 2:
            batch.join([waiting.popleft() for _ in range(min(len(waiting), SIDE_BY_SIDE - len(batch.drafts)))])
        yield batch.draw()
        batch.advance()


def read_prompts(model: LanguageModel, bundle: Bundle[LanguageModel], drafts: list[Draft]) -> tuple[Tensor, Cache]:
    """Logits (B, V) after each prompt, and the cache of the prompts; equal prompts are read once."""
    prompts = sorted({tuple(draft.ids) for draft in drafts})
    device = bundle.model.wte.weight.device
    longest = 1 + max(map(len, prompts))
    framed = [[END, *prompt] + [END] * (longest - 1 - len(prompt)) for prompt in prompts]
    cache = model.new_cache(len(prompts))
    hidden = model.trunk(bundle.vocabulary.id_of[torch.tensor(framed)].to(device), cache)
    cache.lengths = [1 + len(prompt) for prompt in prompts]  # forget the padding
    place = [prompts.index(tuple(draft.ids)) for draft in drafts]
    last = torch.tensor([len(prompt) for prompt in prompts], device=device)
    logits = model.head(hidden[torch.arange(len(prompts), device=device), last])
    cache.keep(place)
    return logits[place], cache


def seen_ids(bundle: Bundle[LanguageModel], drafts: list[Draft]) -> Tensor:
    """Which ids of the vocabulary each draft holds already, booleans (B, V)."""
    seen = torch.zeros(len(drafts), bundle.vocabulary.vocab_size, dtype=torch.bool)
    for number, draft in enumerate(drafts):
        seen[number, bundle.vocabulary.from_gpt2(draft.ids + draft.new)] = True
    return seen.to(bundle.model.wte.weight.device)
