"""One model for many clients: texts are written side by side, and new ones join while others run.

All of the model's work is done on one thread. Requests wait in a queue until there is a place beside those that are
being written; each takes its place with it when it ends or is cancelled. A text does not depend on its neighbours:
it is the one that `generate.generate.generate` writes for the same prompt, settings and seed.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from types import TracebackType

import torch
from torch import Tensor

from config.schema import GenerateConfig
from generate.copies import CopyCheck
from generate.generate import Batch, Draft, Sample, finish, start
from model.checkpoint import Bundle
from model.tokenizer import END
from server.streaming import Piece, StopWriter, Token, make_token, score_prompt

READ_AT_ONCE = 512  # prompt tokens, padding counted, read between two steps: more would make running texts stutter


class Busy(Exception):
    """The queue is full."""


class Request:
    """A text that was asked for; iterate over it (or `async for`) to get its pieces as they are written.

    Attributes:
        draft: the text as the model sees it.
        text: the continuation so far, never half a character, never a stop string or what may become one.
        prompt_tokens: the prompt's tokens with their log-probabilities, if they were asked for.
        finish_reason: "stop" (ended by itself or at a stop string), "length", "cancelled"; "" while it is written.
    """

    def __init__(
        self, engine: "Engine", draft: Draft, *, logprobs: int | None, stop: Sequence[str], score_prompt: bool
    ) -> None:
        self.engine, self.draft, self.logprobs, self.score_prompt = engine, draft, logprobs, score_prompt
        self.text, self.prompt_tokens, self.finish_reason = "", list[Token](), ""
        self.finished: Future[None] = Future()
        self.finished.set_running_or_notify_cancel()  # from now on only the engine says what becomes of it
        self._pieces: list[Piece] = []
        self._listeners: list[Callable[[Piece | None], object]] = []
        self._lock = threading.Lock()
        self._writer = StopWriter(engine.bundle.tokenizer, stop)

    def listen(self, callback: Callable[[Piece | None], object]) -> None:
        """Give every piece, those written already too, and None at the end, to `callback`, on the engine's thread."""
        with self._lock:
            for piece in self._pieces:
                callback(piece)
            if self.finished.done():
                callback(None)
            self._listeners.append(callback)

    def __iter__(self) -> Iterator[Piece]:
        pieces: SimpleQueue[Piece | None] = SimpleQueue()
        self.listen(pieces.put)
        while (piece := pieces.get()) is not None:
            yield piece
        self.finished.result()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for _, piece in as_written([self]):
            if piece is not None:
                yield piece

    async def wait(self) -> None:
        """Until it has ended, for asyncio."""
        await asyncio.wrap_future(self.finished)

    @property
    def tokens(self) -> list[Token]:
        """The tokens of `text` so far."""
        return [token for piece in self._pieces for token in piece.tokens]

    def result(self, timeout: float | None = None) -> Sample:
        """The whole text, once it has ended.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        self.finished.result(timeout)
        return finish(self.draft, self.engine.bundle.tokenizer, self.engine.copies)

    def cancel(self) -> None:
        """Give its place up at the next step; what was written stays."""
        self.engine.cancel(self)

    def write(self, index: int, scores: Tensor | None) -> None:
        """Take a token in, with what might have stood there; the engine's business, as are `say` and `end`."""
        if index != END:
            tokenizer, start = self.engine.bundle.tokenizer, self._writer.position
            self.say(self._writer.push(make_token(tokenizer, index, scores, self.logprobs or 0, start)))
            if self._writer.stopped:
                self.draft.done, self.draft.cut = "stop", len(self.text)

    def say(self, piece: Piece | None) -> None:
        """Hand a piece on."""
        if piece is not None:
            with self._lock:
                self.text += piece.text
                self._pieces.append(piece)
                for callback in self._listeners:
                    callback(piece)

    def end(self, error: BaseException | None = None) -> None:
        """Say what was held back, and that this is all."""
        if not self._writer.stopped:
            self.say(self._writer.rest())
        self.finish_reason = self.draft.done
        with self._lock:
            self.finished.set_exception(error) if error else self.finished.set_result(None)
            for callback in self._listeners:
                callback(None)


async def as_written(requests: Sequence[Request]) -> AsyncIterator[tuple[int, Piece | None]]:
    """For asyncio, and without a thread: (number of the request, piece) as they come; None when that one has ended."""
    loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece | None]]()

    def hand_over(number: int, piece: Piece | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(news.put_nowait, (number, piece))

    for number, request in enumerate(requests):
        request.listen(partial(hand_over, number))
    running = len(requests)
    while running:
        number, piece = await news.get()
        if piece is None:
            running -= 1
            requests[number].finished.result()
        yield number, piece


class Engine:
    """Writes the texts of many requests side by side, on a thread of its own.

    Args:
        bundle: the model.
        copies: finds what is copied from the training tweets, for `Request.result`; None: nobody can say.
        width: texts written side by side.
        queue: requests that may wait for a place.
    """

    def __init__(self, bundle: Bundle, copies: CopyCheck | None, *, width: int, queue: int) -> None:
        self.bundle, self.copies, self.width, self.queue = bundle, copies, width, queue
        self.counts = {"requests": 0, "refused": 0, "cancelled": 0, "prompt_tokens": 0, "tokens": 0}
        self._batch = Batch(bundle)
        self._running: dict[int, Request] = {}  # by the id() of their drafts
        self._waiting: deque[Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Cancel what is left, and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> dict[str, int]:
        """Counts since the start, and how many texts are running and waiting now."""
        with self._wake:
            return {**self.counts, "running": len(self._running), "waiting": len(self._waiting)}

    def submit(
        self,
        prompt: str | Sequence[int],
        settings: GenerateConfig,
        *,
        seed: int,
        logprobs: int | None = None,
        stop: Sequence[str] = (),
        score_prompt: bool = False,
    ) -> Request:
        """Ask for a text; returns at once.

        Args:
            prompt: text, or GPT-2 token ids.
            settings: how it is drawn; `num_samples` and `seed` are not looked at.
            seed: of this text.
            logprobs: how many of the likeliest tokens to tell at each place, beside the log-probability of the one
                that was drawn; None: neither.
            stop: the text ends before any of these.
            score_prompt: tell the prompt's own log-probabilities too.

        Raises:
            UserError: the prompt leaves no room in the context.
            Busy: as many requests as may are waiting already.
        """
        draft = start(self.bundle, prompt, settings, seed)
        request = Request(self, draft, logprobs=logprobs, stop=stop, score_prompt=score_prompt)
        with self._wake:
            if self._closed or len(self._waiting) + len(self._running) >= self.width + self.queue:
                self.counts["refused"] += 1
                raise Busy(f"{len(self._waiting)} requests are waiting already: try again in a moment")
            self.counts["requests"] += 1
            self._waiting.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: Request) -> None:
        """See `Request.cancel`."""
        with self._wake:
            if request.draft.done:
                return
            request.draft.done = "cancelled"
            self.counts["cancelled"] += 1
            if waiting := request in self._waiting:
                self._waiting.remove(request)
        if waiting:
            request.end()  # else the thread does it at its next step

    def _work(self) -> None:
        """The thread: while there are requests, let new ones in and write a token of each."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._running)
                if self._closed:
                    break
                new = self._admit()
            try:
                self._step(new)
            except Exception as error:  # of one bad round, not of the server: those in it get to know
                self._fail(error)
        self._fail(None)
        while self._waiting:
            self._waiting[0].cancel()

    def _admit(self) -> list[Request]:
        """The requests that may join now: while there are places, and prompts to read stay few."""
        new: list[Request] = []
        longest = 0
        while self._waiting and len(self._running) < self.width:
            longest = max(longest, 1 + len(self._waiting[0].draft.ids))
            if new and longest * (len(new) + 1) > READ_AT_ONCE:
                break
            new.append(self._waiting.popleft())
            self._running[id(new[-1].draft)] = new[-1]
        return new

    def _step(self, new: list[Request]) -> None:
        """One round: read the new prompts, write a token of each text, let go of those that are done."""
        for request in list(self._running.values()):
            if request.draft.done:  # cancelled since the last round
                self._leave(request)
        self._batch.advance()
        if new := [request for request in new if not request.finished.done()]:
            self._batch.join([request.draft for request in new])
            for request in new:
                self.counts["prompt_tokens"] += len(request.draft.ids)
                if request.score_prompt:
                    request.prompt_tokens = score_prompt(self.bundle, request.draft.ids, request.logprobs or 0)
        if not self._batch.drafts:
            return
        written = self._batch.draw()
        requests = [self._running[id(draft)] for draft, _ in written]
        self.counts["tokens"] += len(written)
        asked = [place for place, request in enumerate(requests) if request.logprobs is not None]
        scores = dict(zip(asked, self._log_probs(asked), strict=True))
        for place, (draft, index) in enumerate(written):
            request = requests[place]
            request.write(index, scores.get(place))
            if draft.done:
                self._leave(request)

    def _leave(self, request: Request, error: BaseException | None = None) -> None:
        """Give its place to others."""
        with self._wake:
            del self._running[id(request.draft)]
        request.end(error)

    def _log_probs(self, places: list[int]) -> Tensor:
        """Log-probabilities (n, 50257) of the tokens just drawn at these places of the batch."""
        if not places:
            return torch.empty(0)
        return self.bundle.vocabulary.log_probs(self._batch.logits[places].float().cpu())

    def _fail(self, error: BaseException | None) -> None:
        """End what is running, with an error or as cancelled, and begin afresh."""
        for request in list(self._running.values()):
            request.draft.done = request.draft.done or "cancelled"
            self._leave(request, error)
        self._batch = Batch(self.bundle)
