"""The view Word by word: the likeliest next tokens as buttons; a click appends one to the prompt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import torch
from markupsafe import Markup

from config.schema import GenerateConfig, UserError
from generate.copies import RULES
from generate.drafts import read_prompts, seen_ids, start
from generate.sampling import filtered
from inspection.page import token_label
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from model.tokenizer import END, Tokenizer
from server.best_text import BestText
from server.engine import Engine, QueueFull
from web.controls import SEEDS, Controls
from web.templates import notice, render

CHOICES_SHOWN = 8


@dataclass(frozen=True)
class PickedText:
    """GPT-2 ids picked so far, and their text. A character is not in `text` while some of its tokens are missing.

    Attributes:
        typed: the text as it was typed, before anything was picked.
        ended: "" while it goes on, else how it ended, in words.
    """

    ids: list[int]
    text: str
    typed: str = ""
    ended: str = ""


@torch.inference_mode()
def likeliest(bundle: Bundle[LanguageModel], ids: list[int], settings: GenerateConfig) -> list[tuple[int, float]]:
    """The likeliest next tokens (GPT-2 ids) and their probabilities under these settings, the likeliest first.

    Where the settings leave less than CHOICES_SHOWN of them, the model's next ones follow with a probability of 0, so
    that there is always another choice than the end.

    Raises:
        UserError: the text fills the model's context.
    """
    draft = start(bundle, ids, settings, 0)
    logits, _ = read_prompts(bundle.model, bundle, [draft])
    allowed = bundle.vocabulary.forbid_shared(logits.float())
    scores = filtered(allowed, settings, seen_ids(bundle, [draft]))
    if settings.temperature == 0:
        scores = scores * 1e6  # all probability goes to the likeliest
    chances = scores.softmax(-1)[0]
    count = min(CHOICES_SHOWN, int((~bundle.vocabulary.is_shared).sum()))
    kept = [index for index in chances.topk(count).indices.tolist() if chances[index] > 0]
    order = allowed[0].argsort(descending=True)[: 2 * count].tolist()
    shown = [*kept, *(index for index in order if index not in kept)][:count]
    numbers = bundle.vocabulary.to_gpt2(shown)
    return [(number, float(chances[index])) for number, index in zip(numbers, shown, strict=True)]


def choices_view(tokenizer: Tokenizer, picked: PickedText, options: Sequence[tuple[int, float]], mark: str) -> Markup:
    """The text so far, and a button for each of the options (GPT-2 id, probability); or how it ended.

    Args:
        mark: in what way the text is copied; "" if in none.
    """
    choices = [(i, "end here" if i == END else token_label(tokenizer, i), chance) for i, chance in options]
    return render("choices.html", picked=picked, choices=choices, end=END, mark=mark, rules=RULES)


class Picker:
    """The view's layout, and what its buttons do.

    Args:
        engine: of the model.
        prompt: the box that holds the text.
        controls: the sampling settings.
    """

    def __init__(self, engine: Engine, prompt: gr.Textbox, controls: Controls) -> None:
        self.engine, self.bundle, self.controls = engine, engine.bundle, controls
        self.picked = gr.State(PickedText([], ""))
        self.view = gr.HTML(elem_id="words", js_on_load="playground.picking(element, trigger)")
        with gr.Row():
            back = gr.Button("Take the last one back", size="sm", min_width=120, elem_id="back")
            finish = gr.Button("Let it finish", size="sm", min_width=120, elem_id="finish")
            again = gr.Button("Start over", size="sm", min_width=120, elem_id="again")
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        sampling = controls.sampling
        self.first = (self.show, [prompt, self.picked, *sampling], [self.picked, self.view])
        live = {"trigger_mode": "always_last", **quiet}
        # Not `input`, and with the queue: see the reasons in tab_inside.py.
        prompt.change(self.retyped, *self.first[1:], **live)
        gr.on([control.change for control in sampling], *self.first, **live)
        both = {"inputs": self.first[1], "outputs": [prompt, self.picked, self.view], "queue": False, **quiet}
        self.view.click(self.pick, **both)
        back.click(self.take_back, **both)
        finish.click(self.finish, **both)
        again.click(self.start_over, **both)

    def current(self, prompt: str, picked: PickedText) -> PickedText:
        """The picked text, or the prompt's own tokens if it was changed by hand."""
        if picked.text == prompt:
            return picked
        return PickedText(self.bundle.tokenizer.encode(prompt.rstrip()), prompt, prompt)

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
            options = [] if picked.ended else likeliest(self.bundle, picked.ids, self.controls.settings(*sampling))
        except UserError as error:
            return notice(str(error))
        copies = self.engine.copies
        mark = copies.how(picked.text) if copies and picked.ended else ""
        return choices_view(self.bundle.tokenizer, picked, options, mark)

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
            picked = replace(picked, ended="You ended it here")
        elif not picked.ended:
            picked = self.with_ids(picked, [*picked.ids, index])
        return picked.text, picked, self.view_of(picked, (temperature, top_k, top_p, min_p, penalty))

    def take_back(self, prompt: str, picked: PickedText, *sampling: float) -> tuple[str, PickedText, Markup]:
        """Remove the last token, or the end."""
        picked = self.current(prompt or "", picked)
        picked = self.with_ids(picked, picked.ids if picked.ended else picked.ids[:-1])
        return picked.text, picked, self.view_of(picked, sampling)

    def start_over(self, prompt: str, picked: PickedText, *sampling: float) -> tuple[str, PickedText, Markup]:
        """Go back to the text as it was typed; to no text at all if nothing was picked since."""
        picked = self.current(prompt or "", picked)
        typed = "" if picked.text == picked.typed and not picked.ended else picked.typed
        picked = self.current(typed, PickedText([], ""))
        return picked.text, picked, self.view_of(picked, sampling)

    def finish(self, prompt: str, picked: PickedText, *sampling: float) -> tuple[str, PickedText, Markup]:
        """Let the model write the rest, with a new seed."""
        picked = self.current(prompt or "", picked)
        if picked.ended:
            return picked.text, picked, self.view_of(picked, sampling)
        try:
            settings = self.controls.settings(*sampling)
            written = BestText(self.engine, picked.ids, settings, seed=random.randrange(SEEDS)).result()
        except (UserError, QueueFull) as error:
            return picked.text, picked, notice(str(error))
        how = "The model ended it here" if written.finish_reason == "stop" else "It was cut at the length limit"
        picked = replace(picked, ids=written.ids, text=written.text, ended=how)
        return picked.text, picked, self.view_of(picked, sampling)

    def with_ids(self, picked: PickedText, ids: list[int]) -> PickedText:
        """The same with other tokens, and not ended."""
        decoder = self.bundle.tokenizer.stream()
        return replace(picked, ids=ids, text="".join(decoder.push(index) for index in ids), ended="")
