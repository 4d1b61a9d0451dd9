"""The tab Write: tweets appear as cards while one model writes them, or two models side by side."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import gradio as gr
from markupsafe import Markup

from config.schema import GenerateConfig, UserError
from server.best_text import BestText
from server.engine import Engine, QueueFull
from utils.preprocess import load_processed
from web.cards import MOST_EARLIER, Card, Column, cards, earlier_cards, finished_cards
from web.controls import Controls, first_seed
from web.models import NO_SECOND_MODEL, Models
from web.tab_pick import Picker
from web.templates import notice, public, render

FRAME_SECONDS = 0.06  # between two updates of the cards
NUM_EXAMPLES = 5
EMPTY = "Nothing written yet. Type how a tweet begins, or leave the box empty, and press `Write`."


def submit_column(engine: Engine, name: str, prompt: str, settings: GenerateConfig) -> Column:
    """Submit a column of tweets, with the same seeds as `python main.py generate`.

    Raises:
        UserError: the prompt does not fit.
        QueueFull: too many requests are waiting. None of the column is left in the queue then.
    """
    column = Column(name, [], {}, engine.copies)
    try:
        for number in range(settings.num_samples):
            column.requests.append(BestText(engine, prompt, settings, seed=settings.seed + number))
    except (UserError, QueueFull):
        cancel_columns([column])
        raise
    return column


def cancel_columns(columns: list[Column]) -> None:
    """Cancel all requests that are not done."""
    for column in columns:
        for request in column.requests:
            request.cancel()


def stream_cards(columns: list[Column]) -> Iterator[Markup]:
    """The cards again and again while the texts grow, until all are done; cancels the rest if it is closed."""
    updates: SimpleQueue[tuple[Column, int, bool]] = SimpleQueue()
    for column in columns:
        for number, request in enumerate(column.requests):
            request.listen(lambda piece, c=column, n=number: updates.put((c, n, piece is None)))  # type: ignore[misc]
    left = sum(len(column.requests) for column in columns)
    try:
        yield cards(columns)
        while left:
            events = [updates.get()]
            time.sleep(FRAME_SECONDS)
            try:
                while True:
                    events.append(updates.get_nowait())
            except Empty:
                pass
            for column, number, ended in events:
                if ended:
                    column.samples[number] = column.requests[number].result()
                    left -= 1
            yield cards(columns)
    finally:
        cancel_columns(columns)


def submit_columns(models: Models, beside: str, prompt: str, settings: GenerateConfig) -> list[Column]:
    """A column for the served model, and one for the model that it is compared with.

    Raises:
        UserError: the prompt does not fit, or the other model is gone.
        QueueFull: too many requests are waiting. None of the columns is left in the queue then.
    """
    columns: list[Column] = []
    try:
        engines = [(models.name, models.engine)]
        if beside != NO_SECOND_MODEL:
            engines.append((beside, models.open(beside)))
        for name, engine in engines:
            columns.append(submit_column(engine, name, prompt, settings))
    except (UserError, QueueFull):
        cancel_columns(columns)
        raise
    return columns


def example_prompts(models: Models) -> list[str]:
    """The commonest beginnings of the training tweets, as prompts to try; none if the tweets are not there."""
    try:
        tweets = load_processed(models.paths).train
    except UserError:
        return []
    words = (tweet.text.split() for tweet in tweets)
    starts = Counter(" ".join(each[:2]) for each in words if len(each) > 3)
    return [text for text, _ in starts.most_common(NUM_EXAMPLES)]


class WriteTab:
    """The tab's layout, and what its controls do."""

    def __init__(self, models: Models, defaults: GenerateConfig) -> None:
        self.models = models
        with gr.Row(elem_classes="halves"):
            with gr.Column(scale=2, min_width=300, elem_classes="controls"):
                self.lay_out_prompt()
                self.controls = Controls(models, defaults)
            with gr.Column(scale=3, min_width=300), gr.Tabs(elem_classes="inner") as self.views:
                with gr.Tab("Whole tweets", id="tweets"):
                    self.message = gr.HTML(elem_id="message")
                    watch = "playground.watch(element, document.querySelector('#message'))"
                    empty = render("nothing_yet.html", text=EMPTY)
                    self.cards = gr.HTML(empty, elem_id="cards", js_on_load=watch)
                    self.earlier = gr.HTML(elem_id="earlier")
                with gr.Tab("Word by word", id="words"):
                    self.picker = Picker(models.engine, self.prompt, self.controls)
        self.connect()

    def lay_out_prompt(self) -> None:
        """The prompt, its button, and examples to click."""
        self.prompt = gr.Textbox(
            label="Beginning of the tweet",
            placeholder="Leave it empty for a tweet from nothing.",
            lines=1,  # with one line, Enter submits and Shift+Enter begins a new line
            max_lines=6,
            max_length=2000,
            elem_id="prompt",
        )
        self.button = gr.Button("Write", variant="primary", elem_id="write")
        if examples := example_prompts(self.models):
            gr.HTML(render("examples.html", prompts=examples), elem_id="examples")

    def connect(self) -> None:
        """Connect the button Write, and Enter in the prompt, with what they do."""
        triggers = [self.button.click, self.prompt.submit]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(triggers, lambda: gr.Tabs(selected="tweets"), None, self.views, queue=False, **quiet)
        controls, visit = self.controls, gr.State([])
        inputs = [visit, self.prompt, controls.number, controls.keep, controls.seed, controls.beside]
        outputs = [visit, controls.seed, self.message, self.cards, self.earlier]
        gr.on(
            triggers,
            self.write,
            [*inputs, *controls.sampling],
            outputs,
            concurrency_limit=4,
            trigger_mode="once",
            **quiet,
        )

    def write(
        self,
        visit: list[Card],
        prompt: str,
        number: float,
        keep: bool,
        seed: float | None,
        beside: str,
        *sampling: float,
    ) -> Iterator[tuple[Any, ...]]:
        """Write the tweets. Where that can't be done one line says why, and the tweets that are there stay.

        Args:
            visit: the tweets of this visit, the newest first.

        Yields:
            visit, seed, message, cards, earlier cards.
        """
        same = gr.skip()
        try:
            first = first_seed(seed, keep)
            settings = replace(self.controls.settings(*sampling), num_samples=int(number), seed=first)
            columns = submit_columns(self.models, beside, prompt or "", settings)
        except (UserError, QueueFull) as error:
            yield same, same, notice(public(str(error), self.models.paths)), same, same
            return
        yield same, first, "", cards(columns), earlier_cards(visit)
        for frame in stream_cards(columns):
            yield same, same, same, frame, same
        yield newest_first(columns, visit), same, same, same, same


def newest_first(columns: Sequence[Column], visit: Sequence[Card]) -> list[Card]:
    """The tweets of this visit, those of these columns before the earlier ones."""
    written = [card for column in columns for card in finished_cards(column).values()]
    return [*written, *visit][:MOST_EARLIER]
