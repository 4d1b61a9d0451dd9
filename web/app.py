"""The playground: `create_app` builds the page out of its tabs, `mount_playground` adds it to the server."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import gradio as gr
from fastapi import FastAPI
from markupsafe import Markup

from config.schema import Config
from server.engine import Engine
from web.models import Models
from web.tab_about import AboutTab
from web.tab_data import DataTab
from web.tab_inside import InsideTab
from web.tab_training import TrainingTab
from web.tab_write import WriteTab
from web.templates import FOLDER, read_asset

Made = TypeVar("Made")
TITLE = "elon-transformer"
PARODY = "Parody: a small language model makes these tweets up. Short ones can be real tweets, repeated"
MARKED = {True: ": these are marked.", False: "; the training tweets are not here, so these can't be marked."}
PAGE_HEAD = '<meta name="color-scheme" content="light dark"><script>{}</script>'

BLUES = (
    "#f0f6fb",
    "#d9e9f5",
    "#b5d3ea",
    "#85b6dc",
    "#4e94c9",
    "#1f6fb2",
    "#1a629f",
    "#165488",
    "#134670",
    "#0f3858",
    "#0a263c",
)  # from the lightest to the darkest
THEME_COLOURS = {  # of Gradio's theme: (light, dark)
    "body_background_fill": ("#fbfaf7", "#161513"),
    "body_text_color": ("#1d1c1a", "#ece8df"),
    "body_text_color_subdued": ("#5f5c55", "#a39e92"),
    "background_fill_primary": ("#ffffff", "#1f1e1b"),
    "background_fill_secondary": ("#fbfaf7", "#161513"),
    "border_color_primary": ("#e2ded5", "#3a3731"),
    "block_background_fill": ("#ffffff", "#1f1e1b"),
    "block_border_color": ("#e2ded5", "#3a3731"),
    "block_label_text_color": ("#1d1c1a", "#ece8df"),
    "block_title_text_color": ("#1d1c1a", "#ece8df"),
    "block_info_text_color": ("#5f5c55", "#a39e92"),
    "input_background_fill": ("#fbfaf7", "#262420"),
    "input_border_color": ("#827d73", "#857f75"),  # 3.9:1 on the fields' own colour and more on the card's
    "input_border_color_hover": ("#5f5c55", "#a39e92"),
    "input_placeholder_color": ("#5f5c55", "#a39e92"),
    "button_primary_background_fill": ("#1f6fb2", "#6db0e8"),
    "button_primary_background_fill_hover": ("#1a629f", "#8cc2ef"),
    "button_primary_text_color": ("#ffffff", "#10202e"),
    "button_secondary_background_fill": ("#f4f2ec", "#2b2925"),
    "button_secondary_background_fill_hover": ("#e9e5db", "#36332d"),
    "button_secondary_text_color": ("#1d1c1a", "#ece8df"),
    "slider_color": ("#1f6fb2", "#6db0e8"),
}


def theme() -> gr.themes.Base:
    """The colours of the attention page in light and dark, and the system's own fonts."""
    blue = gr.themes.Color(*BLUES)
    fonts = {"font": [gr.themes.Font("sans-serif")], "font_mono": [gr.themes.Font("monospace")]}
    made = gr.themes.Base(
        primary_hue=blue, secondary_hue=blue, neutral_hue=gr.themes.colors.stone, radius_size="lg", **fonts
    )
    pairs = {name: light for name, (light, _) in THEME_COLOURS.items()}
    pairs |= {f"{name}_dark": dark for name, (_, dark) in THEME_COLOURS.items()}
    return made.set(**pairs, input_border_width="1px", input_text_size="16px")


def create_app(engine: Engine, config: Config) -> gr.Blocks:
    """The page, without its theme.

    Args:
        engine: writes the texts of all visitors.
        config: the defaults of the controls (`generate`), and the paths of runs and data (`paths`).
    """
    models = Models(engine, config)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        said = PARODY + MARKED[engine.copies is not None]
        gr.HTML(Markup("<header><h1>{}</h1><p>{}</p></header>").format(TITLE, said), elem_id="top")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Write", id="write"):
                write = WriteTab(models, config.generate)
            with gr.Tab("Look inside", id="inside") as inside_tab:
                inside = InsideTab(models)
            with gr.Tab("Training", id="training") as training_tab:
                training = TrainingTab(config.paths)
            with gr.Tab("Data", id="data") as data_tab:
                data = DataTab(engine.bundle, config.paths)
            with gr.Tab("About", id="about"):
                AboutTab(engine.bundle, config.paths)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        blocks.load(*write.picker.first, **quiet)
        blocks.load(models.choices, None, write.controls.beside, **quiet)
        blocks.load(models.choices, None, inside.beside, **quiet)
        for tab, first in ((inside_tab, inside.first), (training_tab, training.first), (data_tab, data.first)):
            tab.select(*first, **quiet)
        tabs.select(timer_state, None, training.timer, queue=False, **quiet)
    return blocks


def timer_state(event: gr.SelectData) -> gr.Timer:
    """Let the timer run only while the tab Training is open."""
    return gr.Timer(active=event.value == "Training")


def call_in_event_loop(make: Callable[[], Made]) -> Made:
    """Call `make` while an event loop runs: without one, Gradio opens loops and never closes them."""

    async def made() -> Made:
        return make()

    with ThreadPoolExecutor(1) as pool:  # a new thread, because this one may run a loop already
        return pool.submit(asyncio.run, made()).result()


def mount_playground(api: FastAPI, engine: Engine, config: Config) -> FastAPI:
    """Add the playground to `api` at /. Add other routes first: it answers all paths that are left."""

    def mount() -> FastAPI:
        """The API with the playground in it."""
        return gr.mount_gradio_app(
            api,
            create_app(engine, config),
            path="/",
            theme=theme(),
            css=read_asset("playground.css"),
            head=PAGE_HEAD.format(read_asset("playground.js")),
            favicon_path=str(FOLDER / "favicon.svg"),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
        )

    return call_in_event_loop(mount)
