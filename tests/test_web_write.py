"""The tab Write by its parts: cards, seeds, moods, the choices of the view Word by word."""

import re
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest
import torch

from config.schema import Config, GenerateConfig, UserError
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END, load_tokenizer
from server.engine import Engine
from tests.serving import Playground, built, data_of
from utils.preprocess import load_processed
from web.controls import LARGEST_SEED, first_seed, mood_temperatures
from web.models import NO_SECOND_MODEL, Models
from web.tab_pick import CHOICES_SHOWN, PickedText, choices_view, likeliest
from web.tab_write import WriteTab, stream_cards, submit_columns

# Gradio still uses what pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated")


@pytest.fixture(scope="module")
def config(playground: Playground) -> Config:
    return playground.config


@pytest.fixture(scope="module")
def engine(playground: Playground) -> Engine:
    return playground.engine


@pytest.fixture(scope="module")
def tab(engine: Engine, config: Config) -> WriteTab:
    return built(lambda: WriteTab(Models(engine, config), config.generate))


def test_the_cards_are_what_generate_writes(engine: Engine, config: Config, trained: tuple[Config, Bundle]) -> None:
    settings = replace(config.generate, num_samples=4, seed=11)
    pictures = list(stream_cards(submit_columns(Models(engine, config), "student", "The rocket ", settings)))
    expected = generate(trained[1], ["The rocket "], settings)
    written = data_of(pictures[-1])
    assert [sample["model"] for sample in written] == ["best_model"] * 4 + ["student"] * 4
    for first in (0, 4):  # the student is the same model here
        assert [sample["text"] for sample in written[first : first + 4]] == [sample.text for sample in expected]
    assert [sample["seed"] for sample in written] == [11, 12, 13, 14] * 2
    assert pictures[0].count("writing") >= 8 and data_of(pictures[0]) == [] and "card writing" not in pictures[-1]
    reasons = [
        re.sub("<[^>]+>", "", line) for line in re.findall(r'<span class="(?:stop|length)">.*?</span>', pictures[-1])
    ]
    names = {"stop": "ended by itself", "length": "cut at the length limit"}
    assert reasons == [names[sample.finish_reason] for sample in expected] * 2


def test_a_copy_is_marked_with_the_rule_that_found_it(engine: Engine, config: Config) -> None:
    tweets = [tweet.text for tweet in load_processed(config.paths).train]
    whole = next(text for text in tweets if len(text.split()) > 12)
    settings = replace(config.generate, num_samples=1, max_new_tokens=1)
    for prompt, rule in ((whole, ""), (" ".join(whole.split()[:10]), "8 words in a row of a training tweet")):
        *_, last = stream_cards(submit_columns(Models(engine, config), NO_SECOND_MODEL, prompt, settings))
        assert 'class="card known"' in last and "copied: " in last and rule in last
        assert "word for word (ignoring case and punctuation), or has 8 words in a row" in last
    copies = engine.copies
    assert copies is not None and copies.how(whole.upper()) == "a training tweet, word for word"
    assert copies.how("None of these words, ever") == ""


def written(tab: WriteTab, **changes: Any) -> list[tuple[Any, ...]]:
    """What the button Write makes of these values: (visit, seed, message, cards, earlier cards), again and again."""
    sampling = (0.8, 0, 0.95, 0.0, 1.0)
    given = {"visit": [], "prompt": "a", "number": 1, "keep": True, "seed": 3, "beside": NO_SECOND_MODEL, **changes}
    return list(tab.write(*given.values(), *sampling))


def is_skip(value: Any) -> bool:
    return "__type__" in str(value) and "<" not in str(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a " * 200}, "the prompt has 200 tokens"),
        ({"beside": "gone"}, "there is no model"),
        ({"number": 20}, "waiting already"),
        ({"seed": None}, "the seed is empty: give a whole number"),
        ({"seed": -1}, "the seed is -1: give a whole number"),
        ({"seed": 2**31}, "the seed is 2147483648: give a whole number from 0 to 2,147,483,647"),
    ],
)
def test_what_cant_be_written_is_told_in_one_line_and_the_tweets_stay(
    tab: WriteTab, changes: dict[str, Any], message: str
) -> None:
    ((visit, seed, line, cards, earlier),) = written(tab, **changes)
    assert message in line and line.startswith('<p class="notice"')
    assert all(is_skip(value) for value in (visit, seed, cards, earlier))
    assert "card" in written(tab)[-2][3]  # nothing was left behind in the queue


def test_a_visit_is_remembered_the_newest_first(tab: WriteTab) -> None:
    first = written(tab, prompt="One", number=2)
    second = written(tab, visit=first[-1][0], prompt="Two")
    assert [card.sample.prompt for card in second[-1][0]] == ["Two", "One", "One"]
    assert first[0][4] == "" and [sample["prompt"] for sample in data_of(second[0][4])] == ["One", "One"]
    assert "Earlier in this visit" in second[0][4] and "seed 4" in second[0][4]


def test_the_seed_is_new_each_time_unless_it_is_kept(tab: WriteTab) -> None:
    seeds = [written(tab, keep=False, seed=5)[0][1] for _ in range(4)]
    assert len(set(seeds)) > 1
    assert first_seed(5, True) == 5 and first_seed(LARGEST_SEED, True) == LARGEST_SEED
    shown = written(tab, keep=False, number=2)
    assert f"seed {shown[0][1] + 1}" in shown[-2][3]


@pytest.mark.parametrize("usual", [0.3, 0.8, 1.0, 1.3])
def test_safe_is_cooler_than_wild(usual: float) -> None:
    moods = mood_temperatures(usual)
    assert list(moods) == ["Safe", "Normal", "Wild"] and moods["Normal"] == usual
    assert moods["Safe"] < moods["Normal"] <= moods["Wild"] <= 1.3


def test_what_is_not_there_can_not_be_saved(tab: WriteTab) -> None:
    assert tab.cards.value.count("disabled") == 3
    frames = [frame[3] for frame in written(tab) if not is_skip(frame[3])]
    assert frames[0].count("disabled") == 3 and "disabled" not in frames[-1]


def test_a_reader_who_leaves_gives_the_places_up(engine: Engine, config: Config) -> None:
    before = engine.stats()["cancelled"]
    settings = replace(config.generate, num_samples=20, best_of=1)
    pictures = stream_cards(submit_columns(Models(engine, config), NO_SECOND_MODEL, "", settings))
    next(pictures)
    pictures.close()  # type: ignore[attr-defined]
    assert engine.stats()["cancelled"] > before


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_choices_are_the_models_probabilities(
    trained: tuple[Config, Bundle], config: Config, temperature: float
) -> None:
    bundle = trained[1]
    settings = replace(config.generate, temperature=temperature, top_p=1.0)
    ids = bundle.tokenizer.encode("The dog")
    found = likeliest(bundle, ids, settings)
    with torch.no_grad():
        logits = bundle.model(bundle.vocabulary.from_gpt2([END, *ids])[None])[0, -1]
    own = ~bundle.vocabulary.is_shared
    chances = (logits[own] / temperature).softmax(-1)
    expected = chances.sort(descending=True).values[:CHOICES_SHOWN]
    assert [chance for _, chance in found] == pytest.approx(expected.tolist(), rel=1e-4)
    for index, chance in found:
        place = bundle.vocabulary.gpt2_ids[own].tolist().index(index)
        assert float(chances[place]) == pytest.approx(chance, rel=1e-4)


def test_settings_show_in_the_choices_and_others_can_still_be_picked(
    trained: tuple[Config, Bundle], config: Config
) -> None:
    def ask(**changes: Any) -> list[tuple[int, float]]:
        settings: GenerateConfig = replace(config.generate, **changes)
        return likeliest(trained[1], [], settings)

    all_of_them = [index for index, _ in ask(temperature=1.0, top_p=1.0)]
    for changes, kept in (({"top_k": 3}, 3), ({"temperature": 0.0}, 1)):
        found = ask(**changes)
        assert [index for index, _ in found] == all_of_them
        assert sum(chance for _, chance in found[:kept]) == pytest.approx(1)
        assert [chance for _, chance in found[kept:]] == [0.0] * (CHOICES_SHOWN - kept)
    view = choices_view(trained[1].tokenizer, PickedText([], ""), [(END, 1.0), (11, 0.0)], "")
    assert "end here" in view and 'data-token="11"' in view and "you can still pick them" in view
    with pytest.raises(UserError, match="shorten"):
        likeliest(trained[1], [1] * 500, config.generate)


def test_picked_pieces_become_characters_and_the_end_ends(tab: WriteTab) -> None:
    picker = tab.picker
    prompt, story, sampling = "Go", PickedText([], ""), (0.8, 0, 1.0, 0.0, 1.0)
    texts = []
    for index in load_tokenizer().encode(" <b>🚀"):
        prompt, story, view = picker.pick(prompt, story, *sampling, gr.EventData(None, {"token": index}))
        texts.append(prompt)
    assert texts == ["Go <", "Go <b", "Go <b>", "Go <b>", "Go <b>", "Go <b>🚀"] and "Go &lt;b&gt;🚀" in view
    prompt, story, view = picker.pick(prompt, story, *sampling, gr.EventData(None, {"token": END}))
    assert prompt == "Go <b>🚀" and "You ended it here, after 7 characters" in view and "data-token" not in view
    prompt, story, view = picker.take_back(prompt, story, *sampling)
    assert prompt == "Go <b>🚀" and "data-token" in view
    assert picker.take_back(prompt, story, *sampling)[0] == "Go <b>"
    assert "shorten" in picker.show("a " * 200, story, *sampling)[1]


def test_starting_over_goes_back_to_what_was_typed(tab: WriteTab) -> None:
    picker, sampling = tab.picker, (0.8, 0, 1.0, 0.0, 1.0)
    prompt, story, _ = picker.pick("Go", PickedText([], ""), *sampling, gr.EventData(None, {"token": 11}))
    prompt, story, _ = picker.pick(prompt, story, *sampling, gr.EventData(None, {"token": END}))
    assert prompt == "Go," and story.ended
    prompt, story, view = picker.start_over(prompt, story, *sampling)
    assert prompt == "Go" and not story.ended and "data-token" in view
    prompt, story, view = picker.start_over(prompt, story, *sampling)
    assert prompt == "" and story.ids == [] and "data-token" in view


def test_it_finishes_a_tweet_and_a_copy_is_marked(tab: WriteTab, config: Config) -> None:
    picker, sampling = tab.picker, (0.8, 0, 0.95, 0.0, 1.0)
    tweet = next(tweet.text for tweet in load_processed(config.paths).train if len(tweet.text.split()) > 10)
    prompt, story, view = picker.finish(tweet, PickedText([], ""), *sampling)
    assert prompt.startswith(tweet) and story.text == prompt and story.ended
    assert "copied: " in view and "data-token" not in view and f"after {len(prompt):,} characters" in view
    assert picker.finish(prompt, story, *sampling)[0] == prompt  # it is finished already
    prompt, story, view = picker.take_back(prompt, story, *sampling)
    assert not story.ended and "data-token" in view
    assert "shorten" in picker.finish("a " * 200, PickedText([], ""), *sampling)[2]
