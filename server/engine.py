"""The engine: one model writes the texts of many requests side by side, on a thread of its own.

Requests wait in a queue until there is a place among the texts that are being written. A text gives its place up when
it ends or is cancelled, and the next request joins. A text does not depend on the others: it equals the one that
`generate.generate.generate` writes with `raw=True` for the same prompt, settings and seed.
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

from torch import Tensor

from config.schema import GenerateConfig
from generate.best_of import Sample, finish
from generate.copies import CopyCheck
from generate.drafts import Draft, DraftBatch, start
from model.checkpoint import Bundle
from model.tokenizer import END, END_TEXT
from server.streaming import StopBuffer, TextDelta, Token, score_prompt

MAX_PREFILL = 512  # prompt tokens, padding included, read between two steps: more would delay the running texts


class QueueFull(Exception):
    """Too many requests are waiting."""


class TextRequest:
    """A text that was asked for. Iterating over it gives its TextDeltas as they are written.

    Attributes:
        draft: the text as the model sees it.
        text: what was written so far, after the prompt if it is echoed; it never holds half a character or (the
            beginning of) a stop string.
        finish_reason: "stop" (ended by itself or at a stop string), "length", "cancelled"; "" while it is written.
        finished: done when the text has ended.
        end_mark_first: whether the client's prompt began with an end mark.
    """

    def __init__(
        self,
        engine: "Engine",
        draft: Draft,
        end_mark_first: bool,
        *,
        logprobs: int | None,
        stop: Sequence[str],
        echo: bool,
    ) -> None:
        tokenizer = engine.bundle.tokenizer
        self.end_mark_first = end_mark_first
        self.engine, self.draft, self.logprobs = engine, draft, logprobs
        self.text, self.finish_reason = "", ""
        self.echo = tokenizer.decode(draft.ids) if echo else None
        self.finished: Future[None] = Future()
        self.finished.set_running_or_notify_cancel()  # from now on only the engine can end it
        self._deltas: list[TextDelta] = []
        self._listeners: list[Callable[[TextDelta | None], object]] = []
        self._lock = threading.Lock()
        self._buffer = StopBuffer(tokenizer, stop, start=len(self.echo or ""))

    def listen(self, callback: Callable[[TextDelta | None], object]) -> None:
        """Call `callback` with every delta, then with None: at once with earlier ones, else on the engine's thread."""
        with self._lock:
            for delta in self._deltas:
                callback(delta)
            if self.finished.done():
                callback(None)
            self._listeners.append(callback)

    def __iter__(self) -> Iterator[TextDelta]:
        deltas: SimpleQueue[TextDelta | None] = SimpleQueue()
        self.listen(deltas.put)
        while (delta := deltas.get()) is not None:
            yield delta
        self.finished.result()

    @property
    def tokens(self) -> list[Token]:
        """The tokens of `text` so far; a prompt's own only if log-probabilities were asked for."""
        return [token for delta in self._deltas for token in delta.tokens]

    def result(self, timeout: float | None = None) -> Sample:
        """The finished text; waits for it.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        self.finished.result(timeout)
        return finish(self.draft, self.engine.bundle.tokenizer, self.engine.copies)

    def cancel(self) -> None:
        """Give up its place at the next step; what was written stays."""
        self.engine.cancel(self)

    def send_prompt(self) -> None:
        """Send the prompt as the first delta, if it is to be echoed. For the engine only, like the next three."""
        if self.echo is not None:
            scored = self.logprobs is not None
            tokens = score_prompt(self.engine.bundle, self.draft.ids, top=self.logprobs or 0) if scored else []
            if scored and self.end_mark_first:
                tokens.insert(0, Token(END, END_TEXT, None, [], 0))
            self.send(TextDelta(self.echo, tokens))

    def add(self, index: int, scores: Tensor | None) -> None:
        """Add a GPT-2 id; `scores` (50257,) are the log-probabilities at its place, if they were asked for."""
        if index == END:
            if scores is not None:
                self.send(self._buffer.end_mark(scores, top=self.logprobs or 0))
            return
        self.send(self._buffer.push(index, scores, top=self.logprobs or 0))
        if self._buffer.stopped:
            self.draft.done, self.draft.cut = "stop", len(self.text) - len(self.echo or "")

    def send(self, delta: TextDelta | None) -> None:
        """Give a delta to all listeners."""
        if delta is not None:
            with self._lock:
                self.text += delta.text
                self._deltas.append(delta)
                for callback in self._listeners:
                    callback(delta)

    def end(self, error: BaseException | None = None) -> None:
        """Send what was held back, then the end."""
        if not self._buffer.stopped:
            self.send(self._buffer.flush())
        self.finish_reason = self.draft.done
        with self._lock:
            self.finished.set_exception(error) if error else self.finished.set_result(None)
            for callback in self._listeners:
                callback(None)


async def stream_deltas(requests: Sequence[TextRequest]) -> AsyncIterator[tuple[int, TextDelta | None]]:
    """For asyncio, without a thread: (number of the request, delta) as they come; a None delta ends that request."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, TextDelta | None]]()

    def put(number: int, delta: TextDelta | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(events.put_nowait, (number, delta))

    for number, request in enumerate(requests):
        request.listen(partial(put, number))
    running = len(requests)
    while running:
        number, delta = await events.get()
        if delta is None:
            running -= 1
            requests[number].finished.result()
        yield number, delta


class Engine:
    """Writes the texts of many requests side by side, on a thread of its own.

    Args:
        bundle: the model.
        copies: finds copies of training tweets, for `TextRequest.result`; None if there is nothing to compare with.
        width: how many texts are written side by side.
        queue: how many requests may wait.
    """

    def __init__(self, bundle: Bundle, copies: CopyCheck | None, *, width: int, queue: int) -> None:
        self.bundle, self.copies, self.width, self.queue = bundle, copies, width, queue
        self.counts = {"requests": 0, "refused": 0, "cancelled": 0, "prompt_tokens": 0, "tokens": 0}
        self._batch = DraftBatch(bundle)
        self._running: dict[int, TextRequest] = {}  # by id() of the draft
        self._waiting: deque[TextRequest] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Cancel what is running and waiting, and end the thread."""
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
        """Totals since the start, and how many texts are running and waiting now."""
        with self._wake:
            return {**self.counts, "running": len(self._running), "waiting": len(self._waiting)}

    def submit(
        self,
        prompt: str | Sequence[int],
        settings: GenerateConfig,
        *,
        seed: int,
        candidate: int = 0,
        logprobs: int | None = None,
        stop: Sequence[str] = (),
        echo: bool = False,
        write: bool = True,
    ) -> TextRequest:
        """Ask for a text; returns at once.

        Args:
            prompt: text, or GPT-2 token ids. The model reads an end mark before it, also if the ids begin with none.
            settings, seed, candidate: how it is sampled; the `num_samples` and `seed` of `settings` are ignored.
            logprobs: how many of the likeliest tokens to score beside each token; None: no log-probabilities at all.
            stop: the text ends before any of these strings.
            echo: the text begins with the prompt; with `logprobs`, a space at the prompt's end is kept.
            write: False: no token is written after the prompt.

        Raises:
            UserError: the prompt is no valid text, or too long (PromptTooLong).
            QueueFull: the queue is full, or the engine closed.
        """
        if isinstance(prompt, str) and echo and logprobs is not None:
            prompt = self.bundle.tokenizer.encode(prompt)
        end_mark_first = not isinstance(prompt, str) and list(prompt[:1]) == [END]
        draft = start(self.bundle, prompt[1:] if end_mark_first else prompt, settings, seed, candidate=candidate)
        draft.uniform = draft.uniform if write else []  # one number for each token it may get
        request = TextRequest(self, draft, end_mark_first, logprobs=logprobs, stop=stop, echo=echo)
        with self._wake:
            if self._closed or len(self._waiting) + len(self._running) >= self.width + self.queue:
                self.counts["refused"] += 1
                raise QueueFull(f"{len(self._waiting)} requests are waiting already: try again in a moment")
            self.counts["requests"] += 1
            self._waiting.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: TextRequest) -> None:
        """Cancel a request that waits or runs; nothing happens if it has ended."""
        with self._wake:
            if request.draft.done:
                return
            request.draft.done = "cancelled"
            self.counts["cancelled"] += 1
            if waiting := request in self._waiting:
                self._waiting.remove(request)
        if waiting:
            request.end()  # a running one is ended by the thread, at its next step

    def _run(self) -> None:
        """The thread's loop: admit new requests, then write one token of each text."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._running)
                if self._closed:
                    break
                new = self._admit()
            try:
                self._step(new)
            except Exception as error:  # the requests of this step fail with it; the engine goes on
                self._fail(error)
        self._fail(None)
        while self._waiting:
            self._waiting[0].cancel()

    def _admit(self) -> list[TextRequest]:
        """The requests that join now: as many as there are places, and no more prompt tokens than MAX_PREFILL."""
        new: list[TextRequest] = []
        longest = 0
        while self._waiting and len(self._running) < self.width:
            longest = max(longest, 1 + len(self._waiting[0].draft.ids))
            if new and longest * (len(new) + 1) > MAX_PREFILL:
                break
            new.append(self._waiting.popleft())
            self._running[id(new[-1].draft)] = new[-1]
        return new

    def _step(self, new: list[TextRequest]) -> None:
        """One step: read the new prompts, write one token of each text, release the texts that are done."""
        for request in list(self._running.values()):
            if request.draft.done:  # cancelled since the last step
                self._release(request)
        self._batch.advance()
        new = [request for request in new if not request.finished.done()]
        if drafts := [request.draft for request in new if request.draft.uniform]:
            self._batch.join(drafts)
        for request in new:
            self.counts["prompt_tokens"] += len(request.draft.ids)
            request.send_prompt()
            if not request.draft.uniform:  # nothing is to be written
                request.draft.done = request.draft.done or "length"
                self._release(request)
        if not self._batch.drafts:
            return
        written = self._batch.draw()
        self.counts["tokens"] += len(written)
        requests = [self._running[id(draft)] for draft, _ in written]
        scores: dict[int, Tensor] = {}  # place in the batch: log-probabilities (50257,)
        if scored := [place for place, request in enumerate(requests) if request.logprobs is not None]:
            logits = self._batch.logits[scored].float().cpu()
            scores = dict(zip(scored, self.bundle.vocabulary.log_probs(logits), strict=True))
        for place, (draft, index) in enumerate(written):
            requests[place].add(index, scores.get(place))
            if draft.done:
                self._release(requests[place])

    def _release(self, request: TextRequest, error: BaseException | None = None) -> None:
        """Free its place, and end it."""
        with self._wake:
            del self._running[id(request.draft)]
        request.end(error)

    def _fail(self, error: BaseException | None) -> None:
        """End all running requests, with the error or as cancelled, and start an empty batch."""
        for request in list(self._running.values()):
            request.draft.done = request.draft.done or "cancelled"
            self._release(request, error)
        self._batch = DraftBatch(self.bundle)
