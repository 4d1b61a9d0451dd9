"""The view Word by word: the likeliest next tokens as buttons; a click appends one to the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from markupsafe import Markup

from config.schema import GenerateConfig, UserError
from generate.drafts import read_prompts, seen_ids, start
from generate.sampling import filtered
from inspection.page import token_label
from model.checkpoint import Bundle
from model.tokenizer import END, Tokenizer
from web.templates import notice, render

CHOICES_SHOWN = 8


@dataclass(frozen=True)
class PickedText:
    """GPT-2 ids picked so far, and their text. A character is not in `text` while some of its tokens are missing."""

    ids: list[int]
    text: str
    ended: bool = False


@torch.inference_mode()
def likeliest(bundle: Bundle, ids: list[int], settings: GenerateConfig) -> list[tuple[int, float]]:
    """The likeliest next tokens (GPT-2 ids) and their probabilities under these settings, the likeliest first.

    Raises:
        UserError: the text fills the model's context.
    """
    draft = start(bundle, ids, settings, 0)
    logits, _ = read_prompts(bundle.model, bundle, [draft])
    allowed = bundle.vocabulary.forbid_shared(logits.float())
    scores = filtered(allowed, settings, seen_ids(bundle, [draft]))
    if settings.temperature == 0:
        scores = scores * 1e6  # all probability goes to the likeliest
    best = scores.softmax(-1)[0].topk(min(CHOICES_SHOWN, bundle.vocabulary.vocab_size))
    ids = bundle.vocabulary.to_gpt2(best.indices.tolist())
    return [(index, chance) for index, chance in zip(ids, best.values.tolist(), strict=True) if chance > 0]


def choices_view(tokenizer: Tokenizer, picked: PickedText, options: Sequence[tuple[int, float]]) -> Markup:
    """The text so far, and a button for each of the options (GPT-2 id, probability)."""
    choices = [(i, "end here" if i == END else token_label(tokenizer, i), chance) for i, chance in options]
    return render("choices.html", text=picked.text, ended=picked.ended, choices=choices, end=END)


class Picker:
    """The view's layout, and what its buttons do.

    Args:
        bundle: the model.
        prompt: the box that holds the text.
        sampling: the controls of the sampling settings.
        settings: makes a GenerateConfig of their values.
    """

    def __init__(
        self, bundle: Bundle, prompt: gr.Textbox, sampling: list[gr.Slider], settings: Callable[..., GenerateConfig]
    ) -> None:
        self.bundle, self.settings = bundle, settings
        self.picked = gr.State(PickedText([], ""))
        self.view = gr.HTML(elem_id="words", js_on_load="playground.picking(element, trigger)")
        back = gr.Button("Take the last one back", size="sm", elem_id="back")
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.first = (self.show, [prompt, self.picked, *sampling], [self.picked, self.view])
        live = {"trigger_mode": "always_last", **quiet}
        # Not `input`, and with the queue: see the reasons in tab_data.py.
        prompt.change(self.retyped, *self.first[1:], **live)
        gr.on([control.change for control in sampling], *self.first, **live)
        both = {"inputs": self.first[1], "outputs": [prompt, self.picked, self.view], "queue": False, **quiet}
        self.view.click(self.pick, **both)
        back.click(self.take_back, **both)

    def current(self, prompt: str, picked: PickedText) -> PickedText:
        """The picked text, or the prompt's own tokens if it was changed by hand."""
        if picked.text == prompt:
            return picked
        return PickedText(self.bundle.tokenizer.encode(prompt.rstrip()), prompt)

    def show(self, prompt: str, picked: PickedText, *sampling: float) -> tuple[PickedText, Markup]:
        """The view of this prompt."""
        try:
            picked = self.current(prompt or "", picked)
        except UserError as error:
            return picked, notice(str(error))
        return picked, self.view_of(picked, sampling)

    def retyped(self, prompt: str, picked: PickedText, *sampling: float) -> Any:
        """The view of this prompt; nothing if a button has set it, because its view is shown already."""
        return gr.skip() if picked.text == (prompt or "") else self.show(prompt, picked, *sampling)

    def view_of(self, picked: PickedText, sampling: Sequence[float]) -> Markup:
        """The text so far and the choices, or one line that says why there are none."""
        try:
            options = [] if picked.ended else likeliest(self.bundle, picked.ids, self.settings(*sampling))
        except UserError as error:
            return notice(str(error))
        return choices_view(self.bundle.tokenizer, picked, options)

    def pick(
        self,
        prompt: str,
        picked: PickedText,
        temperature: float,
        top_k: float,
        top_p: float,
        min_p: float,
        penalty: float,
        event: gr.EventData,
    ) -> tuple[str, PickedText, Markup]:
        """Append the token of the button that was pressed."""
        picked, index = self.current(prompt or "", picked), int(event.token)
        if index == END:
            picked = PickedText(picked.ids, picked.text, ended=True)
        elif not picked.ended:
            picked = self.decoded([*picked.ids, index])
        return picked.text, picked, self.view_of(picked, (temperature, top_k, top_p, min_p, penalty))

    def take_back(self, prompt: str, picked: PickedText, *sampling: float) -> tuple[str, PickedText, Markup]:
        """Remove the last token, or the end."""
        picked = self.current(prompt or "", picked)
        picked = self.decoded(picked.ids if picked.ended else picked.ids[:-1])
        return picked.text, picked, self.view_of(picked, sampling)

    def decoded(self, ids: list[int]) -> PickedText:
        """The text of these tokens."""
        decoder = self.bundle.tokenizer.stream()
        return PickedText(ids, "".join(decoder.push(index) for index in ids))
