"""The tab Look inside: the attention page of any text, in a frame that is isolated from the rest of the page."""

import gradio as gr
from markupsafe import Markup

from config.schema import UserError
from inspection.page import attention_page
from web.models import NO_SECOND_MODEL, Models
from web.templates import notice

FIRST_TEXT = "Mars is"
FRAME = Markup('<iframe title="Inside the model" sandbox="allow-scripts" srcdoc="{}" class="inside"></iframe>')


class InsideTab:
    """The tab's layout, and what its controls do."""

    def __init__(self, models: Models) -> None:
        self.models = models
        with gr.Row(elem_classes="ask"):
            self.text = gr.Textbox(
                FIRST_TEXT,
                label="Text to read",
                lines=1,
                max_lines=3,
                max_length=2000,
                scale=4,
                min_width=260,
                elem_id="text",
            )
            self.beside = gr.Dropdown(
                [NO_SECOND_MODEL, *models.others()],
                value=NO_SECOND_MODEL,
                label="Beside it",
                filterable=False,
                scale=2,
                min_width=160,
            )
            self.button = gr.Button("Look inside", variant="primary", scale=1, min_width=120, elem_id="look")
        self.page = gr.HTML(elem_id="inside")
        self.first = (self.show, [self.text, self.beside], self.page)
        gr.on(
            [self.button.click, self.text.submit, self.beside.input],
            *self.first,
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )

    def show(self, text: str, beside: str) -> Markup:
        """The attention page of this text, or one line that says why there is none."""
        try:
            other = None if beside == NO_SECOND_MODEL else self.models.open(beside).bundle
            page = attention_page(self.models.engine.bundle, text or "", other, names=(self.models.name, beside))
        except UserError as error:
            return notice(str(error))
        return FRAME.format(page)
