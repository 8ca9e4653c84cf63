"""Takes docs/images/page.png and operator.png: `python -m docs.page_pictures`.

Real services with the demo model and a real browser, for a minute. Look at them before you commit them.
"""

import asyncio
from pathlib import Path

from playwright.async_api import Browser, ViewportSize, async_playwright

from benchmarks.web_page import ARGUMENTS, LIMIT_MS, find_browser, served

FOLDER = Path(__file__).parent / "images"
SIZE: ViewportSize = {"width": 1280, "height": 800}
FIRST, SECOND = "a red circle bounces on a white background", "a green triangle moves right, black background"


async def page_picture(browser: Browser, url: str) -> None:
    """Just after a prompt switch; the operator's view meanwhile."""
    context = await browser.new_context(viewport=SIZE, color_scheme="dark")
    context.set_default_timeout(LIMIT_MS)
    page = await context.new_page()
    await page.goto(url)
    await page.fill("#prompt", FIRST)
    await page.click("#send")
    await page.wait_for_selector("#state[data-state=active]")
    await page.wait_for_timeout(9000)
    await page.fill("#prompt", SECOND)
    await page.click("#send")
    await page.wait_for_selector("[data-request-id][data-state=applied]")
    await page.wait_for_timeout(3000)
    await page.screenshot(path=FOLDER / "page.png")
    await operator_picture(browser, url)
    await page.click("#end")
    await context.close()


async def operator_picture(browser: Browser, url: str) -> None:
    context = await browser.new_context(viewport=SIZE, color_scheme="light")
    page = await context.new_page()
    await page.goto(f"{url}operator")
    await page.wait_for_selector("#sessions [data-name]")
    await page.wait_for_timeout(6000)  # ticks for the sparkline
    await page.screenshot(path=FOLDER / "operator.png")
    await context.close()


async def main() -> None:
    async with served() as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_browser(), args=list(ARGUMENTS))
        await page_picture(browser, url)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
