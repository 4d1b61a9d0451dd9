"""Writing word by word: the likeliest next tokens as buttons; a click appends one to the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from config.schema import GenerateConfig, UserError
from generate.generate import read_prompts, seen_rows, start
from generate.sampling import filtered
from inspection.page import label
from model.checkpoint import Bundle
from model.tokenizer import END
from web.markup import Markup, joined, notice, percent, tag

SHOWN = 8


@dataclass(frozen=True)
class Story:
    """A text so far: its tokens, and as it reads. A character that lacks some of its tokens is not in `text` yet."""

    ids: list[int]
    text: str
    ended: bool = False


@torch.inference_mode()
def likeliest(bundle: Bundle, ids: list[int], settings: GenerateConfig) -> list[tuple[int, float]]:
    """The likeliest next tokens with the chance that these settings give them, likeliest first.

    Raises:
        UserError: the text fills the model's context.
    """
    draft = start(bundle, ids, settings, 0)
    logits, _ = read_prompts(bundle.model, bundle, [draft])
    allowed = bundle.vocabulary.forbid_shared(logits.float())
    scores = filtered(allowed, settings, seen_rows(bundle, [draft]))
    if settings.temperature == 0:
        scores = scores * 1e6  # all to the likeliest
    best = scores.softmax(-1)[0].topk(min(SHOWN, bundle.vocabulary.vocab_size))
    ids = bundle.vocabulary.to_gpt2(best.indices.tolist())
    return [(index, chance) for index, chance in zip(ids, best.values.tolist(), strict=True) if chance > 0]


def choices(bundle: Bundle, options: Sequence[tuple[int, float]]) -> Markup:
    """The buttons, each with a bar as long as its chance."""
    items = []
    for index, chance in options:
        word = "end here" if index == END else label(bundle.tokenizer, index)
        parts = [
            tag("span", word, class_="word end" if index == END else "word"),
            tag("span", tag("i", style=f"width: {100 * chance:.1f}%"), class_="track"),
            tag("span", percent(chance), class_="number"),
        ]
        items.append(tag("li", tag("button", *parts, type="button", data_token=index)))
    return tag("ol", *items, class_="picks")


class Picker:
    """Lays the view out and says what its buttons do.

    Args:
        bundle: the model that is asked.
        prompt: the box that holds the text.
        sampling: the controls whose values go to `settings`.
        settings: makes them a GenerateConfig.
    """

    def __init__(
        self, bundle: Bundle, prompt: gr.Textbox, sampling: list[gr.Slider], settings: Callable[..., GenerateConfig]
    ) -> None:
        self.bundle, self.settings = bundle, settings
        self.story = gr.State(Story([], ""))
        self.view = gr.HTML(elem_id="words", js_on_load="playground.picking(element, trigger)")
        back = gr.Button("Take the last one back", size="sm", elem_id="back")
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.first = (self.show, [prompt, self.story, *sampling], [self.story, self.view])
        live = {"trigger_mode": "always_last", **quiet}
        # Not `input`, and with the queue, for tab_data's reasons.
        prompt.change(self.retyped, *self.first[1:], **live)
        gr.on([control.change for control in sampling], *self.first, **live)
        both = {"inputs": self.first[1], "outputs": [prompt, self.story, self.view], "queue": False, **quiet}
        self.view.click(self.pick, **both)
        back.click(self.take_back, **both)

    def current(self, prompt: str, story: Story) -> Story:
        """The story, or a new one if the prompt was changed by hand."""
        if story.text == prompt:
            return story
        return Story(self.bundle.tokenizer.encode(prompt.rstrip()), prompt)

    def show(self, prompt: str, story: Story, *sampling: float) -> tuple[Story, Markup]:
        """The view of this prompt."""
        try:
            story = self.current(prompt or "", story)
            return story, self.draw(story, sampling)
        except UserError as error:
            return story, notice(str(error))

    def retyped(self, prompt: str, story: Story, *sampling: float) -> Any:
        """The view of this prompt; nothing if it is the story's own, which a button has just shown."""
        return gr.skip() if story.text == (prompt or "") else self.show(prompt, story, *sampling)

    def draw(self, story: Story, sampling: Sequence[float]) -> Markup:
        """The text so far and what may follow."""
        so_far = tag("p", story.text or "(nothing yet)", tag("span", class_="caret"), class_="so-far")
        if story.ended:
            copy = tag("button", "Copy", type="button", data_copy=story.text)
            return joined(
                [so_far, tag("p", f"You ended it here, after {len(story.text):,} characters.", copy, class_="notes")]
            )
        options = likeliest(self.bundle, story.ids, self.settings(*sampling))
        caption = "What may come next, with the chance that the settings give it. A dot (·) is a space."
        return joined([so_far, tag("p", caption, class_="caption"), choices(self.bundle, options)])

    def renew(self, story: Story, sampling: Sequence[float]) -> tuple[str, Story, Markup]:
        """Prompt, story and view after the story was changed."""
        try:
            return story.text, story, self.draw(story, sampling)
        except UserError as error:
            return story.text, story, notice(str(error))

    def pick(
        self,
        prompt: str,
        story: Story,
        temperature: float,
        top_k: float,
        top_p: float,
        min_p: float,
        penalty: float,
        event: gr.EventData,
    ) -> tuple[str, Story, Markup]:
        """A button was pressed: its token joins the text."""
        story, index = self.current(prompt or "", story), int(event.token)
        if index == END:
            story = Story(story.ids, story.text, ended=True)
        elif not story.ended:
            story = self.story_of([*story.ids, index])
        return self.renew(story, (temperature, top_k, top_p, min_p, penalty))

    def take_back(self, prompt: str, story: Story, *sampling: float) -> tuple[str, Story, Markup]:
        """The last token goes, or the end."""
        story = self.current(prompt or "", story)
        return self.renew(self.story_of(story.ids if story.ended else story.ids[:-1]), sampling)

    def story_of(self, ids: list[int]) -> Story:
        """The story of these tokens."""
        decoder = self.bundle.tokenizer.stream()
        return Story(ids, "".join(decoder.push(index) for index in ids))
