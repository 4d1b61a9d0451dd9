"""The page and the picture: what they show is what the model computes, and the page works in a real browser."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, expect

from config.cli import run_command
from config.schema import Config, UserError
from inspection.attention import attention_weights, logits_without, read
from inspection.page import GUESSES, UNSEEN, attention_page, token_label
from inspection.picture import drawable, picture
from model.checkpoint import Bundle
from model.tokenizer import END, load_tokenizer
from model.transformer import GPT

PROMPT = "The dog is </script><b>not</b> {{data}} a 🚀 van"
T, L, H = 21, 2, 4  # tokens of PROMPT with the end mark, and the shape of `deep`


@pytest.fixture(scope="session")
def deep(trained: tuple[Config, Bundle]) -> Bundle:
    """A random model over the trained one's vocabulary: deeper, with weights so large that every head matters."""
    torch.manual_seed(1)
    shape = replace(trained[1].model.config, n_layer=L, n_head=H, n_embd=32)
    model = GPT(shape, trained[1].vocabulary.vocab_size).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return replace(trained[1], model=model, info={})


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def chances_of(bundle: Bundle, ids: list[int], at: int) -> torch.Tensor:
    """Probabilities of all of GPT-2's tokens after the token at a place, (50257,)."""
    with torch.no_grad():
        return bundle.vocabulary.log_probs(bundle.model(bundle.vocabulary.from_gpt2(ids)[None]))[0, at].exp()


@pytest.mark.parametrize("at", [0, 7, T - 1])
def test_guesses_are_the_models_probabilities(deep: Bundle, at: int) -> None:
    model = data_of(attention_page(deep, PROMPT))["models"][0]
    ids = read(deep, PROMPT)
    chances = chances_of(deep, ids, at)
    own = ~deep.vocabulary.is_shared[deep.vocabulary.id_of]
    expected = {index: float(chances[index]) for index in own.nonzero()[:, 0].tolist()}
    assert model["unseen"][at] / 10_000 == pytest.approx(float(chances[~own].sum()), abs=1e-4)
    best = sorted(expected, key=lambda index: -expected[index])[:GUESSES]
    assert [index for index, _ in model["guesses"][at]] == best
    assert [share / 10_000 for _, share in model["guesses"][at]] == pytest.approx(
        [expected[index] for index in best], abs=1e-4
    )
    assert model["lens"][L][at] == model["guesses"][at][: len(model["lens"][L][at])]
    if at:
        assert 2 ** -model["surprise"][at] == pytest.approx(float(chances_of(deep, ids, at - 1)[ids[at]]), rel=1e-3)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 3)])
def test_switching_a_head_off_moves_the_probability_that_it_says(deep: Bundle, layer: int, head: int) -> None:
    model = data_of(attention_page(deep, PROMPT))["models"][0]
    ids = read(deep, PROMPT)
    off, rows = model["off"][layer][head], deep.vocabulary.from_gpt2(ids)
    after = deep.vocabulary.log_probs(logits_without(deep.model, rows, layer=layer, head=head)).exp()
    for at in range(T):
        before = chances_of(deep, ids, at)
        known = {index: place for place, (index, _) in enumerate(model["guesses"][at])}
        for index, place in known.items():
            assert off["shares"][at][place] / 10_000 == pytest.approx(float(after[at, index]), abs=1e-4)
        if at < T - 1:
            assert off["real"][at] / 10_000 == pytest.approx(float(after[at, ids[at + 1]]), abs=1e-4)
        own = ~deep.vocabulary.is_shared[deep.vocabulary.id_of]
        moved = (after[at] - before)[own].abs().sum() + (after[at] - before)[~own].sum().abs()
        assert off["moved"][at] / 10_000 == pytest.approx(float(moved) / 2, abs=2e-4)
        index, low, high = off["up"][at]
        if index != UNSEEN:
            gain = (after[at] - before)[own].max()
            assert (high - low) / 10_000 == pytest.approx(float(gain), abs=2e-4)
            assert float((after[at] - before)[index]) == pytest.approx(float(gain), abs=1e-6)


def test_weights_are_kept_to_the_half_percent(deep: Bundle) -> None:
    packed = base64.b64decode(data_of(attention_page(deep, PROMPT))["models"][0]["weights"])
    levels = torch.tensor(list(packed)).view(L, H, T * (T + 1) // 2) / 255
    weights = attention_weights(deep.model, deep.vocabulary.from_gpt2(read(deep, PROMPT)))
    place = 0
    for row in range(T):
        torch.testing.assert_close(
            levels[:, :, place : place + row + 1], weights[:, :, row, : row + 1], atol=2e-3, rtol=0
        )
        place += row + 1


def test_no_text_gets_into_the_markup(deep: Bundle) -> None:
    page, plain = attention_page(deep, PROMPT), attention_page(deep, "a")
    assert page.count("<") == plain.count("<") and page.count("</script>") == 2
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "".join(token["text"] for token in data_of(page)["tokens"][1:9]) == "The·dog·is·</script><b>"


def test_a_text_that_fills_the_context_still_makes_a_small_page(trained: tuple[Config, Bundle]) -> None:
    bundle = trained[1]
    shape = replace(bundle.model.config, n_layer=4, n_head=4)
    usual = replace(bundle, model=GPT(shape, bundle.vocabulary.vocab_size).eval())
    page = attention_page(usual, "a" + " a" * (shape.block_size - 2))
    assert len(data_of(page)["tokens"]) == shape.block_size
    assert len(page.encode()) < 400_000
    assert len(attention_page(usual, "a" + " a" * 19).encode()) < 100_000


@pytest.mark.parametrize("prompt", ["", "Mars", "🚀"])
def test_short_texts_make_a_page(deep: Bundle, prompt: str) -> None:
    data = data_of(attention_page(deep, prompt))
    assert [token["id"] for token in data["tokens"]] == read(deep, prompt)
    assert data["models"][0]["surprise"][0] is None


def test_both_models_must_have_room(deep: Bundle, trained: tuple[Config, Bundle]) -> None:
    short = replace(trained[1], model=GPT(replace(trained[1].model.config, block_size=4), 10))
    with pytest.raises(UserError, match="this model can read 3"):
        attention_page(deep, PROMPT, short)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" is", ["·is"]),
        ("\n", ["↵"]),
        ("🚀", ["‹F0 9F›", "‹9A›", "‹80›"]),
        ("\ufe0f", ["‹EF B8 8F›"]),  # asks for an emoji's colours: a character, but nothing to see
        ("\x07", ["‹07›"]),
        ("<b>", ["<", "b", ">"]),
    ],
)
def test_tokens_can_be_read(text: str, expected: list[str]) -> None:
    tokenizer = load_tokenizer()
    assert [token_label(tokenizer, index) for index in tokenizer.encode(text)] == expected


def test_every_token_has_a_label() -> None:
    tokenizer = load_tokenizer()
    assert token_label(tokenizer, END) == "⟨end⟩"
    assert all(token_label(tokenizer, index).isprintable() and token_label(tokenizer, index) for index in range(END))


def test_the_picture_shows_every_head_and_the_means(deep: Bundle) -> None:
    ids = read(deep, PROMPT)
    weights = attention_weights(deep.model, deep.vocabulary.from_gpt2(ids))
    drawn: Figure = picture(weights, [token_label(deep.tokenizer, index) for index in ids])
    maps = [axes for axes in drawn.axes if axes.images]
    assert len(maps) == L * (H + 1)
    for layer in range(L):
        for head in range(H + 1):
            expected = weights[layer, head] if head < H else weights[layer].mean(0)
            shown = torch.as_tensor(maps[layer * (H + 1) + head].images[0].get_array())
            torch.testing.assert_close(shown.float(), expected)
    names = [text.get_text() for text in maps[0].get_yticklabels()]
    assert names[:4] == ["⟨end⟩", "The", "·dog", "·is"] and len(names) == T


def test_the_picture_writes_only_what_its_font_has() -> None:
    assert drawable("·is$") == "·is$"
    assert drawable("🚀") == "‹1F680›"
    assert len(drawable("x" * 50)) == 12


def test_the_command_writes_page_and_picture(
    trained: tuple[Config, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained[0].paths.best_model)
    flags = ["--paths.root", str(tmp_path), "--paths.checkpoint", checkpoint, "--machine.device", "cpu"]
    assert run_command("attention", ["Mars 🚀 costs $1 $x$", *flags, "--attention.against", checkpoint]) == 0
    assert [model["name"] for model in data_of((tmp_path / "results/attention.html").read_text("utf-8"))["models"]] == [
        checkpoint,
        checkpoint,
    ]
    assert (tmp_path / "results/attention_map.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "no text to look at"), (["a" + " a" * 200], "the text has 201 tokens")]
)
def test_what_cannot_be_shown_gets_one_line(
    trained: tuple[Config, Bundle],
    tmp_path: Path,
    prompt: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--paths.root", str(tmp_path), "--paths.checkpoint", str(trained[0].paths.best_model)]
    assert run_command("attention", [*prompt, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


# ---- in a real browser ----------------------------------------------------------------------------------------------


def open_page(browser: Browser, path: Path, html: str, **settings: Any) -> tuple[Page, list[str]]:
    """The page opened from a file, and a list that gathers every request it makes and every complaint."""
    path.write_text(html, encoding="utf-8")
    page = browser.new_context(**settings).new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    page.goto(path.as_uri())
    heard.remove(path.as_uri())
    return page, heard


def percent(weight: float) -> int:
    return round(100 * weight)


def said(page: Page, section: str = "#map") -> str:
    return page.locator(f"{section} .readout").first.inner_text()


@pytest.mark.browser
def test_the_page_shows_the_tokens_and_asks_nobody(browser: Browser, deep: Bundle, tmp_path: Path) -> None:
    page, heard = open_page(browser, tmp_path / "page.html", attention_page(deep, PROMPT))
    chips = page.locator(".chip")
    expect(chips).to_have_count(T)
    texts = [text.split("\n")[0] for text in chips.all_inner_texts()]
    assert texts == [token_label(deep.tokenizer, index) for index in read(deep, PROMPT)]
    assert page.locator("b:not([class])").count() == page.locator(".head").count()  # the prompt made no element
    expect(page.locator("#bytes")).to_be_visible()
    chips.nth(3).click()
    assert "·is" in said(page, "#tokens") and "bits of surprise" in said(page, "#tokens")
    assert page.locator(".here").all_inner_texts() == ["·is"] * page.locator(".here").count()
    assert heard == []


@pytest.mark.browser
def test_hovering_shows_the_weight_and_another_head_another_map(browser: Browser, deep: Bundle, tmp_path: Path) -> None:
    page, heard = open_page(browser, tmp_path / "page.html", attention_page(deep, PROMPT))
    weights = attention_weights(deep.model, deep.vocabulary.from_gpt2(read(deep, PROMPT)))
    maps = []
    for layer in range(L):
        for head in range(H + 1):
            page.locator(".head").nth(layer * (H + 1) + head).click()
            page.locator('[data-cell="3,1"]').hover()
            of_head = weights[layer, head] if head < H else weights[layer].mean(0)
            shown = re.search(r"·is looks at The with (.+)% of its attention", said(page))
            assert shown, said(page)
            value = float(shown[1].replace("under ", ""))
            assert value == pytest.approx(100 * float(of_head[3, 1]), abs=0.8)
            maps.append(page.locator("#map svg").inner_html())
    assert len(set(maps)) == L * (H + 1)
    assert heard == []


@pytest.mark.browser
def test_keys_move_among_tokens_heads_and_cells(browser: Browser, deep: Bundle, tmp_path: Path) -> None:
    page, heard = open_page(browser, tmp_path / "page.html", attention_page(deep, PROMPT))
    page.keyboard.press("Tab")
    for _ in range(T - 4):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent").startswith("·is")
    page.keyboard.press("Tab")  # the chosen head
    page.locator(".head").first.click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator("#map h3").inner_text() == "Layer 2, head 2"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert " looks at ·dog with " in said(page)
    page.keyboard.press("ArrowUp")
    assert said(page).startswith("·is looks at ·dog with ")
    assert heard == []


@pytest.mark.browser
def test_a_head_switched_off_is_told_in_numbers(browser: Browser, deep: Bundle, tmp_path: Path) -> None:
    page, _ = open_page(browser, tmp_path / "page.html", attention_page(deep, PROMPT))
    page.locator(".chip").nth(5).click()
    page.locator(".head").nth(H + 1 + 2).click()
    data = data_of(attention_page(deep, PROMPT))["models"][0]
    moved = data["off"][1][2]["moved"][5] / 100
    shown = re.search(r"Without layer 2, head 3, ([\d.]+)% of the probability moves", page.locator("#off").inner_text())
    assert shown and float(shown[1]) == pytest.approx(moved, abs=0.5)
    expect(page.locator("#off .bars .real")).to_have_count(1)
    page.locator(".head").nth(H).click()
    expect(page.locator("#off")).to_contain_text("pick one that is not a mean")


@pytest.mark.browser
def test_lines_show_the_same_weights(browser: Browser, deep: Bundle, tmp_path: Path) -> None:
    page, heard = open_page(browser, tmp_path / "page.html", attention_page(deep, PROMPT))
    page.locator(".chip").nth(3).click()
    page.locator(".head").first.click()
    page.get_by_role("button", name="Lines").click()
    weights = attention_weights(deep.model, deep.vocabulary.from_gpt2(read(deep, PROMPT)))[0, 0]
    assert int((weights > 0.022).sum()) <= page.locator("#map line").count() <= int((weights > 0.018).sum())
    page.locator("#map rect.hit").nth(2 * 1 + 1).hover()  # on the right: The
    assert "·is looks at The with" in said(page)
    best = float(weights[5].max())
    page.locator("#map rect.hit").nth(2 * 5).hover()
    assert abs(percent(best) - int(re.findall(r"\((\d+)", said(page))[0])) <= 1
    assert heard == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_models_at_phone_width_by_touch(
    browser: Browser, deep: Bundle, trained: tuple[Config, Bundle], tmp_path: Path, scheme: Any
) -> None:
    html = attention_page(deep, PROMPT, trained[1], names=("<i>teacher</i>", "student"))
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": scheme}
    page, heard = open_page(browser, tmp_path / "page.html", html, **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    names = page.locator("#map h3").all_inner_texts()
    assert names[0] == "<i>teacher</i>" and names[2] == "student"
    page.locator("#map .drawing").nth(1).locator('[data-cell="3,1"]').tap()
    assert "looks at The with" in page.locator("#map .readout").nth(1).inner_text()
    pressed = page.locator('.chip[aria-pressed="true"]').all_inner_texts()
    assert len(pressed) == 2 and all(text.startswith("·is") for text in pressed)  # the page went there, in both models
    assert heard == []
