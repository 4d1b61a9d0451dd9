"""The tab Look inside: the attention page of any text, in a frame of its own that can reach nothing else."""

import gradio as gr

from config.schema import UserError
from inspection.page import attention_page
from web.markup import Markup, notice, tag
from web.models import ALONE, Models

EXAMPLES = ("Mars is", "The next rocket will", "I love coffee because")


class InsideTab:
    """Lays the tab out and says what its controls do."""

    def __init__(self, models: Models) -> None:
        self.models = models
        with gr.Row(elem_classes="ask"):
            self.text = gr.Textbox(
                EXAMPLES[0],
                label="Text to read",
                lines=1,
                max_lines=3,
                max_length=2000,
                scale=4,
                min_width=260,
                elem_id="text",
            )
            self.beside = gr.Dropdown(
                [ALONE, *models.others()], value=ALONE, label="Beside it", filterable=False, scale=2, min_width=160
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
        """The page about this text; one line if it can't be made."""
        try:
            other = None if beside == ALONE else self.models.open(beside).bundle
            page = attention_page(self.models.engine.bundle, text or "", other, names=(self.models.name, beside))
        except UserError as error:
            return notice(str(error))
        return tag("iframe", title="Inside the model", sandbox="allow-scripts", srcdoc=page, class_="inside")
