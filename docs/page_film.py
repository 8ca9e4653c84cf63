"""Takes docs/images/page.webp, README's moving picture: `python -m docs.page_film`.

Real services with the demo model and a real browser: a prompt, and a switch while it plays. Each picture
stands as long as it stood on the screen. Look at it before you commit it.
"""

import asyncio
import io
import time
from collections.abc import Awaitable
from itertools import pairwise
from pathlib import Path

from PIL import Image
from playwright.async_api import Page, ViewportSize, async_playwright

from benchmarks.web_page import ARGUMENTS, LIMIT_MS, find_browser, served

FILE = Path(__file__).parent / "images/page.webp"
SIZE: ViewportSize = {"width": 1000, "height": 625}
WIDTH = 800
QUALITY = 60
FIRST, SECOND = "a red circle bounces on a white background", "a green triangle moves right, black background"
BEFORE_S, AFTER_S = 4.0, 7.0
"""Of playing: before somebody types the second prompt, and after it was sent."""
INTERVAL_S = 0.125
LAST_MS = 1500


class Film:
    """Screenshots, each with the time of its taking."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._shots: list[tuple[float, bytes]] = []

    async def take(self, during: Awaitable[object]) -> None:
        """Pictures, for as long as that lasts."""
        task = asyncio.ensure_future(during)
        while not task.done():
            taken_s = time.monotonic()
            self._shots.append((taken_s, await self._page.screenshot()))
            await asyncio.sleep(max(0.0, taken_s + INTERVAL_S - time.monotonic()))
        await task

    def write(self, path: Path) -> None:
        times_s = [taken_s for taken_s, _ in self._shots]
        durations = [round(1000 * (after - at)) for at, after in pairwise(times_s)]
        first, *others = [smaller(shot) for _, shot in self._shots]
        first.save(
            path, save_all=True, append_images=others, duration=[*durations, LAST_MS], loop=0,
            quality=QUALITY, method=3,
        )  # fmt: skip


def smaller(shot: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    return picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS)


async def steer(page: Page) -> None:
    await page.wait_for_timeout(1000 * BEFORE_S)
    await page.fill("#prompt", "")
    await page.locator("#prompt").press_sequentially(SECOND, delay=30)
    await page.click("#send")
    await page.wait_for_timeout(1000 * AFTER_S)


async def main() -> None:
    async with served() as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_browser(), args=list(ARGUMENTS))
        page = await browser.new_page(viewport=SIZE, color_scheme="dark")
        page.set_default_timeout(LIMIT_MS)
        await page.goto(url)
        await page.fill("#prompt", FIRST)
        await page.click("#send")
        await page.wait_for_selector("#state[data-state=active]")
        await page.wait_for_timeout(3000)
        film = Film(page)
        await film.take(steer(page))
        await page.click("#end")
        await browser.close()
    film.write(FILE)


if __name__ == "__main__":
    asyncio.run(main())
