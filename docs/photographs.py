"""Pictures of the attention page and of the playground, in a browser: a part of `python -m docs.figures`."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.schema import Config
from inspection.page import attention_page
from model.checkpoint import Bundle
from utils.files import atomic_write

if TYPE_CHECKING:
    from playwright.sync_api import Page

MAIN = Path(__file__).parents[1] / "main.py"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
WIDTH, HEIGHT = 1280, 720
PROMPT, SEED = "The van", 1
FACTS = "Facts"  # the name of a text in the PNG


def draw(bundle: Bundle, config: Config, folder: Path, *, text: str, facts: dict[str, Any]) -> None:
    """Write page.png, playground_write.png and playground_words.png, if chromium and playwright are installed."""
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        print("chromium or playwright is not installed: page.png, playground_*.png stay as they are", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, served(config) as address:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content(attention_page(bundle, text))
        shoot(page, folder / "page.png", facts | {"text": text}, full_page=True)
        page.goto(address)
        shoot(page, folder / "playground_write.png", facts | write(page))
        shoot(page, folder / "playground_words.png", facts | choose(page))
        browser.close()


@contextmanager
def served(config: Config) -> Iterator[str]:
    """The address of a playground for this model."""
    command = [sys.executable, str(MAIN), "serve", "--paths.root", str(config.paths.root), "--serve.port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = next(filter(None, (re.search(r"http://[\d.]+:\d+", line) for line in server.stdout)))
            yield found[0]
        finally:
            server.terminate()


def write(page: "Page") -> dict[str, Any]:
    """Write tweets; returns the prompt, and the texts with their seeds."""
    page.get_by_label("Beginning of the tweet").fill(PROMPT)
    page.locator("#more .label-wrap").click()
    page.get_by_label("Seed", exact=True).fill(str(SEED))
    page.locator("#more .label-wrap").click()
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator("#cards .card:not(.writing)").nth(4).wait_for()
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    notes = page.locator("#cards .card .notes").all_inner_texts()
    seeds = [int(re.findall(r"seed (\d+)", note)[0]) for note in notes]
    texts = page.locator("#cards .card .text").all_text_contents()
    return {"prompt": PROMPT, "tweets": dict(zip(map(str, seeds), texts, strict=True))}


def choose(page: "Page") -> dict[str, Any]:
    """The view in which words are chosen by hand."""
    page.get_by_role("tab", name="Word by word", exact=True).click()
    page.locator(".picks button[data-token]").first.wait_for()
    return {"prompt": PROMPT, "choices": page.locator(".picks button[data-token]").all_inner_texts()}


def shoot(page: "Page", path: Path, facts: dict[str, Any], *, full_page: bool = False) -> None:
    """Write what the browser shows, with the facts in it."""
    page.wait_for_timeout(500)  # colours fade in
    shot = page.screenshot(type="png", full_page=full_page)
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    found = PngInfo()
    found.add_itxt(FACTS, json.dumps(facts, ensure_ascii=False))
    with atomic_write(path) as temporary:
        Image.open(BytesIO(shot)).convert("RGB").save(temporary, format="png", pnginfo=found, optimize=True)
