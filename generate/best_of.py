"""Which of several texts to keep: `generate.best_of` candidates are written for each, and the best one is shown.

The best candidate is the one with the highest mean log-probability of a token, under the model itself at temperature 1,
as in OpenAI's `best_of`. Three things count before that, in this order:

1. It is fit to show: it has a letter, does not begin with a space, and is no longer than a tweet (280 characters).
2. It is no copy of a training tweet.
3. It has at least three words, without those of the prompt: the likeliest way to go on with "The future of" is a word,
   and four of five tweets would be the same.

So there is always a best one, even if no candidate has all three. A text without a letter is never shown: more
candidates are written then, up to MOST.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from config.schema import GenerateConfig
from generate.copies import CopyCheck
from generate.drafts import Draft
from model.tokenizer import END, Tokenizer
from utils.scripts import WORD, units, weight

TWEET = 280  # characters that X allows
MIN_WORDS = 3
MOST = 20  # candidates of one text, if none has a letter


@dataclass(frozen=True)
class Sample:
    """One written text.

    Attributes:
        prompt: the given text.
        text: prompt and continuation.
        ids: GPT-2 token ids of the text, without end marks; those of the whole text where `text` is cut.
        finish_reason: "stop" if it ended by itself or at a stop string, "length" if it was cut.
        tokens: number of new tokens, with the end mark.
        novel: whether it is not copied from the training tweets; None if there were none to compare with.
        seed: gives the same text again, with the same prompt, settings and device.
        mean_logprob: mean log-probability (natural log) of the new tokens, under the model at temperature 1; None if
            it was not counted, because `best_of` was 1.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: str
    tokens: int
    novel: bool | None
    seed: int
    mean_logprob: float | None = field(default=None, compare=False)  # its last digits depend on the texts beside it

    @property
    def added(self) -> str:
        """The text after the prompt."""
        return self.text.removeprefix(self.prompt.rstrip())

    @property
    def has_letter(self) -> bool:
        """Whether there is a letter in it: without one, people are not shown it."""
        return any(character.isalpha() for character in self.text)


def finish(draft: Draft, tokenizer: Tokenizer, copies: CopyCheck | None) -> Sample:
    """The Sample of a Draft that is done."""
    ids = draft.ids + [index for index in draft.new if index != END]
    tail = tokenizer.decode(ids[len(draft.ids) :]).replace("\ufffd", "")  # \ufffd: half a character
    text = tokenizer.decode(draft.ids) + tail[: draft.cut]
    return Sample(
        prompt=draft.prompt,
        text=text,
        ids=ids,
        finish_reason=draft.done,
        tokens=len(draft.new),
        novel=None if copies is None else not copies.is_copy(text),
        seed=draft.seed,
        mean_logprob=draft.logprob / len(draft.new) if draft.sampling.best_of > 1 and draft.new else None,
    )


def next_candidates(settings: GenerateConfig, written: Sequence[Sample]) -> range:
    """Numbers of the candidates of one text to write next: first `best_of`, and more while none has a letter."""
    number = settings.best_of if settings.temperature > 0 else 1  # at temperature 0 all would be the same
    if not written:
        return range(number)
    if settings.temperature == 0 or any(sample.has_letter for sample in written):
        return range(0)
    return range(len(written), min(MOST, len(written) + number))


def best_first(samples: Sequence[Sample]) -> list[Sample]:
    """The candidates of one text, the best one first; see the top of this file."""
    return sorted(samples, key=merit, reverse=True)


def merit(sample: Sample) -> tuple[bool, bool, bool, bool, float]:
    """A larger one is better."""
    words = sum(map(weight, units(sample.added))) / WORD
    return (
        sample.has_letter,
        sample.text == fit(sample).text,
        sample.novel is not False,
        words >= MIN_WORDS,
        sample.mean_logprob or 0.0,
    )


def fit(sample: Sample) -> Sample:
    """The sample as people see it: without a space at its beginning, cut after the last word that a tweet has room for.

    A prompt that is itself longer than a tweet, or begins with a space, stays as it was given.
    """
    text = sample.text if sample.prompt.strip() else sample.text.lstrip()
    room = max(TWEET, len(sample.prompt.rstrip()))
    if len(text) <= room:
        return replace(sample, text=text)
    cut = text.rfind(" ", 0, room + 1)
    return replace(sample, text=text[: cut if cut > len(sample.prompt) else room].rstrip(), finish_reason="length")
