"""OpenAI's JSON for the engine's texts: as one response, or chunk by chunk as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from generate.best_of import merit
from server.engine import TextRequest, stream_deltas
from server.schemas import MODEL_NAME, ApiError
from server.streaming import Token, token_text


@dataclass
class TextCompletion:
    """The response to one request of /v1/completions.

    Attributes:
        texts: `best_of` in a row have the same prompt.
        n: how many of these are sent, as choices.
        best_of: at least `n`; if it is more, the best are sent, chosen as in generate/best_of.py.
        logprobs: whether the choices hold log-probabilities.
        include_usage: whether a stream ends with the usage.
    """

    texts: list[TextRequest]
    n: int
    best_of: int
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: "cmpl-" + secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    kind = chunk_kind = "text_completion"

    def cancel(self) -> None:
        """Give up the places of all texts."""
        for text in self.texts:
            text.cancel()

    def body(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The fields that a response and each chunk have in common."""
        return {"id": self.id, "object": kind, "created": self.created, "model": MODEL_NAME, "choices": choices, **more}

    def usage(self) -> dict[str, int]:
        """Tokens read (each prompt once, with the end mark before it) and written."""
        read = sum(1 + len(text.draft.ids) for text in self.texts[:: self.best_of])
        written = sum(len(text.draft.new) for text in self.texts)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def whole(self) -> dict[str, Any]:
        """The whole response, once all texts have ended."""
        choices = [
            self.choice(index, text.text, text.tokens, text.finish_reason) for index, text in enumerate(self.chosen())
        ]
        return self.body(self.kind, choices, usage=self.usage())

    def chosen(self) -> list[TextRequest]:
        """The texts to send: of each prompt all, or the `n` best, the best one first. All must have ended."""
        if self.best_of == self.n:
            return self.texts
        kept: list[TextRequest] = []
        for first in range(0, len(self.texts), self.best_of):
            texts = self.texts[first : first + self.best_of]
            kept += sorted(texts, key=lambda text: merit(text.result()), reverse=True)[: self.n]
        return kept

    def choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        """A choice of the response. The log-probabilities have OpenAI's older form: top_logprobs always holds the
        sampled token too."""
        scores = None
        if self.logprobs:
            tokenizer = self.texts[0].engine.bundle.tokenizer
            scores = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [
                    None
                    if token.logprob is None
                    else {token_text(tokenizer, other): score for other, score in token.top}
                    | {token.text: token.logprob}
                    for token in tokens
                ],
                "text_offset": [token.start for token in tokens],
            }
        return {"index": index, "text": text, "logprobs": scores, "finish_reason": reason}

    def first_choice(self, index: int) -> dict[str, Any] | None:
        """The choice of a chunk before the text's first one, if there is such a chunk."""
        return None

    def chunk_choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        """A choice of a chunk."""
        return self.choice(index, text, tokens, reason)

    async def events(self, seconds: float) -> AsyncIterator[bytes]:
        """The stream as server-sent events, to the [DONE] at its end; an error takes its place after `seconds`."""
        more: dict[str, Any] = {"usage": None} if self.include_usage else {}
        begun: set[int] = set()
        try:
            async with asyncio.timeout(seconds):
                async for index, delta in stream_deltas(self.texts):
                    if index not in begun and (first := self.first_choice(index)):
                        yield event(self.body(self.chunk_kind, [first], **more))
                    begun.add(index)
                    text, tokens = (delta.text, delta.tokens) if delta else ("", [])
                    reason = None if delta else self.texts[index].finish_reason
                    choice = self.chunk_choice(index, text, tokens, reason)
                    yield event(self.body(self.chunk_kind, [choice], **more))
                if self.include_usage:
                    yield event(self.body(self.chunk_kind, [], usage=self.usage()))
                yield b"data: [DONE]\n\n"
        except TimeoutError:
            yield event(timeout_error(seconds).content.model_dump())


@dataclass
class ChatReply(TextCompletion):
    """The response to one request of /v1/chat/completions."""

    id: str = field(default_factory=lambda: "chatcmpl-" + secrets.token_hex(12))
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def first_choice(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        delta = {"content": text} if reason is None else {}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event that holds this as JSON."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """Sends a completion as it is written. Its texts are cancelled if the client leaves or the time is up."""

    media_type = "text/event-stream"

    def __init__(self, completion: TextCompletion, seconds: float) -> None:
        self.completion, self.seconds = completion, seconds
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(completion.events(seconds), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds + 1):  # also if the client does not read what is sent
                await super().__call__(scope, receive, send)
        finally:
            self.completion.cancel()


async def wait_until_done(completion: TextCompletion, receive: Receive, seconds: float) -> bool:
    """Wait for all texts of a completion; False if the client has left. What is unfinished is cancelled in any case.

    Raises:
        ApiError: the time is up.
    """
    left: asyncio.Future[None] = asyncio.ensure_future(wait_for_disconnect(receive))
    done: asyncio.Future[Any] = asyncio.gather(*(asyncio.wrap_future(text.finished) for text in completion.texts))
    try:
        await asyncio.wait({left, done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and not left.done():
            raise timeout_error(seconds)
        if done.done():
            done.result()
        return done.done()
    finally:
        completion.cancel()
        left.cancel()
        done.cancel()


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def timeout_error(seconds: float) -> ApiError:
    """The error of a response that takes too long."""
    return ApiError(503, f"the answer took longer than {seconds:g} seconds: ask for less, or later", code="timeout")
