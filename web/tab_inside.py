"""The tab Look inside: the tokens of any text as one types, and how the model reads them, as the attention page.

The page stands in a frame that is isolated from the rest; it tells its height, so that only one thing scrolls.
"""

import gradio as gr
from markupsafe import Markup

from config.schema import UserError
from inspection.attention import with_gpt
from inspection.page import attention_page, token_label
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from web.controls import second_model
from web.models import NO_SECOND_MODEL, Models
from web.templates import notice, public, render

FIRST_TEXT = "Mars is"
FRAME = Markup('<iframe title="Inside the model: {}" sandbox="allow-scripts" srcdoc="{}" class="inside"></iframe>')


def tokens_view(bundle: Bundle[LanguageModel], text: str) -> Markup:
    """The tokens of a text with their ids; those that have no vocabulary entry of their own are dashed."""
    try:
        ids = bundle.tokenizer.encode(text)
    except UserError as error:
        return notice(str(error))
    shared = bundle.vocabulary.is_shared[bundle.vocabulary.from_gpt2(ids)].tolist() if ids else []
    tokens = [(i, token_label(bundle.tokenizer, i), unseen) for i, unseen in zip(ids, shared, strict=True)]
    caption = f"{len(ids):,} tokens, {len(text):,} characters, {len(text.encode()):,} bytes"
    if any(shared):
        caption += f"; {sum(shared):,} dashed: not in the training tweets, so the model can't tell them apart"
    return render("tokens.html", tokens=tokens, caption=caption)


class InsideTab:
    """The tab's layout, and what its controls do."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.lay_out()
        self.page = gr.HTML(elem_id="inside")
        self.first = (self.show, [self.text, self.beside], self.page)
        gr.on(
            [self.button.click, self.text.submit, self.beside.input],
            *self.first,
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )
        # Not `input`: it may fire before the box has its new value, and send the text without its last letter.
        # With the queue: without it, two requests sent at once may be answered in any order.
        self.text.change(
            lambda text: tokens_view(models.engine.bundle, text or ""),
            self.text,
            self.chips,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )

    def lay_out(self) -> None:
        """The text, the other model, the button, and the tokens."""
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
            self.beside = second_model(self.models, "")
            self.button = gr.Button("Look inside", variant="primary", scale=1, min_width=120, elem_id="look")
        self.chips = gr.HTML(tokens_view(self.models.engine.bundle, FIRST_TEXT), elem_id="chips")

    def show(self, text: str, beside: str) -> Markup:
        """The attention page of this text, or one line that says why there is none."""
        try:
            bundle, other = with_gpt(self.models.engine.bundle, self.models.name), None
            if beside != NO_SECOND_MODEL:
                other = with_gpt(self.models.open(beside).bundle, beside)
            page = attention_page(bundle, text or "", other, names=(self.models.name, beside))
        except UserError as error:
            return notice(public(str(error), self.models.paths))
        return FRAME.format((text or "").strip()[:80], page)
