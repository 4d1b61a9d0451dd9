"""The best of several candidates for one text, for the playground: what `python main.py generate` would show."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from config.schema import GenerateConfig
from generate.best_of import Sample, best_first, fit, next_candidates
from generate.drafts import Draft
from server.engine import Engine, QueueFull, TextRequest
from server.streaming import TextDelta


class BestText:
    """A text that was asked for: `settings.best_of` candidates are written side by side, and the best one is kept.

    It is used as a TextRequest is. The result equals that of `generate.generate.generate` for the same prompt, settings
    and seed.

    Args:
        engine: writes the candidates.
        prompt: the beginning of the text, as text or as GPT-2 token ids.
        settings: how it is sampled; its `num_samples` and `seed` are ignored.
        seed: of this text.

    Attributes:
        candidates: their requests so far.
        finished: done when the best one is known.

    Raises:
        UserError, QueueFull: see Engine.submit; then nothing is left in the queue.
    """

    def __init__(self, engine: Engine, prompt: str | Sequence[int], settings: GenerateConfig, *, seed: int) -> None:
        self.engine, self.prompt, self.settings, self.seed = engine, prompt, settings, seed
        self.candidates: list[TextRequest] = []
        self.finished: Future[Sample] = Future()
        self.finished.set_running_or_notify_cancel()
        self._listeners: list[Callable[[TextDelta | None], object]] = []
        self._lock = threading.RLock()
        self._running = 0
        self._cancelled = False
        self._submit(next_candidates(settings, []))

    @property
    def draft(self) -> Draft:
        """The first candidate as the model sees it."""
        return self.candidates[0].draft

    @property
    def text(self) -> str:
        """What was written so far of the first candidate; the result may be another one."""
        return self.candidates[0].text

    @property
    def candidates_done(self) -> int:
        """How many candidates have ended."""
        return sum(request.finished.done() for request in self.candidates)

    def listen(self, callback: Callable[[TextDelta | None], object]) -> None:
        """Call `callback` on the engine's thread with the next deltas of all candidates, and with None at the end."""
        with self._lock:
            if self.finished.done():
                callback(None)
            else:
                self._listeners.append(callback)

    def result(self, timeout: float | None = None) -> Sample:
        """The best text; waits for it.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        return self.finished.result(timeout)

    def cancel(self) -> None:
        """Give up the places of all candidates."""
        with self._lock:
            self._cancelled = True
        for request in list(self.candidates):
            request.cancel()

    def _submit(self, numbers: Iterable[int]) -> None:
        new: list[TextRequest] = []
        try:
            for number in numbers:
                new.append(self.engine.submit(self.prompt, self.settings, seed=self.seed, candidate=number))
        except Exception:
            for request in new:
                request.cancel()
            raise
        with self._lock:
            self.candidates += new
            self._running += len(new)
        for request in new:
            request.listen(self._heard)

    def _heard(self, delta: TextDelta | None) -> None:
        """A delta of a candidate, or None at its end; after the last one, choose or write more."""
        with self._lock:
            if delta is None:
                self._running -= 1
                if self._running == 0 and not self._go_on():
                    self._end()
            if delta is not None or self.finished.done():
                for callback in self._listeners:
                    callback(delta)

    def _go_on(self) -> bool:
        """Whether more candidates are written now, because none so far can be shown."""
        if self._cancelled or any(request.finished.exception() for request in self.candidates):
            return False
        numbers = next_candidates(self.settings, [request.result() for request in self.candidates])
        try:
            self._submit(numbers)
        except QueueFull:
            return False
        return bool(numbers)

    def _end(self) -> None:
        """Set the result: the best candidate, or the error of one."""
        for request in self.candidates:
            if error := request.finished.exception():
                self.finished.set_exception(error)
                return
        self.finished.set_result(fit(best_first([request.result() for request in self.candidates])[0]))
