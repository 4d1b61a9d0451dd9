"""Tokens as a reader sees them: what they say, how likely they were, and when their text may be shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint import Bundle
from model.tokenizer import END, Tokenizer


@dataclass(frozen=True)
class Token:
    """A token and how likely it was.

    Attributes:
        id: of GPT-2.
        text: its characters; "bytes:\\xf0\\x9f" where it holds only a part of one, as OpenAI writes it.
        logprob: natural log of the model's probability at temperature 1, over all GPT-2 tokens; NaN if not asked for.
        top: the likeliest (id, logprob), as many as were asked for.
        start: where its text begins in the continuation (or in the prompt, for the prompt's own); characters.
    """

    id: int
    text: str
    logprob: float
    top: list[tuple[int, float]]
    start: int


@dataclass(frozen=True)
class Piece:
    """What came next: text that is complete, and the tokens that ended in it."""

    text: str
    tokens: list[Token]


class StopWriter:
    """Makes pieces out of tokens: characters appear when they are complete and can't be the beginning of a stop string.

    The text ends before the stop string that is complete first, read character by character, so that it does not
    matter where one token ends and the next begins.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.decoder = tokenizer.stream()
        self.stop = [text for text in stop if text]
        self.held = ""  # text that is complete, but not said yet
        self.tokens: list[tuple[Token, int]] = []  # not said yet, with where each ends in the whole text
        self.said = 0  # characters
        self.stopped = False

    @property
    def position(self) -> int:
        """Characters that are complete, said or not."""
        return self.said + len(self.held)

    def push(self, token: Token) -> Piece | None:
        """What can be said after this token."""
        self.held += self.decoder.push(token.id).replace("\ufffd", "")
        self.tokens.append((token, self.position))
        found = [(self.held.index(stop) + len(stop), self.held.index(stop)) for stop in self.stop if stop in self.held]
        if found:
            self.stopped = True
            return self.say(min(found)[1])
        return self.say(len(self.held) - self.suspicious())

    def suspicious(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = min(len(self.held), max(map(len, self.stop), default=1) - 1)
        ends = range(longest, 0, -1)
        return next((n for n in ends if any(stop.startswith(self.held[-n:]) for stop in self.stop)), 0)

    def say(self, count: int) -> Piece | None:
        """The first `count` of the held characters, with the tokens that belong to them."""
        text, self.held = self.held[:count], self.held[count:]
        self.said += count
        if self.stopped:  # a token that begins in the text belongs to it
            tokens, self.tokens = [token for token, _ in self.tokens if token.start < self.said], []
        else:
            tokens = [token for token, end in self.tokens if end <= self.said] if text else []
            self.tokens = self.tokens[len(tokens) :]
        return Piece(text, tokens) if text or tokens else None

    def rest(self) -> Piece | None:
        """All that was held back, when nothing more will come."""
        text, self.held = self.held, ""
        tokens, self.tokens = [token for token, _ in self.tokens], []
        return Piece(text, tokens) if text or tokens else None


def token_text(tokenizer: Tokenizer, index: int) -> str:
    """See `Token.text`."""
    raw = tokenizer.token_bytes[index]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def make_token(tokenizer: Tokenizer, index: int, scores: Tensor | None, top: int, start: int) -> Token:
    """A Token; `scores` (50257,) are the log-probabilities of what might have stood there."""
    text = token_text(tokenizer, index)
    if scores is None:
        return Token(index, text, math.nan, [], start)
    best = scores.topk(top)
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Token(index, text, float(scores[index]), pairs, start)


@torch.inference_mode()
def score_prompt(bundle: Bundle, ids: list[int], top: int) -> list[Token]:
    """The tokens of a prompt, each with its log-probability after those before it (the first: after the end mark)."""
    if not ids:
        return []
    rows = bundle.vocabulary.from_gpt2([END, *ids[:-1]])[None].to(bundle.model.wte.weight.device)
    scores = bundle.vocabulary.log_probs(bundle.model(rows)[0].float().cpu())
    decoder, start, tokens = bundle.tokenizer.stream(), 0, []
    for place, index in enumerate(ids):
        tokens.append(make_token(bundle.tokenizer, index, scores[place], top, start))
        start += len(decoder.push(index))
    return tokens
