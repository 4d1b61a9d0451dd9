"""The tab Write: tweets appear as cards while one model writes them, or two models side by side."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue

import gradio as gr
from markupsafe import Markup

from config.schema import GenerateConfig, UserError
from server.best_text import BestText
from server.engine import Engine, QueueFull
from server.schemas import MAX_TEXTS
from web.cards import Column, cards
from web.models import NO_SECOND_MODEL, Models
from web.tab_pick import Picker
from web.templates import notice

FRAME_SECONDS = 0.06  # between two updates of the cards
LARGEST_SEED = 2**31 - 1
EMPTY = "Nothing written yet. Give the beginning of a tweet, or leave it empty, and press `Write`."


def submit_column(engine: Engine, name: str, prompt: str, settings: GenerateConfig) -> Column:
    """Submit a column of tweets, with the same seeds as `python main.py generate`.

    Raises:
        UserError: the prompt does not fit.
        QueueFull: too many requests are waiting. None of the column is left in the queue then.
    """
    column = Column(name, [], {})
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


def write_cards(models: Models, beside: str, prompt: str, settings: GenerateConfig) -> Iterator[Markup]:
    """The cards of one model or two while they are written, or one line that says why there are none."""
    columns: list[Column] = []
    try:
        engines = [(models.name, models.engine)]
        if beside != NO_SECOND_MODEL:
            engines.append((beside, models.open(beside)))
        for name, engine in engines:
            columns.append(submit_column(engine, name, prompt, settings))
    except (UserError, QueueFull) as error:
        cancel_columns(columns)
        yield notice(str(error))
        return
    yield from stream_cards(columns)


class WriteTab:
    """The tab's layout, and what its controls do."""

    def __init__(self, models: Models, defaults: GenerateConfig) -> None:
        self.models, self.defaults = models, defaults
        with gr.Row(elem_classes="halves"):
            with gr.Column(scale=2, min_width=300, elem_classes="controls"):
                self.lay_out_controls()
            with gr.Column(scale=3, min_width=300), gr.Tabs(elem_classes="inner") as self.views:
                with gr.Tab("Whole tweets", id="tweets"):
                    self.cards = gr.HTML(notice(EMPTY), elem_id="cards", js_on_load="playground.copying(element)")
                    with gr.Row(elem_classes="tools"):
                        for label, call in (
                            ("Copy all", "copyAll"),
                            ("Save as text", "saveText"),
                            ("Save as JSON", "saveJson"),
                        ):
                            gr.Button(label, size="sm", min_width=110).click(None, js=f"() => playground.{call}()")
                with gr.Tab("Word by word", id="words"):
                    self.picker = Picker(models.engine.bundle, self.prompt, self.sampling, self.settings)
        self.connect()

    def lay_out_controls(self) -> None:
        """The prompt, the number of tweets, the temperature, the seed, and the other settings in a drawer."""
        defaults = self.defaults
        self.prompt = gr.Textbox(
            label="Beginning of the tweet",
            placeholder="empty: a tweet from nothing",
            lines=2,
            max_lines=6,
            max_length=2000,
            elem_id="prompt",
        )
        self.number = gr.Slider(
            1, MAX_TEXTS, min(defaults.num_samples, MAX_TEXTS), step=1, label="Number of tweets", elem_id="number"
        )
        self.temperature = gr.Slider(
            0,
            2,
            min(defaults.temperature, 2),
            step=0.05,
            label="Temperature",
            info="the higher, the more surprising the tweets",
            elem_id="temperature",
        )
        self.lay_out_seed()
        self.lay_out_second_model()
        with gr.Accordion("More settings", open=False):
            self.lay_out_drawer()
        self.button = gr.Button("Write", variant="primary", elem_id="write")
        self.sampling = [self.temperature, self.top_k, self.top_p, self.min_p, self.penalty]

    def lay_out_seed(self) -> None:
        """The seed, and a button that picks one."""
        with gr.Row(elem_classes="seed"):
            self.seed = gr.Number(
                min(self.defaults.seed, LARGEST_SEED),
                label="Seed",
                info="the same seed writes the same tweets",
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
                min_width=120,
                scale=2,
                elem_id="seed",
            )
            self.surprise = gr.Button("Surprise me", min_width=110, scale=1, elem_id="surprise")

    def lay_out_second_model(self) -> None:
        """The choice of a second model."""
        self.beside = gr.Dropdown(
            [NO_SECOND_MODEL, *self.models.others()],
            value=NO_SECOND_MODEL,
            label="Beside it",
            filterable=False,
            elem_id="beside",
            info="a second model writes from the same beginning with the same seed",
        )

    def lay_out_drawer(self) -> None:
        """The other sampling settings."""
        defaults = self.defaults
        self.top_k = gr.Slider(
            0, 200, min(defaults.top_k, 200), step=1, label="Top-k", info="only the k likeliest tokens; 0: off"
        )
        self.top_p = gr.Slider(
            0.05,
            1,
            defaults.top_p,
            step=0.01,
            label="Top-p",
            info="only the likeliest that together have this probability; 1: off",
        )
        self.min_p = gr.Slider(
            0,
            0.9,
            defaults.min_p,
            step=0.01,
            label="Min-p",
            info="only tokens at least this likely beside the likeliest; 0: off",
        )
        self.penalty = gr.Slider(
            0.5,
            2,
            defaults.repetition_penalty,
            step=0.05,
            label="Repetition penalty",
            info="makes tokens already used less likely; 1: off",
        )

    def connect(self) -> None:
        """Connect the buttons with what they do."""
        gr.on(
            [self.button.click, self.surprise.click],
            lambda: gr.Tabs(selected="tweets"),
            None,
            self.views,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        self.surprise.click(
            lambda: random.randrange(LARGEST_SEED),
            None,
            self.seed,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        inputs = [self.prompt, self.number, self.seed, self.beside, *self.sampling]
        self.button.click(
            self.write,
            inputs,
            self.cards,
            concurrency_limit=4,
            show_progress="hidden",
            trigger_mode="once",
            api_visibility="private",
        )

    def settings(self, temperature: float, top_k: float, top_p: float, min_p: float, penalty: float) -> GenerateConfig:
        """The sampling settings of the sliders.

        Raises:
            UserError: a value is out of its bounds.
        """
        return replace(
            self.defaults,
            temperature=temperature,
            top_k=int(top_k),
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=penalty,
        )

    def write(self, prompt: str, number: float, seed: float | None, beside: str, *sampling: float) -> Iterator[Markup]:
        """Write the tweets (the button Write)."""
        try:
            first = self.defaults.seed if seed is None else int(seed)
            settings = replace(self.settings(*sampling), num_samples=int(number), seed=first)
        except UserError as error:
            yield notice(str(error))
            return
        yield from write_cards(self.models, beside, prompt or "", settings)
