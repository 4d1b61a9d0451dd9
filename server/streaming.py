"""Tokens with their text and log-probabilities, and the buffer that decides when text may be sent."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint import Bundle
from model.language_model import LanguageModel
from model.tokenizer import END, END_TEXT, Tokenizer


@dataclass(frozen=True)
class Token:
    """A token and its probability.

    Attributes:
        id: GPT-2 id.
        text: its characters; "bytes:\\xf0\\x9f" if it holds only part of a character, as OpenAI writes it, and
            "<|endoftext|>" for the end mark.
        logprob: natural log of the model's probability at temperature 1, over all GPT-2 tokens; None if not asked for,
            and for an end mark that the prompt begins with.
        top: the likeliest (id, logprob), as many as were asked for.
        start: position of its first character in the text that the client gets.
    """

    id: int
    text: str
    logprob: float | None
    top: list[tuple[int, float]]
    start: int


@dataclass(frozen=True)
class TextDelta:
    """The next part of a text: complete characters, and the tokens that end in them."""

    text: str
    tokens: list[Token]


class StopBuffer:
    """Turns tokens into TextDeltas: holds back half characters, and whatever may be the beginning of a stop string.

    The text ends before the stop string that is complete first. Stop strings are searched in the characters, so they
    are found wherever one token ends and the next begins.

    Args:
        tokenizer: decodes the tokens.
        stop: the stop strings; empty ones are ignored.
        start: characters that the client gets before the first token (an echoed prompt).
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], *, start: int = 0) -> None:
        self.tokenizer, self.decoder = tokenizer, tokenizer.stream()
        self.stop = [text for text in stop if text]
        self.pending = ""  # complete characters that are not sent yet
        self.tokens: list[tuple[Token, int]] = []  # not sent yet; each with the position of its end
        self.sent = start  # characters
        self.stopped = False

    def end_mark(self, scores: Tensor | None, *, top: int = 0) -> TextDelta | None:
        """Everything that was held back, and the end mark as the last token; `scores` and `top` as in `make_token`."""
        end = self.sent + len(self.pending)
        self.tokens.append((make_token(self.tokenizer, END, scores, top=top, start=end), end))
        return self.flush()

    def push(self, index: int, scores: Tensor | None = None, *, top: int = 0) -> TextDelta | None:
        """What may be sent after this GPT-2 id; for `scores` and `top` see `make_token`."""
        token = make_token(self.tokenizer, index, scores, top=top, start=self.sent + len(self.pending))
        self.pending += self.decoder.push(index).replace("\ufffd", "")
        self.tokens.append((token, self.sent + len(self.pending)))
        begins = {stop: self.pending.find(stop) for stop in self.stop}
        found = [(begin + len(stop), begin) for stop, begin in begins.items() if begin >= 0]
        if found:
            self.stopped = True
            return self.release(min(found)[1])
        return self.release(len(self.pending) - self.held_back())

    def held_back(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = min(len(self.pending), max(map(len, self.stop), default=1) - 1)
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if any(stop.startswith(self.pending[-n:]) for stop in self.stop)), 0)

    def release(self, count: int) -> TextDelta | None:
        """The first `count` pending characters, with the tokens that belong to them."""
        text, self.pending = self.pending[:count], self.pending[count:]
        self.sent += count
        if self.stopped:  # a token that begins before the stop string belongs to the text
            tokens, self.tokens = [token for token, _ in self.tokens if token.start < self.sent], []
        else:
            tokens = [token for token, end in self.tokens if end <= self.sent] if text else []
            self.tokens = self.tokens[len(tokens) :]
        return TextDelta(text, tokens) if text or tokens else None

    def flush(self) -> TextDelta | None:
        """Everything that was held back, when no more tokens will come."""
        text, self.pending = self.pending, ""
        tokens, self.tokens = [token for token, _ in self.tokens], []
        return TextDelta(text, tokens) if text or tokens else None


def token_text(tokenizer: Tokenizer, index: int) -> str:
    """The text of a GPT-2 id, as in `Token.text`."""
    if index == END:
        return END_TEXT
    raw = tokenizer.token_bytes[index]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def make_token(tokenizer: Tokenizer, index: int, scores: Tensor | None, *, top: int, start: int) -> Token:
    """A Token. `scores` (50257,) are the log-probabilities at its place; None if they were not asked for."""
    text = token_text(tokenizer, index)
    if scores is None:
        return Token(index, text, None, [], start)
    best = scores.topk(top)
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Token(index, text, float(scores[index]), pairs, start)


@torch.inference_mode()
def score_prompt(bundle: Bundle[LanguageModel], prompt: list[int], *, top: int) -> list[Token]:
    """The tokens of a prompt (GPT-2 ids) with their log-probabilities; the first one follows an end mark."""
    if not prompt:
        return []
    ids = bundle.vocabulary.from_gpt2([END, *prompt[:-1]])[None].to(bundle.model.wte.weight.device)
    scores = bundle.vocabulary.log_probs(bundle.model.head(bundle.model.trunk(ids))[0].float().cpu())
    decoder, start, tokens = bundle.tokenizer.stream(), 0, []
    for place, index in enumerate(prompt):
        tokens.append(make_token(bundle.tokenizer, index, scores[place], top=top, start=start))
        start += len(decoder.push(index))
    return tokens
