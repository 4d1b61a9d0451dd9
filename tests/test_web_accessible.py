"""axe-core finds no fault on any tab of the playground, nor on the attention page."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from config.schema import Config
from inspection.page import attention_page
from model.checkpoint import Bundle
from tests.accessible import faults
from tests.serving import playground_at, playing
from web.tab_inside import FIRST_TEXT

# Gradio still uses what pandas is about to drop.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"),
]
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def address(trained: tuple[Config, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with playing(trained, tmp_path_factory.mktemp("playground") / "root") as found, playground_at(found) as address:
        yield address


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_tab(browser: Browser, address: str, width: int, scheme: Any) -> None:
    viewport: Any = {"width": width, "height": 900}
    page = browser.new_page(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page.goto(address)
    page.get_by_label("Beginning of the tweet").fill("The dog")
    expect(page.locator(".loading:visible")).to_have_count(0)  # Gradio's own signs stand outside of its landmarks
    assert faults(page) == []
    for earlier in (0, 3):
        page.keyboard.press("Enter")
        expect(page.locator("#earlier .card")).to_have_count(earlier)
        expect(page.locator("#cards .card:not(.writing)")).to_have_count(3)
    page.locator("#more .label-wrap").click()
    expect(page.get_by_label("Keep this seed")).to_be_visible()
    assert faults(page) == []
    shown = {
        "Word by word": ".picks",
        "Look inside": "iframe.inside",
        "Training": "#training .chart",
        "Data": "#data .chart",
        "About": "#about .figures",
    }
    for tab, part in shown.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(part).first).to_be_visible()
        assert faults(page) == [], tab
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_attention_page(browser: Browser, trained: tuple[Config, Bundle], width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for text in (FIRST_TEXT, "The dog, the van & a 🚀"):
        page.set_content(attention_page(trained[1], text))
        for place in range(page.locator(".chip").count()):  # each shows other guesses, in other colours
            page.locator(".chip").nth(place).click()
            assert faults(page) == [], (text, place)
    page.close()
