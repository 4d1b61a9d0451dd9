"""axe-core's verdict on a page: what people who see badly, or use no mouse, can't read or reach."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def faults(page: Page) -> list[str]:
    """A line for each element that breaks a rule of axe-core, the contrast of 4.5:1 for text among them."""
    # axe-core judges a background only when nothing moves
    page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished.catch(() => {})))")
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]
