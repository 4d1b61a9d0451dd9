"""Texts of the engine as OpenAI's JSON: whole, or chunk by chunk as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.engine import Request, as_written
from server.errors import ApiError
from server.schemas import MODEL_NAME
from server.streaming import Token, token_text


@dataclass
class Job:
    """The texts that one HTTP request asked for.

    Attributes:
        texts: one for each choice.
        prompt_tokens: those of a prompt with several choices count once.
        echo: say the prompt too.
        logprobs: how many likeliest tokens to tell; None: no log-probabilities.
        usage: tell the usage at the end of a stream.
    """

    texts: list[Request]
    prompt_tokens: int
    echo: bool = False
    logprobs: int | None = None
    usage: bool = False
    id: str = field(default_factory=lambda: "cmpl-" + secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    kind = chunk_kind = "text_completion"

    def cancel(self) -> None:
        """Give all places up."""
        for text in self.texts:
            text.cancel()

    def answer(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What every answer and every chunk of one is made of."""
        return {"id": self.id, "object": kind, "created": self.created, "model": MODEL_NAME, "choices": choices}

    def counts(self) -> dict[str, int]:
        """The usage."""
        written = sum(len(text.draft.new) for text in self.texts)
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}

    def whole(self) -> dict[str, Any]:
        """The answer, once all texts have ended."""
        choices = []
        for index, text in enumerate(self.texts):
            choices.append(self.choice(index, self.prompt(text) + text.text, self.all_tokens(text), text.finish_reason))
        return {**self.answer(self.kind, choices), "usage": self.counts()}

    def choice(self, index: int, text: str, tokens: Sequence[tuple[Token, int]], reason: str | None) -> dict[str, Any]:
        """A choice of an answer, or of a chunk; each token with its offset."""
        scores = self.scores(tokens) if self.logprobs is not None else None
        return {"index": index, "text": text, "logprobs": scores, "finish_reason": reason}

    def prompt(self, text: Request) -> str:
        """The prompt as the model read it, if it is to be said."""
        return text.engine.bundle.tokenizer.decode(text.draft.ids) if self.echo else ""

    def prompt_scores(self, text: Request) -> list[tuple[Token, int]]:
        """The prompt's tokens, if they are to be said."""
        return [(token, token.start) for token in text.prompt_tokens] if self.echo else []

    def placed(self, text: Request, tokens: Sequence[Token]) -> list[tuple[Token, int]]:
        """Tokens of the continuation, with where each begins in the text that the client gets."""
        before = len(self.prompt(text)) if self.logprobs is not None else 0
        return [(token, before + token.start) for token in tokens]

    def all_tokens(self, text: Request) -> list[tuple[Token, int]]:
        """Every token of the text that the client gets."""
        return [*self.prompt_scores(text), *self.placed(text, text.tokens)]

    def scores(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        """OpenAI's older form of log-probabilities: the drawn token always stands among the likeliest."""
        tokenizer = self.texts[0].engine.bundle.tokenizer
        return {
            "tokens": [token.text for token, _ in tokens],
            "token_logprobs": [token.logprob for token, _ in tokens],
            "top_logprobs": [
                {token_text(tokenizer, index): score for index, score in token.top} | {token.text: token.logprob}
                for token, _ in tokens
            ],
            "text_offset": [offset for _, offset in tokens],
        }

    def opening(self, index: int, text: Request) -> dict[str, Any] | None:
        """The choice of a stream's first chunk, where there is something to say before the continuation."""
        return self.choice(index, self.prompt(text), self.prompt_scores(text), None) if self.echo else None

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        """One server-sent event."""
        content = self.answer(self.chunk_kind, choices)
        return event({**content, "usage": usage} if self.usage else content)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The whole stream, to the [DONE] at its end."""
        opened = set()
        async for index, piece in as_written(self.texts):
            text = self.texts[index]
            if index not in opened and (opening := self.opening(index, text)):
                yield self.chunk([opening])
            opened.add(index)
            if piece is None:
                yield self.chunk([self.choice(index, "", [], text.finish_reason)])
            else:
                yield self.chunk([self.choice(index, piece.text, self.placed(text, piece.tokens), None)])
        if self.usage:
            yield self.chunk([], self.counts())
        yield b"data: [DONE]\n\n"


@dataclass
class ChatJob(Job):
    """The same as a conversation."""

    id: str = field(default_factory=lambda: "chatcmpl-" + secrets.token_hex(12))
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, text in enumerate(self.texts):
            message = {"role": "assistant", "content": text.text}
            reason = text.finish_reason
            choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": reason})
        return {**self.answer(self.kind, choices), "usage": self.counts()}

    def choice(self, index: int, text: str, tokens: Sequence[tuple[Token, int]], reason: str | None) -> dict[str, Any]:
        delta = {"content": text} if reason is None else {}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int, text: Request) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event that holds this as JSON."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Events(StreamingResponse):
    """A job's stream. When the client leaves, or time is up, its places are free again."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, seconds: float) -> None:
        self.job, self.seconds = job, seconds
        super().__init__(self.timed(), headers={"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def timed(self) -> AsyncIterator[bytes]:
        """The chunks; an error in place of what does not come in time."""
        try:
            async with asyncio.timeout(self.seconds):
                async for chunk in self.job.chunks():
                    yield chunk
        except TimeoutError:
            yield event(too_slow(self.seconds).answer.model_dump())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds + 1):  # for those who do not read what they get
                await super().__call__(scope, receive, send)
        finally:
            self.job.cancel()


async def finished(job: Job, receive: Receive, seconds: float) -> bool:
    """Wait for all of a job's texts; False if the client left before. Their places are free again in any case.

    Raises:
        ApiError: time is up.
    """
    gone: asyncio.Future[None] = asyncio.ensure_future(disconnected(receive))
    done: asyncio.Future[Any] = asyncio.gather(*(text.wait() for text in job.texts))
    try:
        await asyncio.wait({gone, done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and not gone.done():
            raise too_slow(seconds)
        if done.done():
            done.result()
        return done.done()
    finally:
        job.cancel()
        gone.cancel()
        done.cancel()


async def disconnected(receive: Receive) -> None:
    """Until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def too_slow(seconds: float) -> ApiError:
    """The error of an answer that takes too long."""
    return ApiError(503, f"the answer took longer than {seconds:g} seconds: ask for less, or later", code="timeout")
