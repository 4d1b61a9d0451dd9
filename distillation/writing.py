"""New tweets by a pretrained teacher, with what it expected at every place of them.

Many tweets are written side by side. A place where a tweet ends is taken by the next one at once: its length in the
cache becomes 0, and it begins with the end mark. So nothing is copied, and the products of matrices stay large.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distillation.recorded import REST, Recorded
from model.causal_lm import CausalLM, HubCache
from model.tokenizer import END, Tokenizer

SIDE_BY_SIDE = 256  # tweets that are written at the same time


@dataclass
class Draft:
    """A tweet by the teacher.

    Attributes:
        ids: GPT-2 ids, the end mark last if it ended.
        expected: what the teacher expected at each of them.
    """

    ids: list[int] = field(default_factory=list)
    expected: list[Recorded] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it has its end mark."""
        return self.ids[-1:] == [END]

    def text(self, tokenizer: Tokenizer) -> str:
        """The text, without the end mark."""
        return tokenizer.decode(index for index in self.ids if index != END)


def respelt(draft: Draft, tokenizer: Tokenizer) -> Draft:
    """The draft in the tokens in which GPT-2's tokenizer splits its text; some words the teacher spells in others.

    What it expected is kept where one of its own tokens begins as well; elsewhere the token that is read is expected.
    """
    ids = tokenizer.encode(draft.text(tokenizer)) + ([END] if draft.ended else [])
    if ids == draft.ids:
        return draft
    expected, new = Recorded.join(draft.expected), Draft(ids)
    place_of = {byte: place for place, byte in enumerate(begins(draft.ids, tokenizer))}
    for index, byte in zip(ids, begins(ids, tokenizer), strict=True):
        place = place_of.get(byte)
        new.expected.append(Recorded.certain(index) if place is None else expected.at(place))
    return new


def begins(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The byte at which each token begins."""
    return list(itertools.accumulate((len(tokenizer.token_bytes[index]) for index in ids[:-1]), initial=0))


@torch.inference_mode()
def write_drafts(
    model: CausalLM,
    count: int,
    *,
    max_new_tokens: int,
    seed: int,
    forbidden: Tensor | None = None,
    step: Callable[[int], None] = lambda _: None,
) -> list[Draft]:
    """`count` tweets at temperature 1, without any cut. Those that did not end within `max_new_tokens` are cut off.

    Args:
        forbidden: (50257,) the tokens with which no tweet begins; None: a tweet may begin with any token.
        step: is called after each step with the number of tweets that are finished.
    """
    generator = torch.Generator().manual_seed(seed)
    width = min(SIDE_BY_SIDE, count)
    cache, drafts = model.new_cache(width), [Draft() for _ in range(count)]
    slots, begun = list(range(width)), width  # which draft each place holds
    while slots:
        logits = next_logits(model, cache, [drafts[number].ids for number in slots], forbidden)
        ids, expected = sample(logits, torch.rand(len(slots), 2, generator=generator))
        finished = []
        for place, number in enumerate(slots):
            draft = drafts[number]
            draft.ids.append(ids[place])
            draft.expected.append(expected.at(place))
            if not draft.ended and len(draft.ids) < max_new_tokens:
                continue
            if begun < count:
                slots[place], begun = begun, begun + 1
                cache.lengths[place] = 0
            else:
                finished.append(place)
        for place in reversed(finished):  # the last one takes its place, in the cache as well
            cache.drop(place)
            slots[place] = slots[-1]
            slots.pop()
        step(begun - len(slots))
    return drafts


def next_logits(model: CausalLM, cache: HubCache, texts: list[list[int]], forbidden: Tensor | None) -> Tensor:
    """Logits (B, 50257) of the token after each text, of which all but the last token is in the cache."""
    device = model.wte.weight.device
    last = torch.tensor([ids[-1] if ids else END for ids in texts], device=device)
    logits = model.head(model.trunk(last[:, None], cache)[:, -1])
    new = [place for place, ids in enumerate(texts) if not ids]
    if forbidden is not None and new:
        logits[new] = logits[new].masked_fill(forbidden.to(device), -torch.inf)
    return logits


def never_first(tokenizer: Tokenizer) -> Tensor:
    """The tokens (50257,) that begin with white space: no clean tweet does."""
    return torch.tensor([token[:1].isspace() for token in tokenizer.token_bytes])


def sample(logits: Tensor, uniform: Tensor) -> tuple[list[int], Recorded]:
    """A GPT-2 id for each row of logits (B, 50257), drawn with its two numbers of `uniform` (B, 2); and the record."""
    found, drawn = Recorded.of(logits, uniform[:, 0]), []
    edges = np.cumsum(found.probs.astype(np.float64), axis=1)
    for row, number in enumerate(uniform[:, 1].tolist()):
        place = int(np.searchsorted(edges[row], number, side="right"))
        if place < edges.shape[1]:
            drawn.append(int(found.ids[row, place]))
        else:  # one of the rest
            drawn.append(int(found.rest[row, int((number - edges[row, -1]) / (1.0 - edges[row, -1]) * REST)]))
    return drawn, found
