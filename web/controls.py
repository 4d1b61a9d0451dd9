"""The settings of the tab Write: how many tweets and how bold they are, and the numbers behind that under More."""

import json
import random
from dataclasses import replace
from typing import Any

import gradio as gr

from config.schema import GenerateConfig, UserError
from server.schemas import MAX_TEXTS
from web.models import NO_SECOND_MODEL, Models

HOTTEST = 1.3  # above it little is left of a sentence
USUAL_TEMPERATURE = 0.8  # of Normal, where the settings have none above 0
LARGEST_SEED = 2**31 - 1
SEEDS = 1_000_000  # a new seed is below: short enough to read and to type
MOODS = {"Safe": 0.65, "Normal": 1.0, "Wild": 1.4}  # the temperature, relative to that of the settings


def mood_temperatures(usual: float) -> dict[str, float]:
    """The temperature of each mood, in steps of the slider."""
    return {mood: min(HOTTEST, round(20 * factor * usual) / 20) for mood, factor in MOODS.items()}


def first_seed(seed: float | None, keep: bool) -> int:
    """The seed of the first tweet: the one in the box if it is to be kept, else a new one.

    Raises:
        UserError: the box holds no seed.
    """
    if not keep:
        return random.randrange(SEEDS)
    if seed is None or not 0 <= seed <= LARGEST_SEED:
        found = "empty" if seed is None else f"{seed:.0f}"
        raise UserError(
            f"the seed is {found}: give a whole number from 0 to {LARGEST_SEED:,}, or untick `Keep this seed`"
        )
    return int(seed)


class Controls:
    """The controls' layout.

    Attributes:
        sampling: the controls whose values `settings` takes.
    """

    def __init__(self, models: Models, defaults: GenerateConfig) -> None:
        self.defaults = defaults
        self.moods = mood_temperatures(defaults.temperature or USUAL_TEMPERATURE)
        self.lay_out_moods()
        self.beside = second_model(models, "a second model writes with the same beginning and seed")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.lay_out_seed()
            self.lay_out_temperature()
            self.lay_out_filters()
        self.sampling = [self.temperature, self.top_k, self.top_p, self.min_p, self.penalty]
        self.connect()

    def lay_out_moods(self) -> None:
        """How bold the tweets are, and how many."""
        self.mood = gr.Radio(
            [*self.moods],
            value=self.mood_of(self.defaults.temperature),
            label="How bold?",
            info="Safe: likely words. Wild: surprises, and more nonsense.",
            elem_id="mood",
        )
        self.number = gr.Slider(
            1, MAX_TEXTS, min(self.defaults.num_samples, MAX_TEXTS), step=1, label="Number of tweets", elem_id="number"
        )

    def lay_out_seed(self) -> None:
        """The seed; its bounds are checked by `first_seed`, because Gradio's own check would take the tweets away."""
        self.seed = gr.Number(
            min(self.defaults.seed, LARGEST_SEED),
            label="Seed",
            info="The same seed, prompt and settings write the same tweets.",
            precision=0,
            elem_id="seed",
        )
        self.keep = gr.Checkbox(
            False,
            label="Keep this seed",
            info="Otherwise each press of Write takes a new one.",
            elem_id="keep",
        )

    def lay_out_temperature(self) -> None:
        """The number behind Safe, Normal and Wild."""
        self.temperature = gr.Slider(
            0,
            HOTTEST,
            min(self.defaults.temperature, HOTTEST),
            step=0.05,
            label="Temperature",
            info="The higher it is, the more often the model takes unlikely words.",
            elem_id="temperature",
        )

    def lay_out_filters(self) -> None:
        """The other sampling settings."""
        defaults = self.defaults
        self.top_k = gr.Slider(
            0, 200, min(defaults.top_k, 200), step=1, label="Top-k", info="Only the k likeliest tokens. 0: off."
        )
        self.top_p = gr.Slider(
            0.05,
            1,
            defaults.top_p,
            step=0.01,
            label="Top-p",
            info="Only the likeliest tokens that together have this probability. 1: off.",
        )
        self.min_p = gr.Slider(
            0,
            0.9,
            defaults.min_p,
            step=0.01,
            label="Min-p",
            info="Only tokens at least this likely, relative to the likeliest. 0: off.",
        )
        self.penalty = gr.Slider(
            0.5,
            2,
            defaults.repetition_penalty,
            step=0.05,
            label="Repetition penalty",
            info="Makes tokens that were already used less likely. 1: off.",
        )

    def connect(self) -> None:
        """A mood sets the temperature, a temperature shows its mood, a typed seed is kept. All in the browser."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        moods = json.dumps(self.moods)
        self.mood.input(None, self.mood, self.temperature, js=f"(mood) => ({moods})[mood]", **quiet)
        find = f"(found) => Object.entries({moods}).find(([, each]) => each === found)?.[0] ?? null"
        self.temperature.input(None, self.temperature, self.mood, js=find, **quiet)
        self.seed.input(None, None, self.keep, js="() => true", **quiet)

    def mood_of(self, temperature: float) -> str | None:
        """The mood that has this temperature."""
        return next((mood for mood, each in self.moods.items() if each == temperature), None)

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


def second_model(models: Models, info: str) -> gr.Dropdown:
    """The choice of a second model; hidden where there is none."""
    others = models.others()
    return gr.Dropdown(
        [NO_SECOND_MODEL, *others],
        value=NO_SECOND_MODEL,
        label="Compare with",
        info=info,
        filterable=False,
        visible=bool(others),
        scale=2,
        min_width=160,
    )
