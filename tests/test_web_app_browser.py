"""The playground as a whole: its page in a real browser, in front of a real server."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from config.schema import Config
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END
from tests.serving import NASTY, Playground, playground_at
from web.tab_pick import likeliest

# Gradio still uses what pandas is about to drop.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"),
]

CSS_TOKENS = ".picks button[data-token]"


@pytest.fixture(scope="module")
def config(playground: Playground) -> Config:
    return playground.config


@pytest.fixture(scope="module")
def address(playground: Playground) -> Iterator[str]:
    with playground_at(playground) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end there must be no complaint, no dialog, and no request to another host."""
    heard: list[str] = []

    def refuse(dialog: Dialog) -> None:
        heard.append(dialog.message)
        dialog.dismiss()

    def visit(**settings: Any) -> Page:
        page = browser.new_context(**settings).new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", refuse)
        page.on("request", lambda request: heard.extend(foreign(request.url, address)))
        page.on(
            "response", lambda answer: heard.append(f"{answer.status} {answer.url}") if answer.status > 399 else None
        )
        page.goto(address)
        expect(page.get_by_role("button", name="Write", exact=True)).to_be_visible(timeout=15_000)
        return page

    yield visit
    for context in browser.contexts:
        context.close()
    assert heard == []


def foreign(url: str, address: str) -> list[str]:
    """The URL, if a request to it leaves this server."""
    return [] if url.startswith((address, "data:", "blob:", "about:")) else [url]


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_tweets_appear_while_they_are_written(
    visit: Callable[..., Page], trained: tuple[Config, Bundle], config: Config
) -> None:
    page = visit()
    watch = "new MutationObserver(() => document.querySelectorAll('.card').forEach((card) => seen.add(card.className)))"
    page.evaluate(f"window.seen = new Set(); {watch}.observe(document.body, {{subtree: true, childList: true}})")
    page.get_by_label("Safe").check()
    page.locator("#more .label-wrap").click()
    expect(page.locator("#temperature input[type=number]")).to_have_value("0.5")
    page.get_by_label("Seed", exact=True).fill("7")
    expect(page.get_by_label("Keep this seed")).to_be_checked()
    page.get_by_label("Beginning of the tweet").fill("The rocket")
    page.keyboard.press("Enter")
    expect(page.locator("#cards .card:not(.writing)")).to_have_count(3)
    expected = generate(trained[1], ["The rocket"], replace(config.generate, temperature=0.5, seed=7))
    assert page.locator(".card .text").all_text_contents() == [sample.text for sample in expected]
    for number, notes in enumerate(page.locator(".card .notes").all_inner_texts()):
        assert re.search(r"\d+ characters\s+(ended by itself|cut at the length limit)\s+", notes), notes
        assert f"seed {7 + number}" in notes
    assert "card writing" in page.evaluate("[...seen]")
    heard = page.locator(".heard p").all_text_contents()
    assert sorted(heard) == sorted(sample.text for sample in expected)


def test_each_press_has_a_new_seed_and_the_visit_is_kept(visit: Callable[..., Page]) -> None:
    page = visit()
    expect(page.locator(".tools button:disabled")).to_have_count(3)
    prompt = page.get_by_label("Beginning of the tweet")
    prompt.press_sequentially("One")
    page.keyboard.press("Shift+Enter")
    expect(prompt).to_have_value("One\n")
    expect(page.locator(".card")).to_have_count(0)
    page.locator(".example").first.click()
    chosen = page.locator(".example").first.get_attribute("data-prompt") or ""
    expect(prompt).to_have_value(chosen)
    for earlier in (0, 3, 6):
        page.keyboard.press("Enter")
        expect(page.locator("#earlier .card")).to_have_count(earlier)
        expect(page.locator("#cards .card:not(.writing)")).to_have_count(3)
        expect(page.locator("#cards .card.writing")).to_have_count(0)
    assert all(text.startswith(chosen) for text in page.locator(".card .text").all_text_contents())
    seeds = re.findall(r"seed (\d+)", " ".join(page.locator(".card .notes").all_inner_texts()))
    assert len(set(seeds)) > 3  # 9, but for a chance of one in 100,000


def test_a_seed_that_is_none_gets_one_line_and_the_tweets_stay(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#cards .card:not(.writing)")).to_have_count(3)
    before = page.locator(".card .text").all_text_contents()
    page.locator("#more .label-wrap").click()
    page.get_by_label("Keep this seed").check()
    for value, found in (("", "empty"), ("-3", "-3"), ("99999999999", "99999999999")):
        page.get_by_label("Seed", exact=True).fill(value)
        page.get_by_role("button", name="Write", exact=True).click()
        expect(page.locator("#message .notice")).to_contain_text(f"the seed is {found}")
        assert page.locator(".card .text").all_text_contents() == before
    assert page.locator(".heard p").last.inner_text().startswith("the seed is 99999999999")
    page.get_by_label("Keep this seed").uncheck()
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#earlier .card")).to_have_count(3)
    expect(page.locator("#message .notice")).to_have_count(0)


def test_two_models_side_by_side(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_label("Compare with").first.click()
    page.get_by_role("option", name="student").click()
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator(".card:not(.writing)")).to_have_count(6)
    assert page.locator("#cards h3").all_inner_texts() == ["best_model", "student"]
    texts = page.locator(".card .text").all_text_contents()
    assert texts[:3] == texts[3:]  # the same weights, the same seed


def test_without_a_second_model_there_is_nothing_to_compare_with(visit: Callable[..., Page], config: Config) -> None:
    student = config.paths.checkpoints / "student.pth"
    hidden = student.rename(student.with_suffix(".hidden"))
    try:
        page = visit()
        expect(page.get_by_text("Compare with")).to_have_count(0)
        open_tab(page, "Look inside")
        expect(page.frame_locator("iframe.inside").locator(".chip").first).to_be_visible()
        expect(page.get_by_text("Compare with")).to_have_count(0)
    finally:
        hidden.rename(student)


def test_words_are_chosen_by_hand(visit: Callable[..., Page], trained: tuple[Config, Bundle], config: Config) -> None:
    page = visit()
    prompt = page.get_by_label("Beginning of the tweet")
    prompt.press_sequentially("The dog")
    open_tab(page, "Word by word")
    tokenizer = trained[1].tokenizer
    ids = tokenizer.encode("The dog")

    def shown(ids: list[int]) -> list[int]:
        options = [index for index, _ in likeliest(trained[1], ids, config.generate)]
        buttons = f"[...document.querySelectorAll('{CSS_TOKENS}')].map((button) => Number(button.dataset.token))"
        page.wait_for_function(f"String({buttons}) === '{','.join(map(str, options))}'")
        return options

    for place in (1, 0, 2):
        options = shown(ids)
        chosen = next(index for index in options[place:] if index != END)
        page.locator(f'[data-token="{chosen}"]').focus()
        page.keyboard.press("Enter")
        ids = [*ids, chosen]
        expect(prompt).to_have_value(tokenizer.decode(ids).rstrip("\ufffd"))
    page.get_by_role("button", name="Take the last one back").click()
    expect(prompt).to_have_value(tokenizer.decode(ids[:-1]).rstrip("\ufffd"))
    shown(ids[:-1])
    page.get_by_role("button", name="Let it finish").click()
    expect(page.locator("#words .notes")).to_contain_text(re.compile("ended it here|cut at the length limit"))
    expect(prompt).to_have_value(re.compile(re.escape(tokenizer.decode(ids[:-1]))))
    page.get_by_role("button", name="Start over").click()
    expect(prompt).to_have_value("The dog")
    shown(tokenizer.encode("The dog"))
    prompt.fill("")
    prompt.press_sequentially("Cats 🚀")
    shown(tokenizer.encode("Cats 🚀"))


def test_what_was_written_can_be_copied_and_saved(visit: Callable[..., Page]) -> None:
    page = visit(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Beginning of the tweet").fill(NASTY)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator(".card:not(.writing)")).to_have_count(3)
    texts = page.locator(".card .text").all_text_contents()
    assert all(text.startswith(NASTY) for text in texts) and page.locator("#cards img, #cards script").count() == 0
    with page.expect_download() as text:
        page.get_by_role("button", name="Save as text").click()
    assert text.value.suggested_filename == "tweets.txt"
    assert text.value.path().read_text(encoding="utf-8") == "".join(f"{line}\n" for line in texts)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    samples = json.loads(saved.value.path().read_text(encoding="utf-8"))["samples"]
    assert [sample["text"] for sample in samples] == texts
    assert {"finish_reason", "tokens", "novel", "seed", "prompt", "model", "mean_logprob"} == samples[0].keys() - {
        "text"
    }
    for button, copied in (
        (page.locator("[data-copy]").nth(1), texts[1]),
        (page.locator("[data-do=copyAll]"), "".join(f"{line}\n" for line in texts)),
    ):
        button.click()
        expect(button).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == copied


def test_looking_inside_any_text(visit: Callable[..., Page], trained: tuple[Config, Bundle]) -> None:
    page = visit()
    open_tab(page, "Look inside")
    frame = page.frame_locator("iframe.inside")
    expect(frame.locator(".chip").nth(2)).to_contain_text("·is")
    expect(frame.locator("h1")).to_have_text("“Mars is”")
    page.get_by_label("Text to read").fill(NASTY)
    page.get_by_role("button", name="Look inside").click()
    expect(frame.locator(".chip")).to_have_count(1 + len(trained[1].tokenizer.encode(NASTY)))
    frame.locator(".head").first.click()
    expect(frame.locator("#map h3")).to_have_text("Layer 1, head 1")
    first = frame.locator("#off").inner_text()
    frame.locator(".head").nth(1).click()
    expect(frame.locator("#map h3")).to_have_text("Layer 1, head 2")
    assert re.search(r"Without layer 1, head 2, .+ of the probability moves", frame.locator("#off").inner_text())
    assert frame.locator("#off").inner_text() != first
    assert page.locator("iframe.inside").get_attribute("sandbox") == "allow-scripts"
    fits = "({scrollHeight, clientHeight, scrollWidth, clientWidth}) =>"
    fits += " scrollHeight <= clientHeight && scrollWidth <= clientWidth"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        inside = page.locator("iframe.inside").element_handle()
        assert inside is not None
        content = inside.content_frame()
        assert content is not None
        for _ in range(100):  # not wait_for_function: to ask again it evaluates a string, which the page forbids
            if fit := content.evaluate(f"({fits})(document.documentElement)"):
                break
            page.wait_for_timeout(50)
        assert fit  # nothing in it scrolls
        assert page.locator("iframe.inside").evaluate("(frame) => frame.offsetHeight") < 4_000
    page.get_by_label("Text to read").fill("word " * 300)
    page.keyboard.press("Enter")
    expect(page.locator("#inside .notice")).to_contain_text("this model can read")


def test_training_shows_a_run_as_it_goes(visit: Callable[..., Page], config: Config) -> None:
    page = visit()
    open_tab(page, "Training")
    expect(page.locator("#training .chart")).to_have_count(2)
    before = page.locator("#training svg title").count()
    with config.paths.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 999, "epoch": 3, "val/loss": 6.0, "val/bits_per_byte": 2.5}) + "\n")
    expect(page.locator("#training svg title")).to_have_count(before + 2, timeout=10_000)


def test_the_tokenizer_works_as_one_types(visit: Callable[..., Page], trained: tuple[Config, Bundle]) -> None:
    page = visit()
    open_tab(page, "Look inside")
    for last in "🚀a 🌙é" * 3:  # one in twenty or more was once lost
        page.get_by_label("Text to read").fill("")
        page.get_by_label("Text to read").press_sequentially(f"a <b> {last}")
        ids = [str(index) for index in trained[1].tokenizer.encode(f"a <b> {last}")]
        expect(page.locator("#chips small")).to_have_text(ids)


def test_the_data_and_what_it_is(visit: Callable[..., Page], config: Config, address: str) -> None:
    page = visit()
    open_tab(page, "Data")
    expect(page.locator("#data .chart")).to_have_count(2)
    rules = page.locator("#data .rules tbody th small").all_inner_texts()
    assert len(rules) >= 10 and all(rules)
    open_tab(page, "About")
    expect(page.locator("#about")).to_contain_text("parody machine")
    expect(page.locator("#about")).to_contain_text("invented posts")
    assert config.paths.root not in page.content() and str(Path(__file__).parents[1]) not in page.content()
    icon = page.request.get(f"{address}/favicon.ico")
    assert icon.ok and icon.headers["content-type"].startswith("image/svg")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_phone_never_scrolls_sideways(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.get_by_role("button", name="Write", exact=True).tap()
    expect(page.locator(".card:not(.writing)")).to_have_count(3)
    expect(page.locator(".card").first).to_be_in_viewport()  # it was scrolled to
    for name in ("Write", "Word by word", "Look inside", "Training", "Data", "About"):
        open_tab(page, name)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, name
    unnamed = (
        "[...document.querySelectorAll('input, textarea, button')].filter((e) => e.offsetParent && !(e.labels?.length"
    )
    unnamed += " || e.textContent.trim() || e.ariaLabel || e.title)).map((e) => e.outerHTML)"
    open_tab(page, "Write")
    assert page.evaluate(unnamed) == []
