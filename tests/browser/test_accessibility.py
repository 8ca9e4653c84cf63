"""axe-core looks at all pages: light and wide, dark and narrow, empty and in use."""

from pathlib import Path
from typing import Any, Literal

import pytest

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import Visit

LIBRARY = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
needs_axe = pytest.mark.skipif(
    not LIBRARY.exists(), reason="needs axe-core: npm ci in tests/browser, or make test"
)
LOOKS: tuple[tuple[Literal["light", "dark"], str, int, int], ...] = (
    ("light", "wide", 1280, 800),
    ("dark", "phone", 390, 844),
)
"""Colours do not depend on the size, and what fits does not depend on the colours."""
RUN = "() => axe.run({resultTypes: ['violations']}).then(found => found.violations)"


async def look(page: Visit, name: str) -> None:
    """Raises AssertionError for what keeps somebody from using it, and for a page wider than its window."""
    for theme, size, width, height in LOOKS:
        await page.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        await page.page.set_viewport_size({"width": width, "height": height})
        await page.picture(f"{name}-{size}-{theme}")
        await page.page.evaluate(LIBRARY.read_text())
        found: list[dict[str, Any]] = await page.page.evaluate(RUN)
        grave = [describe(item) for item in found if item["impact"] in ("serious", "critical")]
        assert not grave, (name, theme, size, grave)
        extent = await page.page.evaluate("() => document.documentElement.scrollWidth")
        assert extent <= width, (name, size)


def describe(violation: dict[str, Any]) -> str:
    nodes = [f"{node['html'][:120]} {node['failureSummary']}" for node in violation["nodes"][:3]]
    return f"{violation['id']}: {nodes}"


@needs_axe
async def test_the_session_page(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(capacity=1))
    page = await visit(place.url, allow=("status of 4",))
    await look(page, "empty")
    await page.start("a red circle moves left on a white background")
    await page.send("a blue square")
    await page.until_applied()
    await page.page.click("#share")
    await page.find("#share-link").wait_for()
    await look(page, "playing")
    viewer = await visit(await page.find("#share-link").input_value())
    await viewer.until_playing()
    await look(viewer, "viewer")
    await viewer.page.goto("about:blank")  # it would play on
    await page.page.click("#help-button")
    await look(page, "help")
    await page.page.keyboard.press("Escape")
    waiting = await visit(place.url)
    await waiting.send("a green triangle")
    await waiting.until_state("queued")
    await look(waiting, "queued")
    await page.end()
    await page.send(" ")
    await page.until_problem()
    await look(page, "problem")


@needs_axe
async def test_the_operator_page(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(capacity=1))
    page = await visit(f"{place.url}/operator")
    await page.find("#stages [data-address]").wait_for()
    await look(page, "empty")
    for _ in range(2):
        await place.anybody.name()
    await page.find("#sessions [data-name]").nth(1).wait_for()
    await look(page, "busy")


@needs_axe
async def test_the_api_reference(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/docs")
    await page.find("#createSession").wait_for()
    await look(page, "docs")


@needs_axe
async def test_the_dialog_for_a_key(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(tenants=("acme",)))
    page = await visit(place.url, allow=("status of 401",))
    await page.find("#key-dialog[open]").wait_for()
    await look(page, "dialog")


@needs_axe
async def test_the_page_with_two_videos(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare")
    await page.page.check("#two")
    await look(page, "compare-empty")
    await page.page.uncheck("#two")
    await page.start("a red circle")
    await page.page.click("#share")
    await page.find("#share-link").wait_for()
    await look(page, "compare-playing")
